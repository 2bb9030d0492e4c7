"""What the engine gets beside the keywords of a schema, so that answers end, and pass.

Left to itself a small model adds members, digits and white space up to max_tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foundry_api.structured.keywords import is_factor, lower_bound, upper_bound

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

_YEAR = "(?:[1-9]...|0[1-9]..|00[1-9].|000[1-9])"
_SECONDS = r"[0-5].(?:\.[0-9]{1,6})?(?:[Zz]|[+-]..:..)"
_STRICTER = {
    "date": f"^{_YEAR}-",
    "time": f"^..:..:{_SECONDS}$",
    "date-time": f"^{_YEAR}-..-..T..:..:{_SECONDS}$",
}
"""The engine writes the year 0, second 60, and decimals without end."""


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
    if _may_go_on(shaped):
        more["multipleOf"] = SMALLEST_STEP
    if "pattern" not in schema and shaped.get("format") in _STRICTER:
        more["pattern"] = _STRICTER[shaped["format"]]
    needs: dict[str, list[str]] = schema.get("dependentRequired", {})
    either = [_absent_or(name, needed) for name, needed in needs.items()]
    if _has_negatives(schema, shaped):
        either.append(_multiple_or_negative(schema["multipleOf"]))
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


def _may_go_on(shaped: Mapping[str, Any]) -> bool:
    """Whether decimals without end would still be a number of the schema.

    Between bounds the engine writes no exponents, so that nothing else is lost. Its multiples
    are never negative.
    """
    low, high = lower_bound(shaped), upper_bound(shaped)
    if shaped.get("type") != "number" or "multipleOf" in shaped or low is None or high is None:
        return False
    return low >= 0 and high - low >= 1
