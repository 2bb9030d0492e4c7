"""The JSON schema keywords that the inference engine enforces.

Each keyword was probed on SDK 2.1's engine, 2.2.1. The engine ignores some of the others and
rejects a schema because of the rest.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ANNOTATIONS",
    "COMBINERS",
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

# Keywords with further schemas for the same value.
COMBINERS = frozenset({"$ref", "allOf", "anyOf", "oneOf"})

# Keywords that restrict no value.
ANNOTATIONS = frozenset(
    {"$anchor", "$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated"}
    | {"description", "examples", "readOnly", "title", "writeOnly"}
)

# Keywords whose value is an object of schemas, a list of schemas, or a schema. Up to draft
# 2019-09 the value of `items` may be a list.
MAP_KEYWORDS = frozenset({"patternProperties", "properties"})
LIST_KEYWORDS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
SINGLE_SCHEMA = frozenset({"additionalItems", "additionalProperties", "items"})

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
MAX_FACTOR_DECIMALS = 9
# The engine's work grows with a factor as a whole number: 65536 up to a bound is an error, and
# 123456789 takes minutes (probed on 2.2.1). So do 6.5536 and 1.23456789.
MAX_FACTOR_STEPS = 1000

# Escapes, look-around and other groups, `{,n}`, and set operations of a character class.
_SPECIAL_SYNTAX = re.compile(
    r"\\(.)|\(\?(<?[=!]|P=|[>(#])|\{(,)|\[\^?[^\]\\]*(\[|&&|--|~~)", re.DOTALL
)
# Look-around that contains no group and no character class, and that is not repeated.
_LOOKAROUND = re.compile(r"(?<!\\)\(\?<?[=!][^()\[\]\\]*\)(?![*+?{])")
_UNSUPPORTED_ESCAPES = frozenset("123456789bBAzZGkKcuN")
_UNICODE_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}")


def is_enforced(schema: Mapping[str, Any], name: str) -> bool:
    """Check whether the engine enforces a keyword exactly as the schema defines it."""
    value = schema[name]
    if name == "format":
        return value in _SUPPORTED_FORMATS
    if name == "pattern":
        return relax_pattern(value) is not None
    if name in _BOUND_KEYWORDS:
        return isinstance(value, bool) or _is_within(value, MIN_BOUND, MAX_BOUND)
    if name == "multipleOf":
        # The engine accepts no negative multiples, and ends the answer if only those are allowed.
        low = get_lower_bound(schema)
        return is_supported_factor(value) and low is not None and low >= 0
    return name in _SUPPORTED


def is_supported_pattern(pattern: str) -> bool:
    """Check whether the engine accepts a pattern and interprets it as JSON schema does.

    It rejects look-around, back-references, word boundaries and anchors other than `^` and `$`.
    """
    return all(
        match[1] is not None and match[1] not in _UNSUPPORTED_ESCAPES
        for match in _SPECIAL_SYNTAX.finditer(_UNICODE_ESCAPE.sub("x", pattern))
    )


def relax_pattern(pattern: str) -> str | None:
    """Remove the look-around from a pattern; None if nothing supported is left.

    Look-around only narrows a pattern, so the result matches every text that the pattern does.
    """
    rest = _LOOKAROUND.sub("", pattern)
    if not is_supported_pattern(rest) or (rest != pattern and not rest.strip("^$")):
        return None
    return rest


def is_supported_factor(value: float) -> bool:
    """Check whether the engine accepts a value of `multipleOf` and handles it quickly."""
    if not _is_within(value, MIN_FACTOR, MAX_FACTOR):
        return False
    # The engine multiplies the float by ten until it is whole, which 0.07 never becomes:
    # 0.07 * 100 is 7.000000000000001.
    steps = float(value)
    for _ in range(MAX_FACTOR_DECIMALS):
        if steps.is_integer():
            break
        steps *= 10
    return steps.is_integer() and steps <= MAX_FACTOR_STEPS


def get_lower_bound(schema: Mapping[str, Any]) -> float | None:
    """Return the lower bound of numbers, inclusive or exclusive."""
    return _get_bound(schema, "minimum", "exclusiveMinimum")


def get_upper_bound(schema: Mapping[str, Any]) -> float | None:
    """Return the upper bound of numbers, inclusive or exclusive."""
    return _get_bound(schema, "maximum", "exclusiveMaximum")


def _get_bound(schema: Mapping[str, Any], *names: str) -> float | None:
    for name in names:
        value: float | None = schema.get(name)
        # Up to draft 4, exclusiveMinimum and exclusiveMaximum are booleans.
        if value is not None and not isinstance(value, bool):
            return value
    return None


def _is_within(number: float, low: float, high: float) -> bool:
    return number == 0 or (math.isfinite(number) and low <= abs(number) <= high)
