"""Which keywords of a JSON schema the engine keeps answers to. Probed one by one on 2.2.1.

Of the others it ignores some and refuses a schema for the rest.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "LIST_KEYWORDS",
    "MAP_KEYWORDS",
    "MAX_BOUND",
    "MIN_BOUND",
    "SINGLE_SCHEMA",
    "get_lower_bound",
    "get_upper_bound",
    "is_enforced",
    "is_supported_factor",
    "is_supported_pattern",
    "relax_pattern",
]


_SPECIAL_SYNTAX = re.compile(
    r"\\(.)|\(\?(<?[=!]|P=|[>(#])|\{(,)|\[\^?[^\]\\]*(\[|&&|--|~~)", re.DOTALL
)
"""Escapes, look-around and other groups, `{,n}`, and set operations of a character class."""

_LOOKAROUND = re.compile(r"(?<!\\)\(\?<?[=!][^()\[\]\\]*\)(?![*+?{])")
"""A condition on what stands beside it, without further groups or classes within."""

_UNSUPPORTED_ESCAPES = frozenset("123456789bBAzZGkKcuN")
_UNICODE_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}")


def is_supported_pattern(pattern: str) -> bool:
    r"""Whether the engine of 2.2.1 takes a pattern and means the same by it (probed).

    It refuses look-around, back-references, word boundaries and anchors other than `^` and `$`.
    """
    return not any(
        map(_is_unsupported, _SPECIAL_SYNTAX.finditer(_UNICODE_ESCAPE.sub("x", pattern)))
    )


def relax_pattern(pattern: str) -> str | None:
    """What the engine reads of a pattern: that without look-around, which only narrows it.

    None where that is nothing, or still too much.
    """
    rest = _LOOKAROUND.sub("", pattern)
    if not is_supported_pattern(rest) or (rest != pattern and not rest.strip("^$")):
        return None
    return rest


def _is_unsupported(match: re.Match[str]) -> bool:
    return match[1] is None or match[1] in _UNSUPPORTED_ESCAPES


MAP_KEYWORDS = frozenset({"patternProperties", "properties"})
"""Their value is an object of schemas."""

LIST_KEYWORDS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
"""Their value is a list of schemas."""

SINGLE_SCHEMA = frozenset({"additionalItems", "additionalProperties", "items"})
"""Their value is a schema; up to draft 2019-09 that of `items` may be a list."""

_COPIED_KEYWORDS = frozenset(
    {"$ref", "const", "enum", "maxItems", "maxLength", "maxProperties", "minItems", "minLength"}
    | {"minProperties", "required", "type"}
)
_BOUND_KEYWORDS = frozenset({"exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum"})
_SUPPORTED_FORMATS = frozenset(
    {"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uuid"}
)
_SUPPORTED = _COPIED_KEYWORDS | MAP_KEYWORDS | LIST_KEYWORDS | SINGLE_SCHEMA

MAX_BOUND = 1e15
MIN_BOUND = 1e-15
MAX_FACTOR = 1e9
MIN_FACTOR = 1e-9
MAX_FACTOR_STEPS = 1000
"""The engine's work grows with a factor as a whole number: 65536 up to a bound is an error, and
123456789 takes minutes (probed on 2.2.1). So do 6.5536 and 1.23456789."""
MAX_FACTOR_DECIMALS = 9


def is_enforced(schema: Mapping[str, Any], name: str) -> bool:
    """Whether the engine keeps answers to a keyword of a schema, and to nothing more than it says.

    Args:
        schema: The schema that has it.
        name: The keyword.
    """
    value = schema[name]
    if name == "format":
        return value in _SUPPORTED_FORMATS
    if name == "pattern":
        return relax_pattern(value) is not None
    if name in _BOUND_KEYWORDS:
        return isinstance(value, bool) or _is_within(value, MIN_BOUND, MAX_BOUND)
    if name == "multipleOf":
        # Of the multiples it lets no negative one through, and ends the answer where all are.
        low = get_lower_bound(schema)
        return is_supported_factor(value) and low is not None and low >= 0
    return name in _SUPPORTED


def get_lower_bound(schema: Mapping[str, Any]) -> float | None:
    """Below which no number is allowed; None without one."""
    return _get_bound(schema, "minimum", "exclusiveMinimum")


def get_upper_bound(schema: Mapping[str, Any]) -> float | None:
    """Above which no number is allowed; None without one."""
    return _get_bound(schema, "maximum", "exclusiveMaximum")


def _get_bound(schema: Mapping[str, Any], *names: str) -> float | None:
    values = (schema.get(name) for name in names)
    return next(
        (value for value in values if value is not None and not isinstance(value, bool)), None
    )


def _is_within(number: float, low: float, high: float) -> bool:
    return number == 0 or (math.isfinite(number) and low <= abs(number) <= high)


def is_supported_factor(value: float) -> bool:
    """Whether the engine takes a value of `multipleOf`, and has little work with it.

    It multiplies the float by ten until it is whole, which 0.07 never becomes: 0.07 * 100 is
    7.000000000000001.
    """
    if not _is_within(value, MIN_FACTOR, MAX_FACTOR):
        return False
    steps = float(value)
    for _ in range(MAX_FACTOR_DECIMALS):
        if steps.is_integer():
            break
        steps *= 10
    return steps.is_integer() and steps <= MAX_FACTOR_STEPS
