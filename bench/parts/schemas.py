"""Random JSON schemas of objects as programs use them, the same in every run.

They have nested objects, lists, enums, numbers and strings with and without bounds, formats,
patterns, references (some recursive), alternatives, and sometimes a keyword that the engine of SDK
2.2.1 rejects.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

__all__ = ["random_schemas"]

SEED = 20261125
NAMES = ("name", "age", "city", "tags", "score", "kind", "note", "items", "when", "größe")
WORDS = ("red", "green", "blue", "café", "yes", "no", "north", "south")
PATTERNS = ("^[a-z]{3,8}$", "^[A-Z]{2}[0-9]{4}$", r"^\d{3}-\d{2}$", "^#[0-9a-f]{6}$", "[aeiou]{2}")
FORMATS = ("date", "time", "date-time", "email", "ipv4", "uuid", "uri")
REFERENCE = "#/$defs/part"
TREE = "#/$defs/tree"

Schema = dict[str, Any]


def objects(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    """Objects with required and optional members; some allow additional ones."""

    @st.composite
    def build(draw: st.DrawFn) -> Schema:
        names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True))
        required = [name for name in names if draw(st.integers(0, 3))]
        schema: Schema = {
            "type": "object",
            "properties": {name: draw(inner) for name in names},
            "required": required,
        }
        if draw(st.booleans()):
            schema["additionalProperties"] = False
        if len(names) > 1 and not draw(st.integers(0, 9)):
            schema["dependentRequired"] = {names[0]: [names[1]]}
        return schema

    return build()


def arrays(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    """Short lists, some with unique items."""

    @st.composite
    def build(draw: st.DrawFn) -> Schema:
        low = draw(st.integers(0, 2))
        high = low + draw(st.integers(1, 2))
        schema = {"type": "array", "items": draw(inner), "minItems": low, "maxItems": high}
        if not draw(st.integers(0, 9)):
            schema = {
                "type": "array",
                "items": {"enum": [*WORDS]},
                "minItems": low,
                "maxItems": high,
            }
            schema["uniqueItems"] = True
        return schema

    return build()


@st.composite
def integers(draw: st.DrawFn) -> Schema:
    low = draw(st.integers(-1000, 1000))
    high = low + draw(st.integers(10, 10_000))
    schema: Schema = {"type": "integer", "minimum": low, "maximum": high}
    match draw(st.integers(0, 5)):
        case 0:
            schema["multipleOf"] = draw(st.sampled_from([2, 5, 10]))
        case 1:
            schema = {"type": "integer", "exclusiveMinimum": low}
        case 2:
            schema = {"type": "integer"}
    return schema


@st.composite
def numbers(draw: st.DrawFn) -> Schema:
    low = draw(st.sampled_from([-100, -1.5, 0, 0.25, 10]))
    schema: Schema = {"type": "number", "minimum": low, "maximum": low + draw(st.integers(1, 500))}
    match draw(st.integers(0, 3)):
        case 0:
            schema["multipleOf"] = draw(st.sampled_from([0.01, 0.1, 0.5]))
        case 1:
            schema = {"type": "number"}
    return schema


@st.composite
def texts(draw: st.DrawFn) -> Schema:
    """Strings, most of them with a length, a pattern or a format."""
    match draw(st.integers(0, 9)):
        case 0:
            return {"type": "string"}
        case 1 | 2:
            return {"type": "string", "pattern": draw(st.sampled_from(PATTERNS)), "maxLength": 24}
        case 3:
            return {"type": "string", "pattern": "^(?!x)[a-z]+$", "maxLength": 8}
        case 4 | 5:
            return {"type": "string", "format": draw(st.sampled_from(FORMATS)), "maxLength": 40}
        case _:
            low = draw(st.integers(0, 5))
            high = low + draw(st.integers(1, 20))
            return {"type": "string", "minLength": low, "maxLength": high}


choices = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4, unique=True).map(
    lambda words: {"enum": words}
)
plain = st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"const": "fixed"}, {"const": 7}])
references = st.sampled_from([{"$ref": REFERENCE}, {"$ref": TREE}])
leaves = st.one_of(integers(), numbers(), texts(), choices, plain, references)


def alternatives(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    several = st.lists(inner, min_size=2, max_size=3).map(lambda options: {"anyOf": options})
    optional = inner.map(lambda schema: {"anyOf": [schema, {"type": "null"}]})
    small = {"type": "integer", "minimum": 0, "maximum": 20}
    either = st.just({"oneOf": [small, {"type": "integer", "minimum": 10, "maximum": 99}]})
    unlike = st.just({"type": "string", "maxLength": 6, "not": {"enum": ["", "x"]}})
    # The engine rejects the last two, which are rare in programs, too.
    return st.one_of(*[several, optional] * 3, either, unlike)


nested = st.recursive(
    leaves, lambda inner: objects(inner) | arrays(inner) | alternatives(inner), max_leaves=8
)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    """An object with the definitions that it refers to."""
    schema = draw(objects(nested))
    if "$ref" in json.dumps(schema):
        part = draw(objects(st.one_of(integers(), choices, plain)))
        tree = {
            "type": "object",
            "properties": {
                "value": {"type": "integer", "minimum": 0, "maximum": 99},
                "children": {"type": "array", "items": {"$ref": TREE}, "maxItems": 2},
            },
            "required": ["value"],
            "additionalProperties": False,
        }
        schema["$defs"] = {"part": part, "tree": tree}
    return schema


def random_schemas(count: int) -> list[Schema]:
    """Return `count` different schemas."""
    drawn: dict[str, Schema] = {}

    @seed(SEED)
    @settings(
        max_examples=4 * count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(schemas())
    def draw(schema: Schema) -> None:
        if len(drawn) < count:
            drawn.setdefault(json.dumps(schema, sort_keys=True), schema)

    draw()
    return list(drawn.values())
