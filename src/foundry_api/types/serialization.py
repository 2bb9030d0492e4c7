"""Base classes of results: conversion to and from dicts, pydantic support, and a short `repr`."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import msgspec

from foundry_api.types.values import UNENCODABLE, as_bool, as_float, as_int, as_text, is_mapping

if TYPE_CHECKING:
    # For annotations only: pydantic is not a dependency.
    from collections.abc import Mapping

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

__all__ = ["Headers", "Result", "ShortResult", "header_text"]

_SHORT_REPR = reprlib.Repr()
_SHORT_REPR.maxstring = _SHORT_REPR.maxother = 80
_SHORT_REPR.maxtuple = _SHORT_REPR.maxlist = _SHORT_REPR.maxdict = 3


class Result:
    """Base class of values that convert to plain data.

    They can be passed to `msgspec.json.encode`, `pickle` and `copy`, and be fields of pydantic
    models.
    """

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Convert the value to dicts, lists, tuples, strings and numbers, for `json.dumps`.

        Bytes become base64, as in `msgspec.json.encode`. An error becomes a dict of its attributes.
        A value of a user's type, such as `parsed`, is converted by pydantic or msgspec, or else by
        `str`.

        Returns:
            The members by name.
        """
        members: dict[str, Any] = _to_builtins(self)
        return members

    @classmethod
    def from_dict(cls, members: Mapping[str, Any]) -> Self:
        """Make a value from the result of `to_dict`. Values of users' types stay plain data.

        Args:
            members: The members by name.

        Returns:
            The value.

        Raises:
            ValueError: `members` does not match this class.
        """
        try:
            return msgspec.convert(members, cls, strict=False)
        except UNENCODABLE as error:
            raise ValueError(f"the value is not a valid {cls.__name__}: {error}") from error

    @classmethod
    def __get_pydantic_core_schema__(
        cls, _source: Any, _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Describe to pydantic how to validate and serialize a field of this type."""
        from pydantic_core import core_schema  # noqa: PLC0415 - only where pydantic is used

        def validate(value: Any) -> Any:
            return cls.from_dict(value) if is_mapping(value) else value

        return core_schema.chain_schema(
            [
                core_schema.no_info_plain_validator_function(validate),
                core_schema.is_instance_schema(cls),
            ],
            serialization=core_schema.plain_serializer_function_ser_schema(
                _to_builtins, return_schema=core_schema.any_schema()
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe a field of this type in JSON schemas of pydantic and FastAPI."""
        return {"type": "object", "title": cls.__name__}


class ShortResult(Result):
    """A result with a short `repr`: without defaults and details, with long values cut."""

    __slots__ = ()

    UNSHOWN: ClassVar[frozenset[str]] = frozenset({"attempts", "headers", "raw", "timings"})

    def __repr__(self) -> str:
        parts: list[str] = []
        for field in msgspec.structs.fields(cast("Any", self)):
            value = getattr(self, field.name)
            is_default = type(value) is type(field.default) and value == field.default
            if field.name not in self.UNSHOWN and value is not None and not is_default:
                parts.append(f"{field.name}={_SHORT_REPR.repr(value)}")
        return f"{type(self).__name__}({', '.join(parts)})"

    def __str__(self) -> str:
        return repr(self)


class Headers(dict[str, str]):
    """HTTP headers: a dict with case-insensitive names.

    Args:
        headers: The headers as received; the first of duplicates applies.
    """

    def __init__(self, headers: Mapping[str, str] | None = None) -> None:
        super().__init__()
        for name, value in (headers or {}).items():
            if name not in self:
                self[str.__str__(name)] = header_text(value)

    def __contains__(self, name: object) -> bool:
        return self._find_key(name) is not None

    def __getitem__(self, name: str) -> str:
        key = self._find_key(name)
        if key is None:
            raise KeyError(name)
        return super().__getitem__(key)

    def get(self, name: str, default: Any = None, /) -> Any:
        """Return the value of a header, or the default."""
        key = self._find_key(name)
        return default if key is None else super().__getitem__(key)

    def _find_key(self, name: object) -> str | None:
        lowered = name.lower() if isinstance(name, str) else None
        return next((key for key in self if key.lower() == lowered), None)


def header_text(value: str) -> str:
    """Return a header's value as plain text; bytes that are not UTF-8 are read as Latin-1."""
    # HTTP/1.1 headers are Latin-1. aiohttp decodes other bytes than UTF-8 to lone surrogates, which
    # can be written neither to JSON nor to a file.
    value = str.__str__(value)
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape").decode("latin-1")
    return value


def _to_builtins(value: Any) -> Any:
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_to_plain)


def _to_plain(value: Any) -> Any:
    """Convert what msgspec does not know: a pydantic model, an exception, a user's object."""
    if (dump := getattr(value, "model_dump", None)) is not None:
        return dump(mode="json")
    if isinstance(value, BaseException):
        return {"type": type(value).__name__, "message": str(value)}
    for convert in (as_text, as_int, as_float, as_bool):
        if (converted := convert(value)) is not None:
            return converted
    if is_mapping(value):
        return dict(value)
    if (to_list := getattr(value, "tolist", None)) is not None:  # a NumPy array
        return to_list()
    return str(value)
