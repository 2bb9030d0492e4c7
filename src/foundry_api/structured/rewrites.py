"""What the engine gets beside the keywords of a schema, so that answers end, and pass.

Left to itself a small model adds members, digits and white space up to max_tokens.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from foundry_api.structured.keywords import (
    MAX_BOUND,
    MIN_BOUND,
    is_factor,
    lower_bound,
    upper_bound,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["COMBINERS", "SAID_ASIDE", "added"]

COMBINERS = frozenset({"$ref", "allOf", "anyOf", "oneOf"})
"""They describe the same value once more."""

SAID_ASIDE = frozenset(
    {"$anchor", "$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated"}
    | {"description", "examples", "readOnly", "title", "writeOnly"}
)
"""They describe no value."""

_RELATIONS = COMBINERS | {
    *("additionalProperties", "dependencies", "dependentSchemas", "else", "if", "minProperties"),
    *("not", "patternProperties", "propertyNames", "then", "unevaluatedProperties"),
    *("$dynamicRef", "$recursiveRef"),
}
"""With these beside its properties, an object may need members that it does not name itself."""

SMALLEST_STEP = 1e-9

LAST_INTEGER = 2**63 - 1
FIRST_INTEGER = 1024 - 2**63
"""The engine computes bounds as floats and fails at -(2**63), the next float below (probed)."""

LARGEST_NUMBER = 9e18
"""The engine fails at larger bounds of numbers (probed)."""

_YEAR = "(?:[1-9]...|0[1-9]..|00[1-9].|000[1-9])"
_SECONDS = r"[0-5].(?:\.[0-9]{1,6})?(?:[Zz]|[+-]..:..)"
_STRICTER = {
    "date": f"^{_YEAR}-",
    "time": f"^..:..:{_SECONDS}$",
    "date-time": f"^{_YEAR}-..-..T..:..:{_SECONDS}$",
}
"""The engine writes the year 0, second 60, and decimals without end."""

_DECIMAL = r"^-?[0-9]{1,15}(\.[0-9]{1,9})?$"
"""A format of msgspec's, which the engine does not know."""


def added(schema: Mapping[str, Any], shaped: Mapping[str, Any], *, closing: bool) -> dict[str, Any]:
    """Further keywords.

    Args:
        schema: As the caller wrote it.
        shaped: What the engine gets of it.
        closing: Whether nothing else bears on the same value.
    """
    more: dict[str, Any] = {}
    if closing and _may_close(schema):
        more["additionalProperties"] = False
    more.update(_missing_bounds(schema, shaped))
    bounded = {**shaped, **more}
    if _has_decimals_without_end(bounded) and (lower_bound(bounded) or 0) >= 0:
        more["multipleOf"] = SMALLEST_STEP
    if "pattern" not in schema and shaped.get("format") in _STRICTER:
        more["pattern"] = _STRICTER[shaped["format"]]
    if "pattern" not in schema and schema.get("format") == "decimal":
        more["pattern"] = _DECIMAL
    needs: dict[str, list[str]] = schema.get("dependentRequired", {})
    either = [_absent_or(name, needed) for name, needed in needs.items()]
    if _has_negatives(schema, shaped):
        either.append(_multiple_or_negative(schema["multipleOf"]))
    elif "multipleOf" not in more and _has_decimals_without_end(bounded):
        either.append(_multiple_or_negative(SMALLEST_STEP))
    if either:
        more["allOf"] = [*shaped.get("allOf", ()), *either]
    return more


def _absent_or(name: str, needed: list[str]) -> dict[str, Any]:
    """`dependentRequired` in words that the engine knows."""
    return {"anyOf": [{"properties": {name: False}}, {"required": needed}]}


def _multiple_or_negative(factor: float) -> dict[str, Any]:
    """`multipleOf`, whose multiples the engine takes from 0 on; the others are only validated."""
    return {"anyOf": [{"minimum": 0, "multipleOf": factor}, {"exclusiveMaximum": 0}]}


def _has_negatives(schema: Mapping[str, Any], shaped: Mapping[str, Any]) -> bool:
    if "multipleOf" not in schema or "multipleOf" in shaped or not is_factor(schema["multipleOf"]):
        return False
    high = upper_bound(shaped)
    return shaped.get("type") in {"integer", "number"} and (high is None or high >= 0)


def _may_close(schema: Mapping[str, Any]) -> bool:
    properties: dict[str, Any] = schema.get("properties", {})
    if not properties or _RELATIONS & schema.keys():
        return False
    needed = {*schema.get("required", ())}.union(*schema.get("dependentRequired", {}).values())
    return needed <= properties.keys()


def _number_type(schema: Mapping[str, Any]) -> str | None:
    """The kind of numbers that a schema allows without listing them."""
    types = schema.get("type", ())
    types = [types] if isinstance(types, str) else types
    if "enum" in schema or "const" in schema:
        return None
    return next((name for name in ("number", "integer") if name in types), None)


def _missing_bounds(schema: Mapping[str, Any], shaped: Mapping[str, Any]) -> dict[str, float]:
    """Bounds for numbers that have none: a model adds digits up to max_tokens.

    A bound beyond 64 bits becomes one of 64 bits.
    """
    kind = _number_type(schema)
    if kind is None:
        return {}
    low, high = lower_bound(schema), upper_bound(schema)
    first, last = _span(kind, low, high)
    if (low is not None and low >= last) or (high is not None and high <= first):
        return {}
    bounds: dict[str, float] = {}
    if lower_bound(shaped) is None:
        bounds["minimum"] = first if low is None else max(first, _rounded_down(kind, low))
    if upper_bound(shaped) is None:
        bounds["maximum"] = last if high is None else min(last, -_rounded_down(kind, -high))
    return bounds


def _span(kind: str, low: float | None, high: float | None) -> tuple[float, float]:
    """The numbers that the engine may write, beside the bounds of a schema."""
    if kind == "integer":
        return FIRST_INTEGER, LAST_INTEGER
    is_usual = all(bound is None or abs(bound) < MAX_BOUND for bound in (low, high))
    largest = MAX_BOUND if is_usual else LARGEST_NUMBER
    return -largest, largest


def _rounded_down(kind: str, bound: float) -> float:
    """A lower bound as the engine takes it, which allows no less."""
    if kind == "integer":
        return math.ceil(bound)
    if 0 < abs(bound) < MIN_BOUND:
        return 0 if bound > 0 else -MIN_BOUND
    return bound


def _has_decimals_without_end(bounded: Mapping[str, Any]) -> bool:
    """Whether numbers from 0 on can be kept to a step without losing any other.

    Between bounds the engine writes no exponents. Its multiples are never negative.
    """
    low, high = lower_bound(bounded), upper_bound(bounded)
    if _number_type(bounded) != "number" or "multipleOf" in bounded or low is None or high is None:
        return False
    return high - max(low, 0) >= 1
