"""Describe and decode types with pydantic. Imported only if pydantic is installed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, cast

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from foundry_api.structured.type_metadata import (
    UnsupportedType,
    reject_msgspec_bounds,
    to_pydantic_type,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from pydantic.json_schema import JsonSchemaValue

__all__ = ["PydanticType", "PydanticUserError", "PydanticValidationFailed", "shorten_errors"]


class _OutputSchemaGenerator(GenerateJsonSchema):
    def generator_schema(self, schema: Any) -> JsonSchemaValue:
        del schema
        # pydantic would report errors in the items only while they are iterated.
        raise UnsupportedType(
            "a member is an Iterable, which pydantic validates only while it is iterated: write "
            "list or Sequence"
        )

    def decimal_schema(self, schema: Any) -> JsonSchemaValue:
        # pydantic's own schema also allows a string, and a model that may choose writes any text.
        number_schema = self.float_schema(cast("Any", {**schema, "type": "float"}))
        if (
            places := schema.get("decimal_places")
        ) is not None and "multipleOf" not in number_schema:
            number_schema["multipleOf"] = 1 if places == 0 else float(f"1e-{places}")
        if (digits := schema.get("max_digits")) is not None:
            bound = 10 ** (digits - (places or 0))
            if not {"maximum", "exclusiveMaximum"} & number_schema.keys():
                number_schema["exclusiveMaximum"] = bound
            if not {"minimum", "exclusiveMinimum"} & number_schema.keys():
                number_schema["exclusiveMinimum"] = -bound
        return number_schema


class PydanticType:
    """A type, or a `TypeAdapter` of one, with its JSON schema.

    Raises PydanticUserError if pydantic cannot describe it, and UnsupportedType if pydantic would
    ignore a part of it.
    """

    def __init__(self, kind: Any) -> None:
        is_adapter = isinstance(kind, cast("Any", TypeAdapter))
        if not is_adapter:
            reject_msgspec_bounds(kind)
        self._adapter: TypeAdapter[Any] = (
            kind if is_adapter else TypeAdapter(to_pydantic_type(kind))
        )
        # A model may select Python's regular expressions, and a compiled pattern is one of them.
        core_schema = repr(cast("Any", self._adapter).core_schema)
        self.matches_with_python = "python-re" in core_schema or "re.compile" in core_schema
        self.schema: dict[str, Any] = self._adapter.json_schema(
            schema_generator=_OutputSchemaGenerator
        )

    def decode(self, text: str | bytes) -> Any:
        """Decode JSON. Raises PydanticValidationFailed."""
        with shorten_errors():
            return self._adapter.validate_json(text)


class PydanticValidationFailed(ValueError):
    """A value is invalid. `errors` are pairs of a path, such as `$.age`, and a message."""

    def __init__(self, errors: list[tuple[str, str]]) -> None:
        places = [(path.removeprefix("$").removeprefix("."), message) for path, message in errors]
        super().__init__(
            "; ".join(f"{place}: {message}" if place else message for place, message in places)
        )
        self.errors = errors


@contextlib.contextmanager
def shorten_errors() -> Generator[None]:
    """Convert pydantic's ValidationError to PydanticValidationFailed.

    Its own message repeats the value, and links to pydantic's documentation.
    """
    try:
        yield
    except ValidationError as error:
        errors: list[tuple[str, str]] = []
        for detail in error.errors(include_url=False, include_context=False, include_input=False):
            steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in detail["loc"])
            errors.append(("".join(("$", *steps)), detail["msg"]))
        raise PydanticValidationFailed(errors) from error
