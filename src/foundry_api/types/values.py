"""Values that callers pass, as Python's own types: subclasses, NumPy's scalars, Decimal.

A `SafeString` of Django, a `NavigableString` of BeautifulSoup or an `np.float64` is a text or a
number to everybody but an encoder of JSON. They are converted where they are checked.
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Iterable, Mapping
from numbers import Complex, Integral, Number, Real
from typing import Any, SupportsFloat, SupportsIndex, TypeGuard, cast

import msgspec

__all__ = [
    "UNENCODABLE",
    "as_bool",
    "as_float",
    "as_int",
    "as_path",
    "as_text",
    "encode",
    "format_value",
    "is_dict",
    "is_list",
    "is_list_like",
    "is_mapping",
    "is_object",
    "strip_secrets",
    "to_plain",
]

MAX_SHOWN = 80
"""Characters of a value that an error shows."""

UNENCODABLE = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)
"""What encoding a caller's value may raise."""


def as_text(value: object) -> str | None:
    """A text of exactly the type `str`; None for anything else."""
    if type(value) is str:
        return value
    return str.__str__(value) if isinstance(value, str) else None


def as_int(value: object) -> int | None:
    """An integer of exactly the type `int`; None for anything else, `True` and 2.0 included."""
    if type(value) is int:
        return value
    if value is None or isinstance(value, (bool, float, str)) or not isinstance(value, Integral):
        return None
    if isinstance(value, int):
        return int.__index__(value)  # whatever the subclass makes of it
    try:
        return int.__index__(operator.index(cast("SupportsIndex", value)))
    except Exception:  # noqa: BLE001 - a caller's own class may raise anything
        return None


def as_float(value: object) -> float | None:
    """A number of exactly the type `float`, also of an int; None for anything else.

    None as well for an int or a Decimal that no float can hold.
    """
    if type(value) is float:
        return value
    if isinstance(value, float):
        return float.__float__(value)  # whatever the subclass makes of it
    is_number = isinstance(value, Real) or (
        isinstance(value, Number) and not isinstance(value, Complex)  # a Decimal
    )
    if isinstance(value, bool) or not is_number:
        return None
    try:
        return float(cast("SupportsFloat", value))
    except Exception:  # noqa: BLE001 - too large, or whatever a caller's own class raises
        return None


def as_bool(value: object) -> bool | None:
    """A truth value of exactly the type `bool`, also of 0, 1 and NumPy's; None for others."""
    if isinstance(value, bool):
        return value
    if as_int(value) in {0, 1} or type(value).__name__ in {"bool", "bool_"}:
        return bool(value)
    return None


def as_path(value: object) -> str | None:
    """A path as text; None for what is none, or empty, or holds what no path may hold."""
    try:
        path = os.fspath(cast("os.PathLike[str]", value))
    except TypeError:
        return None
    text = as_text(path)
    return text if text and "\0" not in text else None


def is_list_like(value: object) -> TypeGuard[Iterable[Any]]:
    """Whether it can be iterated over, and is no text, no bytes and no mapping."""
    if type(value) is list or type(value) is tuple:
        return True  # as in nearly every call, and an abstract base class takes a microsecond
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray | Mapping)


def is_dict(value: object) -> TypeGuard[dict[Any, Any]]:
    """Whether it is a dict, and not of a subclass."""
    return type(value) is dict


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a decoded JSON value is an object."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Whether a decoded JSON value is an array."""
    return isinstance(value, list)


def is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Whether it is a mapping."""
    return isinstance(value, Mapping)


def encode(value: object) -> bytes:
    """A caller's value as JSON.

    Raises:
        ValueError: It holds a number that JSON has no word for; the message says where.
        TypeError: It has no form in JSON; see `UNENCODABLE` for the others.
    """
    encoded = _ENCODER.encode(value)
    if any(
        word in encoded for word in _NON_FINITE_MARKERS
    ):  # which may be a None, or within a text
        from decimal import Decimal  # noqa: PLC0415 - few values need it

        builtin_types = (Decimal,)
        _check_finite(
            msgspec.to_builtins(
                value, builtin_types=builtin_types, str_keys=True, enc_hook=_convert_leaf
            )
        )
    return encoded


def to_plain(value: object) -> Any:
    """A caller's value as Python's own dicts, lists, texts and numbers.

    Raises:
        ValueError: It holds a number that JSON has no word for; the message says where.
        TypeError: It has no form in JSON; see `UNENCODABLE` for the others.
    """
    return msgspec.json.decode(encode(value))


def format_value(value: object) -> str:
    """A value for the message of an error: short, and whatever its `repr` does."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a caller's own class, or an int of more digits than Python prints
        return f"of type {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def strip_secrets(url: object) -> str:
    """An address for the message of an error: without user, password, query and fragment."""
    if not isinstance(url, str):
        return format_value(url)
    before, separator, rest = str.__str__(url).rpartition("@")
    if separator and re.search("[?#]", before):
        return "what was given"  # anything in it may be the secret
    return format_value(re.split("[?#]", rest, maxsplit=1)[0])


def _convert_leaf(value: object) -> Any:
    """What msgspec cannot encode, as what it can."""
    for convert in (as_text, as_int, as_float, as_bool):
        if (converted := convert(value)) is not None:
            return converted
    if is_mapping(value):
        return dict(value)
    raise TypeError(f"{format_value(value)} has no form in JSON")


def _check_finite(value: Any, place: str = "") -> None:
    """Refuse NaN and infinity: msgspec writes them as null."""
    if is_mapping(value):
        for name, member in value.items():
            _check_finite(member, f"{place}[{format_value(name)}]")
    elif is_list_like(value):
        for index, item in enumerate(value):
            _check_finite(item, f"{place}[{index}]")
    elif not isinstance(value, (int, str)) and str(value).lower().strip("-+s") in _NON_FINITE_WORDS:
        raise ValueError(f"{place or 'it'} is {value}, and JSON has no word for that")


_NON_FINITE_WORDS = frozenset({"nan", "inf", "infinity"})
_NON_FINITE_MARKERS = (b"null", b"NaN", b"Inf")
"""How msgspec writes numbers that are not finite: those of float, and those of Decimal."""

_ENCODER = msgspec.json.Encoder(enc_hook=_convert_leaf, decimal_format="number")
