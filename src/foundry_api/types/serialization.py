"""The base of all results: conversion to dict and JSON, pydantic support and a short `repr`."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import msgspec

from foundry_api.types.values import UNENCODABLE, as_bool, as_float, as_int, as_text, is_mapping

if TYPE_CHECKING:
    # For annotations alone: pydantic is no dependency of this package.
    from collections.abc import Mapping

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

__all__ = ["Headers", "Result", "ShortResult", "header_text"]


class Result:
    """A value object that goes wherever plain data does.

    `msgspec.json.encode`, `pickle` and `copy` take it as it is, and a pydantic model may have it as
    a field.
    """

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as dicts, lists, tuples, texts and numbers, as `json.dumps` takes them.

        Bytes become base64, as in `msgspec.json.encode`; an error becomes its members; a value of a
        caller's own type, such as `parsed`, becomes what pydantic or msgspec make of it, and else
        its text.
        """
        members: dict[str, Any] = _builtins(self)
        return members

    @classmethod
    def from_dict(cls, members: Mapping[str, Any]) -> Self:
        """Make a result of what `to_dict` gave. Values of a caller's own types stay plain.

        Raises:
            ValueError: It is not what `to_dict` gives.
        """
        try:
            return msgspec.convert(members, cls, strict=False)
        except UNENCODABLE as error:
            raise ValueError(f"this is no {cls.__name__}: {error}") from error

    @classmethod
    def __get_pydantic_core_schema__(
        cls, _source: Any, _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """How pydantic validates and serialises a field of this type."""
        from pydantic_core import core_schema  # noqa: PLC0415 - only where pydantic is used

        def result(value: Any) -> Any:
            return cls.from_dict(value) if is_mapping(value) else value

        return core_schema.chain_schema(
            [
                core_schema.no_info_plain_validator_function(result),
                core_schema.is_instance_schema(cls),
            ],
            serialization=core_schema.plain_serializer_function_ser_schema(
                _builtins, return_schema=core_schema.any_schema()
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """How pydantic, and so FastAPI, describes a field of this type."""
        return {"type": "object", "title": cls.__name__}


class ShortResult(Result):
    """A result whose `repr` has what a reader looks for, cut where that is long."""

    __slots__ = ()

    UNSHOWN: ClassVar[frozenset[str]] = frozenset({"attempts", "headers", "raw", "timings"})

    def __repr__(self) -> str:
        parts: list[str] = []
        for field in msgspec.structs.fields(cast("Any", self)):
            value = getattr(self, field.name)
            is_default = type(value) is type(field.default) and value == field.default
            if field.name not in self.UNSHOWN and value is not None and not is_default:
                parts.append(f"{field.name}={_BRIEF.repr(value)}")
        return f"{type(self).__name__}({', '.join(parts)})"

    def __str__(self) -> str:
        return repr(self)


class Headers(dict[str, str]):
    """The headers of an answer: a dict whose names compare without case.

    Args:
        headers: As they came; of doubled names the first counts.
    """

    def __init__(self, headers: Mapping[str, str] | None = None) -> None:
        super().__init__()
        for name, value in (headers or {}).items():
            if name not in self:
                self[str.__str__(name)] = header_text(value)

    def __contains__(self, name: object) -> bool:
        return self._written(name) is not None

    def __getitem__(self, name: str) -> str:
        written = self._written(name)
        if written is None:
            raise KeyError(name)
        return super().__getitem__(written)

    def get(self, name: str, default: Any = None, /) -> Any:
        """The value of a header, or the default."""
        written = self._written(name)
        return default if written is None else super().__getitem__(written)

    def _written(self, name: object) -> str | None:
        """A name as the service wrote it."""
        lowered = name.lower() if isinstance(name, str) else None
        return next((each for each in self if each.lower() == lowered), None)


def header_text(value: str) -> str:
    """The value of a header as a plain text; bytes that are no UTF-8 are Latin-1, as in HTTP/1.1.

    aiohttp gives them as lone surrogates, which neither JSON nor a file takes.
    """
    value = str.__str__(value)
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape").decode("latin-1")
    return value


def _builtins(value: Any) -> Any:
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_plain)


def _plain(value: Any) -> Any:
    """What msgspec does not know: a pydantic model, an exception, a caller's own object."""
    if (dump := getattr(value, "model_dump", None)) is not None:
        return dump(mode="json")
    if isinstance(value, BaseException):
        return {"type": type(value).__name__, "message": str(value)}
    for convert in (as_text, as_int, as_float, as_bool):
        if (converted := convert(value)) is not None:
            return converted
    if is_mapping(value):
        return dict(value)
    if (listed := getattr(value, "tolist", None)) is not None:  # an array of NumPy
        return listed()
    return str(value)


_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 80
_BRIEF.maxtuple = _BRIEF.maxlist = _BRIEF.maxdict = 3
