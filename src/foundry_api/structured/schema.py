"""What callers may give as `response_model`: its JSON schema, and how text becomes its type."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, cast, get_args

import msgspec

from foundry_api.errors import InvalidRequest
from foundry_api.structured.finding import json_value
from foundry_api.structured.refusal import Refused

__all__ = ["ResponseModel", "response_model"]

T = TypeVar("T")

KEPT_SCHEMAS = 64
"""A schema costs milliseconds to check, and the requests of a program have few of them."""

_UNENCODABLE = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)


class ResponseModel(msgspec.Struct, Generic[T], frozen=True):
    """A type of answers.

    Attributes:
        schema: Its JSON schema.
        decode: Makes JSON text into a value of the type; raises `Refused`.
    """

    schema: dict[str, Any]
    decode: Callable[[str], T]


def response_model(model: Any) -> ResponseModel[Any]:
    """What a caller's type or schema asks of an answer.

    Args:
        model: A pydantic model or `TypeAdapter`, a msgspec Struct, a dataclass, a TypedDict,
            anything made of them such as `list[Person]`, a plain type, or a JSON schema.

    Raises:
        InvalidRequest: It is none of these.
    """
    if isinstance(model, Mapping):
        return _of_schema(dict(cast("Mapping[str, Any]", model)))
    if _is_of_pydantic(model):
        return _of_pydantic(model)
    try:
        return _of_type(model)
    except (TypeError, msgspec.MsgspecError) as error:
        if "pydantic" in sys.modules:  # a dataclass may hold one of its models
            return _of_pydantic(model)
        raise _not_a_model(model, error) from error


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
    from foundry_api.structured.shaping import engine_schema  # noqa: PLC0415
    from foundry_api.structured.validation import SchemaValidator  # noqa: PLC0415

    validator = SchemaValidator(schema)
    engine_schema(schema)  # a reference that leads nowhere is an error on every generation

    def decode(text: str) -> Any:
        value = json_value(text)
        validator.check(value)
        return value

    return ResponseModel(schema, decode)


def _of_type(model: type[T]) -> ResponseModel[T]:
    decoder = msgspec.json.Decoder(model)

    def decode(text: str) -> T:
        try:
            return decoder.decode(text)
        except msgspec.ValidationError as error:
            raise Refused(_with_path_first(str(error))) from error
        except (msgspec.DecodeError, RecursionError) as error:
            raise Refused(f"the answer cannot be read: {error}") from error

    return ResponseModel(msgspec.json.schema(model), decode)


def _with_path_first(message: str) -> str:
    """As all other errors have it: `$.age: Expected int, got str`."""
    what, at, path = message.replace("`", "").rpartition(" - at ")
    return f"{path}: {what}" if at else f"$: {path}"


def _of_pydantic(model: Any) -> ResponseModel[Any]:
    # It is imported already: the caller's type is made of it.
    from pydantic import PydanticUserError, TypeAdapter, ValidationError  # noqa: PLC0415

    is_one = isinstance(model, cast("Any", TypeAdapter))
    try:
        adapter: TypeAdapter[Any] = model if is_one else TypeAdapter(model)
        schema = adapter.json_schema()
    except PydanticUserError as error:
        raise _not_a_model(model, error) from error

    def decode(text: str) -> Any:
        try:
            return adapter.validate_json(text)
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False, include_input=False)
            raise Refused(*(f"{_path(each['loc'])}: {each['msg']}" for each in details)) from error

    return ResponseModel(schema, decode)


def _path(location: tuple[int | str, ...]) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return "".join(("$", *steps))


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
    return InvalidRequest(
        f"response_model is {model!r}, which has no JSON schema: {error}",
        field="response_model",
        hint="Give a pydantic model, a msgspec Struct, a dataclass, a TypedDict or a schema.",
    )
