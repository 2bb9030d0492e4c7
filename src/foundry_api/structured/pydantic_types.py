"""Types that pydantic describes and converts. Import this only where pydantic is there."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, cast

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from foundry_api.structured.type_marks import (
    UnsupportedType,
    reject_msgspec_bounds,
    to_pydantic_type,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from pydantic.json_schema import JsonSchemaValue

__all__ = ["PydanticType", "PydanticUserError", "PydanticValidationFailed", "shorten_errors"]


class _OutputSchemaGenerator(GenerateJsonSchema):
    """As pydantic writes them, but for answers of a model."""

    def generator_schema(self, schema: Any) -> JsonSchemaValue:
        """None: what is wrong with it would be found only while it is iterated."""
        del schema
        raise UnsupportedType(
            "a member is an Iterable, which pydantic reads only while it is iterated: write list "
            "or Sequence"
        )

    def decimal_schema(self, schema: Any) -> JsonSchemaValue:
        """A number: a model that may choose writes any text."""
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
    """A type, with what pydantic makes of it.

    Args:
        kind: The type, or a `TypeAdapter` of one.

    Attributes:
        schema: Its JSON schema.
        matches_with_python: Whether Python's regular expressions are used for patterns.

    Raises:
        PydanticUserError: pydantic cannot describe it.
        UnsupportedType: pydantic would pass over a part of it.
    """

    def __init__(self, kind: Any) -> None:
        is_adapter = isinstance(kind, cast("Any", TypeAdapter))
        if not is_adapter:
            reject_msgspec_bounds(kind)
        self._adapter: TypeAdapter[Any] = (
            kind if is_adapter else TypeAdapter(to_pydantic_type(kind))
        )
        written = repr(cast("Any", self._adapter).core_schema)
        self.matches_with_python = "python-re" in written or "re.compile" in written
        self.schema: dict[str, Any] = self._adapter.json_schema(
            schema_generator=_OutputSchemaGenerator
        )

    def decode(self, text: str | bytes) -> Any:
        """The value of a JSON text.

        Raises:
            PydanticValidationFailed: It is not of the type.
        """
        with shorten_errors():
            return self._adapter.validate_json(text)


class PydanticValidationFailed(ValueError):
    """A value is not of the type.

    Attributes:
        errors: Where, from `$` on, and what is wrong there.
    """

    def __init__(self, errors: list[tuple[str, str]]) -> None:
        places = [(path.removeprefix("$").removeprefix("."), message) for path, message in errors]
        super().__init__(
            "; ".join(f"{place}: {message}" if place else message for place, message in places)
        )
        self.errors = errors


@contextlib.contextmanager
def shorten_errors() -> Generator[None]:
    """Raise what pydantic refuses without the value, and without a link to its documentation.

    Raises:
        PydanticValidationFailed: It refuses a value.
    """
    try:
        yield
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        raise PydanticValidationFailed(
            [(_format_path(detail["loc"]), detail["msg"]) for detail in details]
        ) from error


def _format_path(location: tuple[int | str, ...]) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return "".join(("$", *steps))
