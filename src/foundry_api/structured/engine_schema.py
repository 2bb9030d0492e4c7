"""What the engine gets beside the keywords of a schema, so that answers end, and pass.

Left to itself a small model adds members, digits and white space up to max_tokens.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import unquote

from foundry_api.structured.schema_keywords import (
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
from foundry_api.types.errors import GrammarError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = [
    "ANNOTATIONS",
    "COMBINERS",
    "Schema",
    "extra_constraints",
    "make_choice_grammar",
    "make_disjoint",
    "make_engine_schema",
    "make_schema_grammar",
    "resolve_ref",
]


COMBINERS = frozenset({"$ref", "allOf", "anyOf", "oneOf"})
"""They describe the same value once more."""

ANNOTATIONS = frozenset(
    {"$anchor", "$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated"}
    | {"description", "examples", "readOnly", "title", "writeOnly"}
)
"""They describe no value."""

_RELATIONAL_KEYWORDS = COMBINERS | {
    *("additionalProperties", "dependencies", "dependentSchemas", "else", "if", "minProperties"),
    *("not", "patternProperties", "propertyNames", "then", "unevaluatedProperties"),
    *("$dynamicRef", "$recursiveRef"),
}
"""With these beside its properties, an object may need members that it does not name itself."""

MIN_STEP = 1e-9

MAX_INTEGER = 2**63 - 1
MIN_INTEGER = 1024 - 2**63
"""The engine computes bounds as floats and fails at -(2**63), the next float below (probed)."""

MAX_NUMBER = 9e18
"""The engine fails at larger bounds of numbers (probed)."""

_YEAR = "(?:[1-9]...|0[1-9]..|00[1-9].|000[1-9])"
_SECONDS = r"[0-5].(?:\.[0-9]{1,6})?(?:[Zz]|[+-]..:..)"
_STRICT_PATTERNS = {
    "date": f"^{_YEAR}-",
    "time": f"^..:..:{_SECONDS}$",
    "date-time": f"^{_YEAR}-..-..T..:..:{_SECONDS}$",
}
"""The engine writes the year 0, second 60, and decimals without end."""

_DECIMAL_PATTERN = r"^-?[0-9]{1,15}(\.[0-9]{1,9})?$"
"""A format of msgspec's, which the engine does not know."""


def extra_constraints(
    schema: Mapping[str, Any], rewritten: Mapping[str, Any], *, may_close: bool
) -> dict[str, Any]:
    """Further keywords.

    Args:
        schema: As the caller wrote it.
        rewritten: What the engine gets of it.
        may_close: Whether nothing else bears on the same value.
    """
    extra: dict[str, Any] = {}
    if may_close and _can_close(schema):
        extra["additionalProperties"] = False
    extra.update(_make_missing_bounds(schema, rewritten))
    bounded = {**rewritten, **extra}
    if _has_unbounded_decimals(bounded) and (get_lower_bound(bounded) or 0) >= 0:
        extra["multipleOf"] = MIN_STEP
    if "pattern" not in schema and rewritten.get("format") in _STRICT_PATTERNS:
        extra["pattern"] = _STRICT_PATTERNS[rewritten["format"]]
    if "pattern" not in schema and schema.get("format") == "decimal":
        extra["pattern"] = _DECIMAL_PATTERN
    dependencies: dict[str, list[str]] = schema.get("dependentRequired", {})
    conditions = [_optional_or(name, needed) for name, needed in dependencies.items()]
    if _needs_negative_branch(schema, rewritten):
        conditions.append(_make_multiple_or_negative(schema["multipleOf"]))
    elif "multipleOf" not in extra and _has_unbounded_decimals(bounded):
        conditions.append(_make_multiple_or_negative(MIN_STEP))
    if conditions:
        extra["allOf"] = [*rewritten.get("allOf", ()), *conditions]
    return extra


def _optional_or(name: str, required: list[str]) -> dict[str, Any]:
    """`dependentRequired` in words that the engine knows."""
    return {"anyOf": [{"properties": {name: False}}, {"required": required}]}


def _make_multiple_or_negative(factor: float) -> dict[str, Any]:
    """`multipleOf`, whose multiples the engine takes from 0 on; the others are only validated."""
    return {"anyOf": [{"minimum": 0, "multipleOf": factor}, {"exclusiveMaximum": 0}]}


def _needs_negative_branch(schema: Mapping[str, Any], rewritten: Mapping[str, Any]) -> bool:
    if (
        "multipleOf" not in schema
        or "multipleOf" in rewritten
        or not is_supported_factor(schema["multipleOf"])
    ):
        return False
    high = get_upper_bound(rewritten)
    return rewritten.get("type") in {"integer", "number"} and (high is None or high >= 0)


def _can_close(schema: Mapping[str, Any]) -> bool:
    properties: dict[str, Any] = schema.get("properties", {})
    if not properties or _RELATIONAL_KEYWORDS & schema.keys():
        return False
    needed = {*schema.get("required", ())}.union(*schema.get("dependentRequired", {}).values())
    return needed <= properties.keys()


def _get_number_type(schema: Mapping[str, Any]) -> str | None:
    """The kind of numbers that a schema allows without listing them."""
    types = schema.get("type", ())
    types = [types] if isinstance(types, str) else types
    if "enum" in schema or "const" in schema:
        return None
    return next((name for name in ("number", "integer") if name in types), None)


def _make_missing_bounds(
    schema: Mapping[str, Any], rewritten: Mapping[str, Any]
) -> dict[str, float]:
    """Bounds for numbers that have none: a model adds digits up to max_tokens.

    A bound beyond 64 bits becomes one of 64 bits.
    """
    kind = _get_number_type(schema)
    if kind is None:
        return {}
    low, high = get_lower_bound(schema), get_upper_bound(schema)
    first, last = _get_number_span(kind, low, high)
    if (low is not None and low >= last) or (high is not None and high <= first):
        return {}
    bounds: dict[str, float] = {}
    if get_lower_bound(rewritten) is None:
        bounds["minimum"] = first if low is None else max(first, _round_down(kind, low))
    if get_upper_bound(rewritten) is None:
        bounds["maximum"] = last if high is None else min(last, -_round_down(kind, -high))
    return bounds


def _get_number_span(kind: str, low: float | None, high: float | None) -> tuple[float, float]:
    """The numbers that the engine may write, beside the bounds of a schema."""
    if kind == "integer":
        return MIN_INTEGER, MAX_INTEGER
    is_usual = all(bound is None or abs(bound) < MAX_BOUND for bound in (low, high))
    largest = MAX_BOUND if is_usual else MAX_NUMBER
    return -largest, largest


def _round_down(kind: str, bound: float) -> float:
    """A lower bound as the engine takes it, which allows no less."""
    if kind == "integer":
        return math.ceil(bound)
    if 0 < abs(bound) < MIN_BOUND:
        return 0 if bound > 0 else -MIN_BOUND
    return bound


def _has_unbounded_decimals(bounded: Mapping[str, Any]) -> bool:
    """Whether numbers from 0 on can be kept to a step without losing any other.

    Between bounds the engine writes no exponents. Its multiples are never negative.
    """
    low, high = get_lower_bound(bounded), get_upper_bound(bounded)
    if (
        _get_number_type(bounded) != "number"
        or "multipleOf" in bounded
        or low is None
        or high is None
    ):
        return False
    return high - max(low, 0) >= 1


_RANGE_KEYWORDS = frozenset({"description", "maximum", "minimum", "title", "type"})


class IntegerRange(NamedTuple):
    """The integers from the first to the last."""

    first: int
    last: int


def make_disjoint(branches: Sequence[Schema]) -> Sequence[Schema]:
    """The branches of a `oneOf` without what two of them allow, if all are ranges of integers."""
    ranges = [
        integer_range for branch in branches if (integer_range := _parse_range(branch)) is not None
    ]
    if len(ranges) < len(branches):
        return branches
    boundaries = sorted({item.first for item in ranges} | {item.last + 1 for item in ranges})
    disjoint = [
        IntegerRange(low, high - 1)
        for low, high in pairwise(boundaries)
        if _matching(ranges, low) == 1
    ]
    if not disjoint or sum(map(_count_integers, disjoint)) == sum(map(_count_integers, ranges)):
        return branches  # nothing is left, or nothing overlaps
    return [{"type": "integer", "minimum": item.first, "maximum": item.last} for item in disjoint]


def _parse_range(branch: Schema) -> IntegerRange | None:
    if (
        isinstance(branch, bool)
        or branch.get("type") != "integer"
        or not branch.keys() <= _RANGE_KEYWORDS
    ):
        return None
    first, last = branch.get("minimum"), branch.get("maximum")
    if type(first) is not int or type(last) is not int or first > last:
        return None
    return IntegerRange(first, last)


def _matching(ranges: Sequence[IntegerRange], number: int) -> int:
    return sum(item.first <= number <= item.last for item in ranges)


def _count_integers(integer_range: IntegerRange) -> int:
    return integer_range.last - integer_range.first + 1


Schema = dict[str, Any] | bool


def resolve_ref(root: dict[str, Any], reference: object, path: str) -> Schema:
    """The schema that a reference means, through references that say nothing else.

    Args:
        root: The whole schema.
        reference: The value of `$ref`.
        path: Where it stands, for the error.

    Raises:
        GrammarError: It leads out of the schema, nowhere, or only to itself.
    """
    seen: list[object] = []
    while True:
        schema = _resolve_once(root, reference, path)
        if not isinstance(schema, dict) or set(schema) != {"$ref"}:
            return schema
        reference = schema["$ref"]
        if reference in seen:
            raise GrammarError(f"{path}: {reference!r} leads only to itself", field=_FIELD)
        seen.append(reference)


def _resolve_once(root: dict[str, Any], reference: object, path: str) -> Schema:
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise GrammarError(
            f"{path}: {reference!r} leads out of the schema, and nothing is fetched for it",
            hint="Put what it means under $defs and refer to it as #/$defs/NAME.",
            field=_FIELD,
        )
    fragment = unquote(reference[1:])
    schema = (
        _resolve_pointer(root, fragment)
        if fragment[:1] in {"", "/"}
        else _find_anchor(root, fragment)
    )
    if not isinstance(schema, dict | bool):
        raise GrammarError(f"{path}: {reference!r} leads to no schema", field=_FIELD)
    return cast("Schema", schema)


def _resolve_pointer(root: dict[str, Any], pointer: str) -> object:
    value: Any = root
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        try:
            value = value[int(name) if isinstance(value, list) else name]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return value


def _find_anchor(root: dict[str, Any], name: str) -> object:
    names = ("$anchor", "$dynamicAnchor")
    return next(
        (candidate for candidate in _iter_objects(root) if name in map(candidate.get, names)), None
    )


def _iter_objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        yield members
        for member in members.values():
            yield from _iter_objects(member)
    elif isinstance(value, list):
        for item in cast("Iterable[Any]", value):
            yield from _iter_objects(item)


_FIELD = "response_model"


GUIDANCE_OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": True,
}
"""Left to itself, a small model fills its answer with white space up to max_tokens."""


def make_schema_grammar(schema: Mapping[str, Any]) -> str:
    """The grammar of the answers that a schema allows.

    Within a grammar the engine keeps the order of the properties; a schema by itself reaches it
    with the properties in alphabetical order.

    Raises:
        GrammarError: A `$ref` leads nowhere.
    """
    return f"start: %json {json.dumps(make_engine_schema(schema), ensure_ascii=False)}"


def make_choice_grammar(choices: tuple[str, ...]) -> str:
    """The grammar whose answers are these texts."""
    return f"start: {' | '.join(json.dumps(choice, ensure_ascii=False) for choice in choices)}"


def make_engine_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema as the engine takes it; it allows every answer that the given one does.

    With these exceptions, for answers that end: an object that names properties, and says nothing
    of others, gets no others; a number has at most 64 bits before the point; one from 0 on gets
    at most nine decimals, and a time six.

    Raises:
        GrammarError: A `$ref` leads nowhere.
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
    """Goes through one schema. What references mean is collected as definitions.

    Args:
        root: The whole schema.

    Attributes:
        definitions: What the references mean, by number.
    """

    def __init__(self, root: dict[str, Any]) -> None:
        self.definitions: dict[str, Schema] = {}
        self._root = root
        self._numbers: dict[tuple[int, bool], str] = {}

    def rewrite(self, schema: Schema, path: str, *, may_close: bool) -> Schema:
        """One schema within the whole.

        Args:
            schema: As the caller wrote it.
            path: Where it stands.
            may_close: Whether nothing else bears on the same value, so that objects may be closed.
        """
        if isinstance(schema, bool):
            return schema
        combined = COMBINERS & schema.keys()
        members_may_close = may_close and (not combined or len(schema.keys() - ANNOTATIONS) == 1)
        members_may_close = members_may_close and len(schema.get("allOf", ())) <= 1
        rewritten = {
            name: self._rewrite_member(name, value, f"{path}.{name}", may_close=members_may_close)
            for name, value in schema.items()
            if is_enforced(schema, name)
        }
        if not all(map(is_supported_pattern, schema.get("patternProperties", ()))):
            # Which members are additional depends on the patterns.
            rewritten.pop("patternProperties")
            rewritten.pop("additionalProperties", None)
        return {**rewritten, **extra_constraints(schema, rewritten, may_close=may_close)}

    def _rewrite_member(self, name: str, value: Any, path: str, *, may_close: bool) -> Any:
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
        target_schema = resolve_ref(self._root, reference, path)
        key = (id(target_schema), may_close)
        if isinstance(target_schema, bool):
            key = (int(target_schema), may_close)
        if key not in self._numbers:
            number = self._numbers[key] = str(len(self._numbers) + 1)
            self.definitions[number] = True  # holds the place while it refers to itself
            self.definitions[number] = self.rewrite(
                target_schema, str(reference), may_close=may_close
            )
        return f"#/$defs/{self._numbers[key]}"
