"""What callers may give as `make_response_type`: its JSON schema, and how text becomes its type."""

from __future__ import annotations

import copy
import enum
import functools
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, get_args

import msgspec

from foundry_api.structured.engine_schema import resolve_ref
from foundry_api.structured.find_json import decode_json
from foundry_api.structured.isolation import MAX_PATTERN_S, PatternCosts, validate_in_process
from foundry_api.structured.refusal import ValidationFailed, ValidationTimeout
from foundry_api.structured.type_marks import (
    UnknownMark,
    make_path_schema,
    needs_pydantic,
    parse_path,
)
from foundry_api.types.errors import GrammarError, InvalidRequest
from foundry_api.types.values import format_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foundry_api.structured.validation import SchemaValidator

__all__ = ["ResponseType", "make_response_type", "require_tags"]


def require_tags(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema whose unions have their tags required in every branch."""
    if not any(True for _ in _iter_unions(schema)):
        return schema
    root = copy.deepcopy(schema)
    for union, branches in _iter_unions(root):
        named = union.get("discriminator")
        tag = cast("Any", named).get("propertyName") if isinstance(named, dict) else None
        objects = [
            branch_object
            for branch_object in (_resolve_branch(root, branch) for branch in branches)
            if branch_object
        ]
        for branch in objects if len(objects) > 1 else ():
            properties = branch["properties"]
            tags = [
                name
                for name, value in properties.items()
                if name == tag or _has_single_value(value)
            ]
            required = branch.get("required", [])
            if missing := [name for name in tags if name not in required]:
                branch["required"] = [*missing, *required]
    return root


def _has_single_value(schema: Any) -> bool:
    """Whether a member can have but one value."""
    if not isinstance(schema, dict):
        return False
    members = cast("dict[str, Any]", schema)
    listed: Any = members.get("enum", ())
    return "const" in members or len(listed) == 1


def _resolve_branch(root: dict[str, Any], branch: Any) -> dict[str, Any] | None:
    """The object that a branch describes; None if it is none with members of its own."""
    if isinstance(branch, dict) and "$ref" in branch:
        try:
            branch = resolve_ref(root, cast("dict[str, Any]", branch)["$ref"], "$")
        except GrammarError:
            return None  # told where the schema is read for the engine
    if not isinstance(branch, dict):
        return None
    members = cast("dict[str, Any]", branch)
    return members if isinstance(members.get("properties"), dict) else None


def _iter_unions(value: Any) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        for name in ("anyOf", "oneOf"):
            if isinstance(branches := members.get(name), list):
                yield members, branches
        for item in members.values():
            yield from _iter_unions(item)
    elif isinstance(value, list):
        items: list[Any] = value  # pyright: ignore[reportUnknownVariableType] # of JSON
        for item in items:
            yield from _iter_unions(item)


T = TypeVar("T")

MAX_CACHED_SCHEMAS = 64
"""A schema costs milliseconds to check, and the requests of a program have few of them."""

SLOW_FROM_CHARACTERS = 4096
"""Characters of an answer that are validated without leaving the event loop."""

MAX_STEPS = 20_000
"""Keywords of a schema that are looked at before a process of its own goes on."""

MAX_VALIDATION_S = 10.0
"""Seconds for such a process."""

_UNENCODABLE = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)


class ResponseType(msgspec.Struct, Generic[T], frozen=True):
    """A type of answers.

    Attributes:
        schema: Its JSON schema.
        decode: Makes JSON text into a value of the type; raises `ValidationFailed`.
        slow_from: Length of a text from which on that may take long; None if it never does.
    """

    schema: dict[str, Any]
    decode: Callable[[str], T]
    slow_from: int | None = None


def make_response_type(model: Any) -> ResponseType[Any]:
    """What a caller's type or schema asks of an answer.

    Args:
        model: A pydantic model or `TypeAdapter`, a msgspec Struct, a dataclass, a TypedDict,
            anything made of them such as `list[Person]`, a plain type, or a JSON schema, also as
            text or in the forms of OpenAI's `response_format`. Bounds may be written as
            `Annotated[int, Field(ge=1)]`, with `annotated_types` or with `msgspec.Meta`.

    Raises:
        InvalidRequest: It is none of these, or `Annotated` has a mark that nothing keeps to.
    """
    try:
        if isinstance(model, str | bytes | bytearray):
            return _from_schema(_parse_schema_text(model))
        if isinstance(model, Mapping):
            return _from_schema(to_plain_schema(unwrap_schema(cast("Mapping[str, Any]", model))))
    except RecursionError as error:
        raise InvalidRequest(
            "response_model is nested too deeply, or refers to itself without end",
            field="response_model",
            hint="Describe parts of it once, under $defs, and refer to them.",
        ) from error
    try:
        if needs_pydantic(model) or _is_pydantic_type(model):
            return _from_pydantic(model)
        return _from_type(model)
    except (TypeError, NameError, msgspec.MsgspecError) as error:
        # A dataclass may hold one of pydantic's models.
        if sys.modules.get("pydantic") and not isinstance(error, UnknownMark):
            return _from_pydantic(model)
        raise _make_type_error(model, error) from error


def _parse_schema_text(text: str | bytes | bytearray) -> dict[str, Any]:
    """A schema that was given as JSON text."""
    try:
        schema = msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError) as error:
        raise _make_type_error(text, error) from error
    if not isinstance(schema, dict):
        raise _make_type_error(text, TypeError("it is a text whose JSON is no object"))
    return dict(unwrap_schema(cast("dict[str, Any]", schema)))


def unwrap_schema(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema without the forms in which OpenAI's APIs take it."""
    match schema:
        case {"type": "json_schema", "json_schema": Mapping() as inner}:  # pyright: ignore[reportUnknownVariableType] # of JSON
            return unwrap_schema(cast("Mapping[str, Any]", inner))
        case {"schema": Mapping() as inner} if schema.keys() <= _WRAPPER_KEYS and "name" in schema:  # pyright: ignore[reportUnknownVariableType] # of JSON
            return cast("Mapping[str, Any]", inner)
        case _:
            return schema


_WRAPPER_KEYS = frozenset({"description", "name", "schema", "strict", "type"})


def to_plain_schema(value: Any, path: str = "$") -> Any:
    """A schema of JSON's own types, with the values of enumerations.

    Raises:
        InvalidRequest: Something in it has no JSON; the message names the place.
    """
    if isinstance(value, enum.Enum):
        return to_plain_schema(value.value, path)
    if isinstance(value, enum.EnumMeta):
        members = cast("Iterable[Any]", value)
        return [to_plain_schema(item, f"{path}[{index}]") for index, item in enumerate(members)]
    if isinstance(value, Mapping):
        named: Mapping[Any, Any] = value  # pyright: ignore[reportUnknownVariableType] # of JSON
        if invalid_keys := [key for key in named if not isinstance(key, str)]:
            raise _make_not_json_error(path, f"has the key {invalid_keys[0]!r}, which is no text")
        return {str(key): to_plain_schema(item, f"{path}.{key}") for key, item in named.items()}
    if isinstance(value, list | tuple):
        items = cast("list[Any]", value)
        return [to_plain_schema(item, f"{path}[{index}]") for index, item in enumerate(items)]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise _make_not_json_error(path, f"is {format_value(value)}, which has no JSON")


def _make_not_json_error(path: str, problem: str) -> InvalidRequest:
    return InvalidRequest(
        f"response_model is no JSON schema: {path} {problem}", field="response_model"
    )


def _from_schema(schema: dict[str, Any]) -> ResponseType[Any]:
    try:
        written = msgspec.json.encode(schema)
        is_json = msgspec.json.decode(written) == schema
    except _UNENCODABLE:
        is_json, written = False, b""
    return _from_json(written) if is_json else _make_schema_type(schema)


@functools.lru_cache(MAX_CACHED_SCHEMAS)
def _from_json(schema: bytes) -> ResponseType[Any]:
    return _make_schema_type(msgspec.json.decode(schema))


def _make_schema_type(schema: dict[str, Any]) -> ResponseType[Any]:
    # jsonschema takes a twelfth of a second to import, which callers with types do not need.
    from foundry_api.structured.engine_schema import make_engine_schema  # noqa: PLC0415
    from foundry_api.structured.validation import SchemaValidator  # noqa: PLC0415

    validator = SchemaValidator(schema)
    patterns = PatternCosts(schema)
    make_engine_schema(schema)  # a reference that leads nowhere is an error on every generation

    def decode(text: str) -> Any:
        value = decode_json(text)
        if errors := _find_errors(validator, patterns, schema, value):
            raise ValidationFailed(*errors)
        return value

    slow_from = 0 if patterns or _may_revisit_values(schema) else SLOW_FROM_CHARACTERS
    return ResponseType(require_tags(schema), decode, slow_from)


def _find_errors(
    validator: SchemaValidator, patterns: PatternCosts, schema: dict[str, Any], value: Any
) -> list[str]:
    """What is wrong with a value; in a process of its own where that may take long."""
    if not patterns.may_take_long(value):
        try:
            return validator.find_errors(value, max_steps=MAX_STEPS)
        except ValidationTimeout:
            pass
    return validate_in_process(schema, json.dumps(value), MAX_VALIDATION_S)


def _may_revisit_values(schema: dict[str, Any]) -> bool:
    """Whether a schema may look at the same value again and again: alternatives in a recursion."""
    written = msgspec.json.encode(schema)
    return b'"$ref"' in written and (b'"anyOf"' in written or b'"oneOf"' in written)


def _from_type(model: type[T]) -> ResponseType[T]:
    decoder = msgspec.json.Decoder(model, dec_hook=parse_path)
    schema = msgspec.json.schema(model, schema_hook=make_path_schema)
    patterns = PatternCosts(schema)

    def decode(text: str) -> T:
        _check_pattern_time(patterns, schema, text)
        try:
            return decoder.decode(text)
        except msgspec.ValidationError as error:
            raise ValidationFailed(_path_prefixed(str(error))) from error
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValidationFailed(f"the answer cannot be read: {error}") from error

    return ResponseType(require_tags(schema), decode, 0 if patterns else None)


def _check_pattern_time(patterns: PatternCosts, schema: dict[str, Any], text: str) -> None:
    """See that a library that keeps to patterns by itself will be done with a text soon.

    Raises:
        ValidationTimeout: It would not.
    """
    if patterns and patterns.may_take_long(decode_json(text)):
        validate_in_process(schema, text, MAX_PATTERN_S)


def _path_prefixed(message: str) -> str:
    """As all other errors have it: `$.age: Expected int, got str`."""
    problem, separator, path = message.replace("`", "").rpartition(" - at ")
    return f"{path}: {problem}" if separator else f"$: {path}"


def _from_pydantic(model: Any) -> ResponseType[Any]:
    from foundry_api.structured.pydantic_types import (  # noqa: PLC0415 - the caller's type is made of it
        PydanticType,
        PydanticUserError,
        PydanticValidationFailed,
    )

    try:
        pydantic_type = PydanticType(model)
    except (PydanticUserError, NameError, TypeError) as error:
        raise _make_type_error(model, error) from error

    # Its own expressions take linear time; those of Python, which may be asked for, do not.
    schema = pydantic_type.schema
    patterns = PatternCosts(schema if pydantic_type.matches_with_python else {})

    def decode(text: str) -> Any:
        _check_pattern_time(patterns, schema, text)
        try:
            return pydantic_type.decode(text)
        except PydanticValidationFailed as error:
            raise ValidationFailed(
                *(f"{path}: {message}" for path, message in error.errors)
            ) from error

    return ResponseType(require_tags(schema), decode, 0 if patterns else None)


def _is_pydantic_type(model: Any) -> bool:
    marks = ("__pydantic_validator__", "__get_pydantic_core_schema__")
    if (pydantic := sys.modules.get("pydantic")) is None:
        return False
    return (
        isinstance(model, pydantic.TypeAdapter)
        or any(hasattr(model, mark) for mark in marks)
        or any(map(_is_pydantic_type, get_args(model)))
    )


def _make_type_error(model: object, error: Exception) -> InvalidRequest:
    # pydantic adds advice for its own users, and a link.
    reason = str(error).partition("\n")[0].partition(". Set `")[0]
    return InvalidRequest(
        f"response_model is {model!r}, which has no JSON schema: {reason}",
        field="response_model",
        hint="Give a pydantic model, a msgspec Struct, a dataclass, a TypedDict or a schema.",
    )
