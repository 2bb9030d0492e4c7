"""Turn a caller's `response_model`, a type or a JSON schema, into a schema and a decoder."""

from __future__ import annotations

import contextlib
import copy
import enum
import functools
import json
import math
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, get_args

import msgspec

from foundry_api.structured.errors import ValidationFailed, ValidationTimeout
from foundry_api.structured.find_json import decode_json
from foundry_api.structured.isolation import validate_in_process
from foundry_api.structured.json_values import iter_values
from foundry_api.structured.pattern_costs import MAX_PATTERN_S, PatternCosts
from foundry_api.structured.references import resolve_ref
from foundry_api.structured.type_metadata import UnknownMetadata, needs_pydantic
from foundry_api.types.errors import GrammarError, InvalidRequest
from foundry_api.types.values import UNENCODABLE, format_value, is_list, is_mapping, is_object

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "ResponseType",
    "make_path_schema",
    "make_response_type",
    "parse_path",
    "require_tags",
]

T = TypeVar("T")  # the type of a valid answer

# Checking a schema takes milliseconds, and the requests of a program use few schemas.
MAX_CACHED_SCHEMAS = 64

# Shorter answers are validated on the event loop.
SLOW_FROM_CHARACTERS = 4096

# Keywords that are checked in this process before a child process takes over.
MAX_STEPS = 20_000
# Seconds for the child process.
MAX_VALIDATION_S = 10.0

_WRAPPER_KEYS = frozenset({"description", "name", "schema", "strict", "type"})


class ResponseType(msgspec.Struct, Generic[T], frozen=True):
    """A type of answers.

    `decode` converts JSON text or raises ValidationFailed. It may take long for a text of
    `slow_from` characters or more; None if it never does.
    """

    schema: dict[str, Any]
    decode: Callable[[str], T]
    slow_from: int | None = None


def make_response_type(model: Any) -> ResponseType[Any]:
    """Create the response type of a `response_model`. Raises InvalidRequest.

    `model` is a pydantic model or `TypeAdapter`, a msgspec Struct, a dataclass, a TypedDict,
    anything made of them such as `list[Person]`, a plain type, or a JSON schema, also as text or in
    the forms of OpenAI's `response_format`. Bounds may be written as `Annotated[int, Field(ge=1)]`,
    with `annotated_types` or with `msgspec.Meta`.
    """
    try:
        if isinstance(model, str | bytes | bytearray):
            return _from_schema(_parse_schema_text(model))
        if is_mapping(model):
            return _from_schema(_to_plain_schema(_unwrap_schema(model)))
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
        # A dataclass may have a pydantic model as a member, which msgspec does not know.
        if sys.modules.get("pydantic") and not isinstance(error, UnknownMetadata):
            return _from_pydantic(model)
        raise _make_type_error(model, error) from error


def _parse_schema_text(text: str | bytes | bytearray) -> dict[str, Any]:
    try:
        schema = msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError) as error:
        raise _make_type_error(text, error) from error
    if not is_object(schema):
        raise _make_type_error(text, TypeError("it is a text whose JSON is not an object"))
    return dict(_unwrap_schema(schema))


def _unwrap_schema(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Remove the wrappers in which OpenAI's APIs take a schema."""
    match schema:
        case {"type": "json_schema", "json_schema": Mapping() as inner}:  # pyright: ignore[reportUnknownVariableType] # of JSON
            return _unwrap_schema(cast("Mapping[str, Any]", inner))
        case {"schema": Mapping() as inner} if schema.keys() <= _WRAPPER_KEYS and "name" in schema:  # pyright: ignore[reportUnknownVariableType] # of JSON
            return cast("Mapping[str, Any]", inner)
        case _:
            return schema


def _to_plain_schema(value: Any, path: str = "$") -> Any:
    """Convert a schema to JSON's types, with the values of enums. Raises InvalidRequest."""
    if isinstance(value, enum.Enum):
        return _to_plain_schema(value.value, path)
    if isinstance(value, enum.EnumMeta):
        members = cast("Iterable[Any]", value)
        return [_to_plain_schema(item, f"{path}[{index}]") for index, item in enumerate(members)]
    if is_mapping(value):
        if invalid_keys := [key for key in value if not isinstance(key, str)]:
            raise _make_not_json_error(path, f"has the key {invalid_keys[0]!r}, which is not a str")
        return {str(key): _to_plain_schema(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = cast("list[Any]", value)
        return [_to_plain_schema(item, f"{path}[{index}]") for index, item in enumerate(items)]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise _make_not_json_error(path, f"is {format_value(value)}, which JSON cannot represent")


def _make_not_json_error(path: str, problem: str) -> InvalidRequest:
    return InvalidRequest(
        f"response_model is not a JSON schema: {path} {problem}", field="response_model"
    )


def _from_schema(schema: dict[str, Any]) -> ResponseType[Any]:
    # The cache's key is the encoded schema: a dict cannot be hashed, and its owner may change it.
    try:
        encoded = msgspec.json.encode(schema)
        is_lossless = msgspec.json.decode(encoded) == schema
    except UNENCODABLE:
        return _make_schema_type(schema)
    return _from_encoded_schema(encoded) if is_lossless else _make_schema_type(schema)


@functools.lru_cache(MAX_CACHED_SCHEMAS)
def _from_encoded_schema(schema: bytes) -> ResponseType[Any]:
    return _make_schema_type(msgspec.json.decode(schema))


def _make_schema_type(schema: dict[str, Any]) -> ResponseType[Any]:
    # Importing jsonschema takes 80 ms, which callers with types do not need.
    from foundry_api.structured.engine_schema import make_engine_schema  # noqa: PLC0415
    from foundry_api.structured.validation import SchemaValidator  # noqa: PLC0415

    validator = SchemaValidator(schema)
    patterns = PatternCosts(schema)
    # Raises GrammarError for an invalid reference, also with services that ignore schemas.
    make_engine_schema(schema)

    def decode(text: str) -> Any:
        value = decode_json(text)
        errors: list[str] | None = None
        if not patterns.may_take_long(value):
            with contextlib.suppress(ValidationTimeout):
                errors = validator.find_errors(value, max_steps=MAX_STEPS)
        if errors is None:
            errors = validate_in_process(schema, json.dumps(value), MAX_VALIDATION_S)
        if errors:
            raise ValidationFailed(*errors)
        return value

    # Alternatives in a recursion may validate the same value again and again.
    keywords = {name for value in iter_values(schema) if is_object(value) for name in value}
    may_revisit_values = "$ref" in keywords and not keywords.isdisjoint({"anyOf", "oneOf"})
    slow_from = 0 if patterns or may_revisit_values else SLOW_FROM_CHARACTERS
    return ResponseType(require_tags(schema), decode, slow_from)


def _from_type(model: type[T]) -> ResponseType[T]:
    decoder = msgspec.json.Decoder(model, dec_hook=parse_path)
    schema = msgspec.json.schema(model, schema_hook=make_path_schema)
    patterns = PatternCosts(schema)

    def decode(text: str) -> T:
        _check_pattern_time(patterns, schema, text)
        try:
            return decoder.decode(text)
        except msgspec.ValidationError as error:
            # msgspec writes "Expected `int`, got `str` - at `$.age`". All other errors begin with
            # the path.
            problem, separator, path = str(error).replace("`", "").rpartition(" - at ")
            message = f"{path}: {problem}" if separator else f"$: {path}"
            raise ValidationFailed(message) from error
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValidationFailed(f"the answer cannot be read: {error}") from error

    return ResponseType(require_tags(schema), decode, 0 if patterns else None)


def make_path_schema(kind: type) -> dict[str, Any]:
    """Describe a path type; a `schema_hook` of msgspec."""
    if _is_path_type(kind):
        return {"type": "string", "format": "path"}
    raise NotImplementedError


def parse_path(kind: type, value: Any) -> Any:
    """Decode a path; a `dec_hook` of msgspec."""
    if not _is_path_type(kind):
        raise NotImplementedError
    if not isinstance(value, str):
        raise ValueError("Expected str, the path of a file")  # noqa: TRY004 - msgspec adds the path of the value
    return kind(value)


def _is_path_type(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, pathlib.PurePath)


def _from_pydantic(model: Any) -> ResponseType[Any]:
    from foundry_api.structured.pydantic_types import (  # noqa: PLC0415 - the caller has pydantic
        PydanticType,
        PydanticUserError,
        PydanticValidationFailed,
    )

    try:
        pydantic_type = PydanticType(model)
    except (PydanticUserError, NameError, TypeError) as error:
        raise _make_type_error(model, error) from error

    # pydantic's own regular expressions take linear time; those of Python, which a model may
    # select, do not.
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


def _check_pattern_time(patterns: PatternCosts, schema: dict[str, Any], text: str) -> None:
    """Raise ValidationTimeout if matching the patterns in this process would take too long."""
    # A child process tries it, because the library that decodes the text cannot be interrupted.
    if patterns and patterns.may_take_long(decode_json(text)):
        validate_in_process(schema, text, MAX_PATTERN_S)


def _is_pydantic_type(model: Any) -> bool:
    # A type of pydantic's exists only if pydantic is imported.
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
        hint="Pass a pydantic model, a msgspec Struct, a dataclass, a TypedDict or a schema.",
    )


def require_tags(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema in which the branches of unions require their tags.

    A tag with a default is optional in the schema, but an answer without it could not be decoded.
    """
    if not any(True for _ in _iter_unions(schema)):
        return schema
    root = copy.deepcopy(schema)
    for union, branches in _iter_unions(root):
        discriminator = union.get("discriminator")
        tag = discriminator.get("propertyName") if is_object(discriminator) else None
        objects = [item for branch in branches if (item := _resolve_object(root, branch))]
        # With a single object, as in `Person | None`, nothing needs to be told apart.
        for branch in objects if len(objects) > 1 else ():
            tags = [
                name
                for name, value in branch["properties"].items()
                if name == tag
                or (is_object(value) and ("const" in value or len(value.get("enum", ())) == 1))
            ]
            required = branch.get("required", [])
            if missing := [name for name in tags if name not in required]:
                branch["required"] = [*missing, *required]
    return root


def _iter_unions(schema: dict[str, Any]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    for value in iter_values(schema):
        if is_object(value):
            for name in ("anyOf", "oneOf"):
                if is_list(branches := value.get(name)):
                    yield value, branches


def _resolve_object(root: dict[str, Any], branch: Any) -> dict[str, Any] | None:
    """Return the schema of an object with properties that a branch describes, if it does."""
    if is_object(branch) and "$ref" in branch:
        try:
            branch = resolve_ref(root, branch["$ref"], "$")
        except GrammarError:
            return None  # reported by make_engine_schema
    return branch if is_object(branch) and is_object(branch.get("properties")) else None
