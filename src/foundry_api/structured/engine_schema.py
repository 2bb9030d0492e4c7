"""Rewrite JSON schemas for the inference engine, so that it accepts them and its answers end.

Small models tend to add members, digits and whitespace until max_tokens; the added keywords stop
them.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from foundry_api.structured.references import resolve_ref
from foundry_api.structured.schema_keywords import (
    ANNOTATIONS,
    COMBINERS,
    LIST_KEYWORDS,
    MAP_KEYWORDS,
    MAX_BOUND,
    MIN_BOUND,
    SINGLE_SCHEMA,
    get_lower_bound,
    get_upper_bound,
    is_enforced,
    is_supported_factor,
    is_supported_pattern,
    relax_pattern,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from foundry_api.structured.references import Schema

__all__ = ["make_choice_grammar", "make_disjoint", "make_engine_schema", "make_schema_grammar"]

# Without these separators, a small model fills its answer with whitespace up to max_tokens.
GUIDANCE_OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": True,
}

# An object that has one of these next to its properties may need members that it does not name.
_RELATIONAL_KEYWORDS = COMBINERS | {
    *("additionalProperties", "dependencies", "dependentSchemas", "else", "if", "minProperties"),
    *("not", "patternProperties", "propertyNames", "then", "unevaluatedProperties"),
    *("$dynamicRef", "$recursiveRef"),
}
_RANGE_KEYWORDS = frozenset({"description", "maximum", "minimum", "title", "type"})

# At most nine decimals.
MIN_STEP = 1e-9
MAX_INTEGER = 2**63 - 1
# The engine computes bounds as floats and fails at -(2**63), the next float below (probed).
MIN_INTEGER = 1024 - 2**63
# The engine fails at larger bounds of numbers (probed).
MAX_NUMBER = 9e18

# Without these patterns, the engine writes the year 0, second 60, and decimals without end.
_YEAR = "(?:[1-9]...|0[1-9]..|00[1-9].|000[1-9])"
_SECONDS = r"[0-5].(?:\.[0-9]{1,6})?(?:[Zz]|[+-]..:..)"
_STRICT_PATTERNS = {
    "date": f"^{_YEAR}-",
    "time": f"^..:..:{_SECONDS}$",
    "date-time": f"^{_YEAR}-..-..T..:..:{_SECONDS}$",
}
# "decimal" is a format that msgspec writes and the engine does not know.
_DECIMAL_PATTERN = r"^-?[0-9]{1,15}(\.[0-9]{1,9})?$"


def make_choice_grammar(choices: tuple[str, ...]) -> str:
    """Return the grammar that allows exactly these texts."""
    return f"start: {' | '.join(json.dumps(choice, ensure_ascii=False) for choice in choices)}"


def make_schema_grammar(schema: Mapping[str, Any]) -> str:
    """Return the grammar of the answers that a schema allows; see `make_engine_schema`."""
    # The engine keeps the order of properties only within a grammar. It reads a plain schema with
    # its properties sorted.
    return f"start: %json {json.dumps(make_engine_schema(schema), ensure_ascii=False)}"


def make_engine_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Rewrite a schema for the engine. Raises GrammarError for a `$ref` that cannot be resolved.

    The result allows every answer that the schema allows, except that objects get no members that
    the schema does not name, unless it says something about additional ones; numbers are bounded
    to 64 bits and non-negative ones to nine decimals, and times to six.
    """
    root = dict(schema)
    rewriter = _SchemaRewriter(root)
    rewritten = rewriter.rewrite(root, "$", may_close=True)
    result = rewritten if isinstance(rewritten, dict) else {"allOf": [rewritten]}
    if "$schema" in schema:
        result = {"$schema": schema["$schema"], **result}
    if rewriter.definitions:
        result = {**result, "$defs": rewriter.definitions}
    return {**result, "x-guidance": GUIDANCE_OPTIONS}


class _SchemaRewriter:
    """Rewrites one schema; `definitions` collects the targets of its references, by number."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.definitions: dict[str, Schema] = {}
        self._root = root
        # By identity of the target, and whether it was rewritten with closed objects.
        self._numbers: dict[tuple[int, bool], str] = {}

    def rewrite(self, schema: Schema, path: str, *, may_close: bool) -> Schema:
        """Rewrite a schema at a path.

        `may_close` is False if another schema applies to the same value: a closed object would
        exclude the members that the other schema names.
        """
        if isinstance(schema, bool):
            return schema
        combined = COMBINERS & schema.keys()
        members_may_close = may_close and (not combined or len(schema.keys() - ANNOTATIONS) == 1)
        members_may_close = members_may_close and len(schema.get("allOf", ())) <= 1
        rewritten = {
            name: self._rewrite_keyword(name, value, f"{path}.{name}", may_close=members_may_close)
            for name, value in schema.items()
            if is_enforced(schema, name)
        }
        if not all(map(is_supported_pattern, schema.get("patternProperties", ()))):
            # Which members are additional depends on the patterns.
            rewritten.pop("patternProperties")
            rewritten.pop("additionalProperties", None)
        return {**rewritten, **_make_extra_keywords(schema, rewritten, may_close=may_close)}

    def _rewrite_keyword(self, name: str, value: Any, path: str, *, may_close: bool) -> Any:
        if name == "$ref":
            return self._rewrite_reference(value, path, may_close=may_close)
        if name == "pattern":
            return relax_pattern(value)
        if name in MAP_KEYWORDS:
            members = cast("dict[str, Schema]", value)
            return {
                key: self.rewrite(item, f"{path}.{key}", may_close=may_close)
                for key, item in members.items()
            }
        if name in LIST_KEYWORDS or (name in SINGLE_SCHEMA and isinstance(value, list)):
            items: Sequence[Schema] = cast("list[Schema]", value)
            if name == "oneOf":
                items = make_disjoint(items)
            return [
                self.rewrite(item, f"{path}[{index}]", may_close=may_close)
                for index, item in enumerate(items)
            ]
        return self.rewrite(value, path, may_close=may_close) if name in SINGLE_SCHEMA else value

    def _rewrite_reference(self, reference: object, path: str, *, may_close: bool) -> str:
        # The engine reads definitions only from the root's $defs, and rejects names such as
        # `Page[int]`. Numbers are always valid.
        target = resolve_ref(self._root, reference, path)
        key = (int(target) if isinstance(target, bool) else id(target), may_close)
        if key not in self._numbers:
            number = self._numbers[key] = str(len(self._numbers) + 1)
            self.definitions[number] = True  # reserves the place: the target may be recursive
            self.definitions[number] = self.rewrite(target, str(reference), may_close=may_close)
        return f"#/$defs/{self._numbers[key]}"


def _make_extra_keywords(
    schema: Mapping[str, Any], rewritten: Mapping[str, Any], *, may_close: bool
) -> dict[str, Any]:
    """Return the keywords to add to a rewritten schema."""
    extra: dict[str, Any] = {}
    properties: dict[str, Any] = schema.get("properties", {})
    dependencies: dict[str, list[str]] = schema.get("dependentRequired", {})
    if may_close and properties and not _RELATIONAL_KEYWORDS & schema.keys():
        required = {*schema.get("required", ())}.union(*dependencies.values())
        if required <= properties.keys():
            extra["additionalProperties"] = False
    extra.update(_make_missing_bounds(schema, rewritten))
    bounded = {**rewritten, **extra}
    has_unbounded_decimals = _has_unbounded_decimals(bounded)
    if has_unbounded_decimals and (get_lower_bound(bounded) or 0) >= 0:
        extra["multipleOf"] = MIN_STEP
    if "pattern" not in schema and rewritten.get("format") in _STRICT_PATTERNS:
        extra["pattern"] = _STRICT_PATTERNS[rewritten["format"]]
    if "pattern" not in schema and schema.get("format") == "decimal":
        extra["pattern"] = _DECIMAL_PATTERN
    # The engine does not know dependentRequired.
    conditions: list[dict[str, Any]] = [
        {"anyOf": [{"properties": {name: False}}, {"required": required}]}
        for name, required in dependencies.items()
    ]
    # The engine accepts only multiples from 0 on. Negative numbers are left to validation.
    factor = None
    if (
        "multipleOf" in schema
        and "multipleOf" not in rewritten
        and is_supported_factor(schema["multipleOf"])
        # Not of a set: the type may be a list, such as ["integer", "null"], which has no hash.
        and rewritten.get("type") in ("integer", "number")
        and ((high := get_upper_bound(rewritten)) is None or high >= 0)
    ):
        factor = schema["multipleOf"]
    elif has_unbounded_decimals and "multipleOf" not in extra:
        factor = MIN_STEP
    if factor is not None:
        conditions.append(
            {"anyOf": [{"minimum": 0, "multipleOf": factor}, {"exclusiveMaximum": 0}]}
        )
    if conditions:
        extra["allOf"] = [*rewritten.get("allOf", ()), *conditions]
    return extra


def _has_unbounded_decimals(bounded: Mapping[str, Any]) -> bool:
    """Check whether numbers from 0 on have no limit for decimals yet, and can get one."""
    low, high = get_lower_bound(bounded), get_upper_bound(bounded)
    return (
        _get_number_type(bounded) == "number"
        and "multipleOf" not in bounded
        # Only between two bounds the engine writes no exponents.
        and low is not None
        and high is not None
        # In a narrow range, steps of 1e-9 would exclude too many numbers.
        and high - max(low, 0) >= 1
    )


def _make_missing_bounds(
    schema: Mapping[str, Any], rewritten: Mapping[str, Any]
) -> dict[str, float]:
    """Return bounds for numbers that have none, and replace those beyond 64 bits."""
    kind = _get_number_type(schema)
    if kind is None:
        return {}
    low, high = get_lower_bound(schema), get_upper_bound(schema)
    first: float
    last: float
    if kind == "integer":
        first, last = MIN_INTEGER, MAX_INTEGER
    else:
        is_usual = all(bound is None or abs(bound) < MAX_BOUND for bound in (low, high))
        last = MAX_BOUND if is_usual else MAX_NUMBER
        first = -last
    if (low is not None and low >= last) or (high is not None and high <= first):
        return {}
    bounds: dict[str, float] = {}
    if get_lower_bound(rewritten) is None:
        bounds["minimum"] = first if low is None else max(first, _round_down(kind, low))
    if get_upper_bound(rewritten) is None:
        bounds["maximum"] = last if high is None else min(last, -_round_down(kind, -high))
    return bounds


def _get_number_type(schema: Mapping[str, Any]) -> str | None:
    """Return "number" or "integer" if a schema allows numbers without listing them."""
    types = schema.get("type", ())
    types = [types] if isinstance(types, str) else types
    if "enum" in schema or "const" in schema:
        return None
    return next((name for name in ("number", "integer") if name in types), None)


def _round_down(kind: str, bound: float) -> float:
    """Round a lower bound to a value that the engine accepts, excluding no allowed number."""
    if kind == "integer":
        return math.ceil(bound)
    if 0 < abs(bound) < MIN_BOUND:
        return 0 if bound > 0 else -MIN_BOUND
    return bound


def make_disjoint(branches: Sequence[Schema]) -> Sequence[Schema]:
    """Reduce the integer ranges of a `oneOf` to the integers that exactly one of them allows.

    Branches that are not all integer ranges are returned unchanged.
    """
    ranges: list[tuple[int, int]] = []  # half-open, as a range of Python
    for branch in branches:
        if (
            isinstance(branch, bool)
            or branch.get("type") != "integer"
            or not branch.keys() <= _RANGE_KEYWORDS
        ):
            return branches
        first, last = branch.get("minimum"), branch.get("maximum")
        if type(first) is not int or type(last) is not int or first > last:
            return branches
        ranges.append((first, last + 1))
    boundaries = sorted({boundary for pair in ranges for boundary in pair})
    disjoint = [
        (low, high)
        for low, high in pairwise(boundaries)
        if sum(start <= low < end for start, end in ranges) == 1
    ]
    allowed = sum(end - start for start, end in disjoint)
    if not disjoint or allowed == sum(end - start for start, end in ranges):
        return branches  # no integer is left, or no ranges overlap
    return [{"type": "integer", "minimum": start, "maximum": end - 1} for start, end in disjoint]
