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
    LISTS,
    MAPS,
    MAX_BOUND,
    MIN_BOUND,
    SINGLE,
    engine_reads,
    is_enforced,
    is_factor,
    loosened,
    lower_bound,
    upper_bound,
)
from foundry_api.types.errors import GrammarError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = [
    "COMBINERS",
    "SAID_ASIDE",
    "Schema",
    "added",
    "engine_schema",
    "lark_choice",
    "lark_schema",
    "target",
    "told_apart",
]


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


_KNOWN = frozenset({"description", "maximum", "minimum", "title", "type"})


class Range(NamedTuple):
    """The integers from the first to the last."""

    first: int
    last: int


def told_apart(branches: Sequence[Schema]) -> Sequence[Schema]:
    """The branches of a `oneOf` without what two of them allow, if all are ranges of integers."""
    ranges = [found for branch in branches if (found := _range(branch)) is not None]
    if len(ranges) < len(branches):
        return branches
    cuts = sorted({each.first for each in ranges} | {each.last + 1 for each in ranges})
    single = [Range(low, high - 1) for low, high in pairwise(cuts) if _holding(ranges, low) == 1]
    if not single or sum(map(_size, single)) == sum(map(_size, ranges)):
        return branches  # nothing is left, or nothing overlaps
    return [{"type": "integer", "minimum": each.first, "maximum": each.last} for each in single]


def _range(branch: Schema) -> Range | None:
    if isinstance(branch, bool) or branch.get("type") != "integer" or not branch.keys() <= _KNOWN:
        return None
    first, last = branch.get("minimum"), branch.get("maximum")
    if type(first) is not int or type(last) is not int or first > last:
        return None
    return Range(first, last)


def _holding(ranges: Sequence[Range], number: int) -> int:
    return sum(each.first <= number <= each.last for each in ranges)


def _size(each: Range) -> int:
    return each.last - each.first + 1


Schema = dict[str, Any] | bool


def target(root: dict[str, Any], reference: object, path: str) -> Schema:
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
        found = _found(root, reference, path)
        if not isinstance(found, dict) or set(found) != {"$ref"}:
            return found
        reference = found["$ref"]
        if reference in seen:
            raise GrammarError(f"{path}: {reference!r} leads only to itself", field=_FIELD)
        seen.append(reference)


def _found(root: dict[str, Any], reference: object, path: str) -> Schema:
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise GrammarError(
            f"{path}: {reference!r} leads out of the schema, and nothing is fetched for it",
            hint="Put what it means under $defs and refer to it as #/$defs/NAME.",
            field=_FIELD,
        )
    fragment = unquote(reference[1:])
    found = _at(root, fragment) if fragment[:1] in {"", "/"} else _anchored(root, fragment)
    if not isinstance(found, dict | bool):
        raise GrammarError(f"{path}: {reference!r} leads to no schema", field=_FIELD)
    return cast("Schema", found)


def _at(root: dict[str, Any], pointer: str) -> object:
    value: Any = root
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        try:
            value = value[int(name) if isinstance(value, list) else name]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return value


def _anchored(root: dict[str, Any], name: str) -> object:
    names = ("$anchor", "$dynamicAnchor")
    return next((each for each in _objects(root) if name in map(each.get, names)), None)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        yield members
        for member in members.values():
            yield from _objects(member)
    elif isinstance(value, list):
        for item in cast("Iterable[Any]", value):
            yield from _objects(item)


_FIELD = "response_model"


GUIDANCE = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": True,
}
"""Left to itself, a small model fills its answer with white space up to max_tokens."""


def lark_schema(schema: Mapping[str, Any]) -> str:
    """The grammar of the answers that a schema allows.

    Within a grammar the engine keeps the order of the properties; a schema by itself reaches it
    with the properties in alphabetical order.

    Raises:
        GrammarError: A `$ref` leads nowhere.
    """
    return f"start: %json {json.dumps(engine_schema(schema), ensure_ascii=False)}"


def lark_choice(choices: tuple[str, ...]) -> str:
    """The grammar whose answers are these texts."""
    return f"start: {' | '.join(json.dumps(each, ensure_ascii=False) for each in choices)}"


def engine_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema as the engine takes it; it allows every answer that the given one does.

    With these exceptions, for answers that end: an object that names properties, and says nothing
    of others, gets no others; a number has at most 64 bits before the point; one from 0 on gets
    at most nine decimals, and a time six.

    Raises:
        GrammarError: A `$ref` leads nowhere.
    """
    root = dict(schema)
    shaper = _Shaper(root)
    shaped = shaper.shaped(root, "$", closing=True)
    told = shaped if isinstance(shaped, dict) else {"allOf": [shaped]}
    if "$schema" in schema:
        told = {"$schema": schema["$schema"], **told}
    if shaper.definitions:
        told = {**told, "$defs": shaper.definitions}
    return {**told, "x-guidance": GUIDANCE}


class _Shaper:
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

    def shaped(self, schema: Schema, path: str, *, closing: bool) -> Schema:
        """One schema within the whole.

        Args:
            schema: As the caller wrote it.
            path: Where it stands.
            closing: Whether nothing else bears on the same value, so that objects may be closed.
        """
        if isinstance(schema, bool):
            return schema
        combined = COMBINERS & schema.keys()
        alone = closing and (not combined or len(schema.keys() - SAID_ASIDE) == 1)
        alone = alone and len(schema.get("allOf", ())) <= 1
        shaped = {
            name: self._member(name, value, f"{path}.{name}", closing=alone)
            for name, value in schema.items()
            if is_enforced(schema, name)
        }
        if not all(map(engine_reads, schema.get("patternProperties", ()))):
            # Which members are additional depends on the patterns.
            shaped.pop("patternProperties")
            shaped.pop("additionalProperties", None)
        return {**shaped, **added(schema, shaped, closing=closing)}

    def _member(self, name: str, value: Any, path: str, *, closing: bool) -> Any:
        if name == "$ref":
            return self._reference(value, path, closing=closing)
        if name == "pattern":
            return loosened(value)
        if name in MAPS:
            members = cast("dict[str, Schema]", value)
            return {
                key: self.shaped(each, f"{path}.{key}", closing=closing)
                for key, each in members.items()
            }
        if name in LISTS or (name in SINGLE and isinstance(value, list)):
            items: Sequence[Schema] = cast("list[Schema]", value)
            if name == "oneOf":
                items = told_apart(items)
            return [
                self.shaped(each, f"{path}[{index}]", closing=closing)
                for index, each in enumerate(items)
            ]
        return self.shaped(value, path, closing=closing) if name in SINGLE else value

    def _reference(self, reference: object, path: str, *, closing: bool) -> str:
        found = target(self._root, reference, path)
        key = (id(found), closing)
        if isinstance(found, bool):
            key = (int(found), closing)
        if key not in self._numbers:
            number = self._numbers[key] = str(len(self._numbers) + 1)
            self.definitions[number] = True  # holds the place while it refers to itself
            self.definitions[number] = self.shaped(found, str(reference), closing=closing)
        return f"#/$defs/{self._numbers[key]}"
