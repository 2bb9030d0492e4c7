"""What callers may give as `response_model`: its JSON schema, and how text becomes its type."""

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

from foundry_api.structured.engine_schema import target
from foundry_api.structured.find_json import json_value
from foundry_api.structured.isolation import MAX_PATTERN_S, CostlyPatterns, errors_apart
from foundry_api.structured.refusal import Refused, TookTooLong
from foundry_api.structured.type_marks import UnknownMark, needs_pydantic, path_of, path_schema
from foundry_api.types.errors import GrammarError, InvalidRequest
from foundry_api.types.values import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foundry_api.structured.validation import SchemaValidator

__all__ = ["ResponseModel", "response_model", "with_tags_required"]


def with_tags_required(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema whose unions have their tags required in every branch."""
    if not any(True for _ in _unions(schema)):
        return schema
    root = copy.deepcopy(schema)
    for union, branches in _unions(root):
        named = union.get("discriminator")
        tag = cast("Any", named).get("propertyName") if isinstance(named, dict) else None
        objects = [each for each in (_resolved(root, branch) for branch in branches) if each]
        for branch in objects if len(objects) > 1 else ():
            properties = branch["properties"]
            tags = [name for name, value in properties.items() if name == tag or _is_fixed(value)]
            required = branch.get("required", [])
            if missing := [name for name in tags if name not in required]:
                branch["required"] = [*missing, *required]
    return root


def _is_fixed(schema: Any) -> bool:
    """Whether a member can have but one value."""
    if not isinstance(schema, dict):
        return False
    members = cast("dict[str, Any]", schema)
    listed: Any = members.get("enum", ())
    return "const" in members or len(listed) == 1


def _resolved(root: dict[str, Any], branch: Any) -> dict[str, Any] | None:
    """The object that a branch describes; None if it is none with members of its own."""
    if isinstance(branch, dict) and "$ref" in branch:
        try:
            branch = target(root, cast("dict[str, Any]", branch)["$ref"], "$")
        except GrammarError:
            return None  # told where the schema is read for the engine
    if not isinstance(branch, dict):
        return None
    members = cast("dict[str, Any]", branch)
    return members if isinstance(members.get("properties"), dict) else None


def _unions(value: Any) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        for name in ("anyOf", "oneOf"):
            if isinstance(branches := members.get(name), list):
                yield members, branches
        for each in members.values():
            yield from _unions(each)
    elif isinstance(value, list):
        items: list[Any] = value  # pyright: ignore[reportUnknownVariableType] # of JSON
        for each in items:
            yield from _unions(each)


T = TypeVar("T")

KEPT_SCHEMAS = 64
"""A schema costs milliseconds to check, and the requests of a program have few of them."""

SLOW_FROM = 4096
"""Characters of an answer that are validated without leaving the event loop."""

MAX_STEPS = 20_000
"""Keywords of a schema that are looked at before a process of its own goes on."""

MAX_VALIDATION_S = 10.0
"""Seconds for such a process."""

_UNENCODABLE = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)


class ResponseModel(msgspec.Struct, Generic[T], frozen=True):
    """A type of answers.

    Attributes:
        schema: Its JSON schema.
        decode: Makes JSON text into a value of the type; raises `Refused`.
        slow_from: Length of a text from which on that may take long; None if it never does.
    """

    schema: dict[str, Any]
    decode: Callable[[str], T]
    slow_from: int | None = None


def response_model(model: Any) -> ResponseModel[Any]:
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
            return _of_schema(_from_text(model))
        if isinstance(model, Mapping):
            return _of_schema(plain_schema(unwrapped(cast("Mapping[str, Any]", model))))
    except RecursionError as error:
        raise InvalidRequest(
            "response_model is nested too deeply, or refers to itself without end",
            field="response_model",
            hint="Describe parts of it once, under $defs, and refer to them.",
        ) from error
    try:
        if needs_pydantic(model) or _is_of_pydantic(model):
            return _of_pydantic(model)
        return _of_type(model)
    except (TypeError, NameError, msgspec.MsgspecError) as error:
        # A dataclass may hold one of pydantic's models.
        if sys.modules.get("pydantic") and not isinstance(error, UnknownMark):
            return _of_pydantic(model)
        raise _not_a_model(model, error) from error


def _from_text(text: str | bytes | bytearray) -> dict[str, Any]:
    """A schema that was given as JSON text."""
    try:
        schema = msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError) as error:
        raise _not_a_model(text, error) from error
    if not isinstance(schema, dict):
        raise _not_a_model(text, TypeError("it is a text whose JSON is no object"))
    return dict(unwrapped(cast("dict[str, Any]", schema)))


def unwrapped(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema without the forms in which OpenAI's APIs take it."""
    match schema:
        case {"type": "json_schema", "json_schema": Mapping() as inner}:  # pyright: ignore[reportUnknownVariableType] # of JSON
            return unwrapped(cast("Mapping[str, Any]", inner))
        case {"schema": Mapping() as inner} if schema.keys() <= _WRAPPING and "name" in schema:  # pyright: ignore[reportUnknownVariableType] # of JSON
            return cast("Mapping[str, Any]", inner)
        case _:
            return schema


_WRAPPING = frozenset({"description", "name", "schema", "strict", "type"})


def plain_schema(value: Any, path: str = "$") -> Any:
    """A schema of JSON's own types, with the values of enumerations.

    Raises:
        InvalidRequest: Something in it has no JSON; the message names the place.
    """
    if isinstance(value, enum.Enum):
        return plain_schema(value.value, path)
    if isinstance(value, enum.EnumMeta):
        members = cast("Iterable[Any]", value)
        return [plain_schema(each, f"{path}[{index}]") for index, each in enumerate(members)]
    if isinstance(value, Mapping):
        named: Mapping[Any, Any] = value  # pyright: ignore[reportUnknownVariableType] # of JSON
        if wrong := [key for key in named if not isinstance(key, str)]:
            raise _not_json(path, f"has the key {wrong[0]!r}, which is no text")
        return {str(key): plain_schema(each, f"{path}.{key}") for key, each in named.items()}
    if isinstance(value, list | tuple):
        items = cast("list[Any]", value)
        return [plain_schema(each, f"{path}[{index}]") for index, each in enumerate(items)]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise _not_json(path, f"is {shown(value)}, which has no JSON")


def _not_json(path: str, what: str) -> InvalidRequest:
    return InvalidRequest(
        f"response_model is no JSON schema: {path} {what}", field="response_model"
    )


def _of_schema(schema: dict[str, Any]) -> ResponseModel[Any]:
    try:
        written = msgspec.json.encode(schema)
        is_json = msgspec.json.decode(written) == schema
    except _UNENCODABLE:
        is_json, written = False, b""
    return _of_json(written) if is_json else _checked(schema)


@functools.lru_cache(KEPT_SCHEMAS)
def _of_json(schema: bytes) -> ResponseModel[Any]:
    return _checked(msgspec.json.decode(schema))


def _checked(schema: dict[str, Any]) -> ResponseModel[Any]:
    # jsonschema takes a twelfth of a second to import, which callers with types do not need.
    from foundry_api.structured.engine_schema import engine_schema  # noqa: PLC0415
    from foundry_api.structured.validation import SchemaValidator  # noqa: PLC0415

    validator = SchemaValidator(schema)
    patterns = CostlyPatterns(schema)
    engine_schema(schema)  # a reference that leads nowhere is an error on every generation

    def decode(text: str) -> Any:
        value = json_value(text)
        if errors := _errors(validator, patterns, schema, value):
            raise Refused(*errors)
        return value

    slow_from = 0 if patterns or _repeats(schema) else SLOW_FROM
    return ResponseModel(with_tags_required(schema), decode, slow_from)


def _errors(
    validator: SchemaValidator, patterns: CostlyPatterns, schema: dict[str, Any], value: Any
) -> list[str]:
    """What is wrong with a value; in a process of its own where that may take long."""
    if not patterns.may_take_long(value):
        try:
            return validator.errors(value, max_steps=MAX_STEPS)
        except TookTooLong:
            pass
    return errors_apart(schema, json.dumps(value), MAX_VALIDATION_S)


def _repeats(schema: dict[str, Any]) -> bool:
    """Whether a schema may look at the same value again and again: alternatives in a recursion."""
    written = msgspec.json.encode(schema)
    return b'"$ref"' in written and (b'"anyOf"' in written or b'"oneOf"' in written)


def _of_type(model: type[T]) -> ResponseModel[T]:
    decoder = msgspec.json.Decoder(model, dec_hook=path_of)
    schema = msgspec.json.schema(model, schema_hook=path_schema)
    patterns = CostlyPatterns(schema)

    def decode(text: str) -> T:
        _try_patterns(patterns, schema, text)
        try:
            return decoder.decode(text)
        except msgspec.ValidationError as error:
            raise Refused(_with_path_first(str(error))) from error
        except (msgspec.DecodeError, RecursionError) as error:
            raise Refused(f"the answer cannot be read: {error}") from error

    return ResponseModel(with_tags_required(schema), decode, 0 if patterns else None)


def _try_patterns(patterns: CostlyPatterns, schema: dict[str, Any], text: str) -> None:
    """See that a library that keeps to patterns by itself will be done with a text soon.

    Raises:
        TookTooLong: It would not.
    """
    if patterns and patterns.may_take_long(json_value(text)):
        errors_apart(schema, text, MAX_PATTERN_S)


def _with_path_first(message: str) -> str:
    """As all other errors have it: `$.age: Expected int, got str`."""
    what, at, path = message.replace("`", "").rpartition(" - at ")
    return f"{path}: {what}" if at else f"$: {path}"


def _of_pydantic(model: Any) -> ResponseModel[Any]:
    from foundry_api.structured.pydantic_types import (  # noqa: PLC0415 - the caller's type is made of it
        PydanticRefusal,
        PydanticType,
        PydanticUserError,
    )

    try:
        described = PydanticType(model)
    except (PydanticUserError, NameError, TypeError) as error:
        raise _not_a_model(model, error) from error

    # Its own expressions take linear time; those of Python, which may be asked for, do not.
    schema = described.schema
    patterns = CostlyPatterns(schema if described.matches_with_python else {})

    def decode(text: str) -> Any:
        _try_patterns(patterns, schema, text)
        try:
            return described.decode(text)
        except PydanticRefusal as error:
            raise Refused(*(f"{path}: {message}" for path, message in error.errors)) from error

    return ResponseModel(with_tags_required(schema), decode, 0 if patterns else None)


def _is_of_pydantic(model: Any) -> bool:
    marks = ("__pydantic_validator__", "__get_pydantic_core_schema__")
    if (pydantic := sys.modules.get("pydantic")) is None:
        return False
    return (
        isinstance(model, pydantic.TypeAdapter)
        or any(hasattr(model, mark) for mark in marks)
        or any(map(_is_of_pydantic, get_args(model)))
    )


def _not_a_model(model: object, error: Exception) -> InvalidRequest:
    # pydantic adds advice for its own users, and a link.
    why = str(error).partition("\n")[0].partition(". Set `")[0]
    return InvalidRequest(
        f"response_model is {model!r}, which has no JSON schema: {why}",
        field="response_model",
        hint="Give a pydantic model, a msgspec Struct, a dataclass, a TypedDict or a schema.",
    )
