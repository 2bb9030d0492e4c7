"""Convert arguments to Python's built-in types.

JSON encoders reject subclasses and look-alikes, such as Django's `SafeString`, BeautifulSoup's
`NavigableString` or NumPy's scalars.
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

# Characters of a value in an error message.
MAX_SHOWN = 80

# What encoding an argument may raise.
UNENCODABLE = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)

# How msgspec writes numbers that are not finite: null for a float, these words for a Decimal.
_NON_FINITE_MARKERS = (b"null", b"NaN", b"Inf")
_NON_FINITE_WORDS = frozenset({"nan", "inf", "infinity"})


def as_text(value: object) -> str | None:
    """Return a string as exactly `str`; None for other types."""
    if type(value) is str:
        return value
    return str.__str__(value) if isinstance(value, str) else None


def as_int(value: object) -> int | None:
    """Return an integer as exactly `int`; None for other values, also for `True` and 2.0."""
    if type(value) is int:
        return value
    if value is None or isinstance(value, (bool, float, str)) or not isinstance(value, Integral):
        return None
    if isinstance(value, int):
        return int.__index__(value)  # not the subclass's own __index__
    try:
        return int.__index__(operator.index(cast("SupportsIndex", value)))
    except Exception:  # noqa: BLE001 - a user's class may raise anything
        return None


def as_float(value: object) -> float | None:
    """Return a number as exactly `float`; None for other values and numbers too large for it."""
    if type(value) is float:
        return value
    if isinstance(value, float):
        return float.__float__(value)  # not the subclass's own __float__
    is_number = isinstance(value, Real) or (
        isinstance(value, Number) and not isinstance(value, Complex)  # a Decimal, which is not Real
    )
    if isinstance(value, bool) or not is_number:
        return None
    try:
        return float(cast("SupportsFloat", value))
    except Exception:  # noqa: BLE001 - too large, or a user's class, which may raise anything
        return None


def as_bool(value: object) -> bool | None:
    """Return a bool, 0, 1 or NumPy's bool as exactly `bool`; None for other values."""
    if isinstance(value, bool):
        return value
    if as_int(value) in {0, 1} or type(value).__name__ in {"bool", "bool_"}:
        return bool(value)
    return None


def as_path(value: object) -> str | None:
    """Return a path as text; None for other types and for empty or invalid paths."""
    try:
        path = os.fspath(cast("os.PathLike[str]", value))
    except TypeError:
        return None
    text = as_text(path)
    return text if text and "\0" not in text else None


def is_list_like(value: object) -> TypeGuard[Iterable[Any]]:
    """Whether a value is iterable, but not a string, bytes or a mapping."""
    if type(value) is list or type(value) is tuple:
        return True  # the usual case; isinstance with an abstract base class takes a microsecond
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray | Mapping)


def is_dict(value: object) -> TypeGuard[dict[Any, Any]]:
    """Whether a value is a dict, but not of a subclass."""
    return type(value) is dict


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a decoded JSON value is an object."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Whether a decoded JSON value is an array."""
    return isinstance(value, list)


def is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Whether a value is a mapping."""
    return isinstance(value, Mapping)


def encode(value: object) -> bytes:
    """Encode an argument as JSON; raise one of `UNENCODABLE` if that fails."""
    encoded = _ENCODER.encode(value)
    # A marker may also be a None or part of a text, so the slower check decides.
    if any(marker in encoded for marker in _NON_FINITE_MARKERS):
        from decimal import Decimal  # noqa: PLC0415 - few values need it

        _check_finite(
            msgspec.to_builtins(
                value, builtin_types=(Decimal,), str_keys=True, enc_hook=_convert_leaf
            )
        )
    return encoded


def to_plain(value: object) -> Any:
    """Convert an argument to plain JSON values; raise one of `UNENCODABLE` if that fails."""
    return msgspec.json.decode(encode(value))


def format_value(value: object) -> str:
    """Return a short `repr` of a value for an error message."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a user's class, or an int with more digits than Python prints
        return f"of type {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def strip_secrets(url: object) -> str:
    """Return a URL for an error message: without user, password, query and fragment."""
    if not isinstance(url, str):
        return format_value(url)
    before, separator, rest = str.__str__(url).rpartition("@")
    if separator and re.search("[?#]", before):
        return "(hidden)"  # any part of it may be the password
    return format_value(re.split("[?#]", rest, maxsplit=1)[0])


def _convert_leaf(value: object) -> Any:
    """Convert a value that msgspec cannot encode."""
    for convert in (as_text, as_int, as_float, as_bool):
        if (converted := convert(value)) is not None:
            return converted
    if is_mapping(value):
        return dict(value)
    raise TypeError(f"{format_value(value)} cannot be encoded as JSON")


def _check_finite(value: Any, place: str = "") -> None:
    """Raise ValueError for NaN and infinity, which msgspec writes as null."""
    if is_mapping(value):
        for name, member in value.items():
            _check_finite(member, f"{place}[{format_value(name)}]")
    elif is_list_like(value):
        for index, item in enumerate(value):
            _check_finite(item, f"{place}[{index}]")
    elif not isinstance(value, (int, str)) and str(value).lower().strip("-+s") in _NON_FINITE_WORDS:
        raise ValueError(f"{place or 'it'} is {value}, which JSON cannot represent")


_ENCODER = msgspec.json.Encoder(enc_hook=_convert_leaf, decimal_format="number")
