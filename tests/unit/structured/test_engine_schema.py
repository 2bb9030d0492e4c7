"""Schemas rewritten for the engine. tests/service checks what the engine makes of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from foundry_api.structured.engine_schema import (
    GUIDANCE_OPTIONS,
    make_choice_grammar,
    make_engine_schema,
    make_schema_grammar,
)
from foundry_api.structured.schema_keywords import is_supported_pattern, relax_pattern

INTEGER = {"type": "integer", "minimum": -9, "maximum": 9}

FIRST, LAST = 1024 - 2**63, 2**63 - 1


def shaped(schema: dict[str, Any]) -> dict[str, Any]:
    rewritten = make_engine_schema(schema)
    assert rewritten.pop("x-guidance") == GUIDANCE_OPTIONS
    return rewritten


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 1, "maxLength": 3, "pattern": "^a+$"},
        {"type": ["integer", "null"], "minimum": 0, "exclusiveMaximum": 5, "multipleOf": 2},
        {"type": "array", "items": INTEGER, "minItems": 1, "maxItems": 2},
        {"type": "array", "prefixItems": [INTEGER, {"const": "a"}], "items": False},
        {"anyOf": [INTEGER, {"enum": ["a", None]}]},
        {"type": "object", "additionalProperties": INTEGER, "minProperties": 1},
        {"type": "object", "patternProperties": {"^x": INTEGER}, "additionalProperties": False},
        {"type": "string", "format": "uuid"},
    ],
)
def test_enforced_keywords_are_unchanged(schema: dict[str, Any]) -> None:
    assert shaped(schema) == schema


@pytest.mark.parametrize(
    "dropped",
    [
        {"uniqueItems": True},
        {"contains": INTEGER, "minContains": 2},
        {"not": {"const": 3}},
        {"if": INTEGER, "then": {"minimum": 1}, "else": {"maxLength": 2}},
        {"propertyNames": {"pattern": "^x"}},
        {"unevaluatedProperties": False},
        {"$dynamicRef": "#node"},
        {"format": "uri"},
        {"pattern": "^(?!x)"},
        {"minimum": -(2**63), "maximum": 2**63 - 1},
        {"exclusiveMaximum": 1e300},
        {"minimum": 5e-324},
        {"multipleOf": 1e10},
        {"minimum": 0, "multipleOf": 0.1234567891},
        {"minimum": 0, "multipleOf": 123456789},
        {"minimum": 0, "multipleOf": 65536},
        {"minimum": 0, "multipleOf": 1.001},
        {"minimum": 0, "multipleOf": 0.07},
        {"minimum": 0, "multipleOf": 0.0003},
        {"title": "T", "description": "D", "default": 3, "examples": [3], "x-order": 1},
    ],
)
def test_unsupported_keywords_are_dropped(dropped: dict[str, Any]) -> None:
    dropped = {"type": "array", **dropped}
    kept = {"type": "array", **({"minimum": 0} if dropped.get("minimum") == 0 else {})}
    assert shaped(dropped) == kept


def test_additional_properties_are_dropped_with_unsupported_patterns() -> None:
    schema = {"patternProperties": {"^(?!x)": INTEGER}, "additionalProperties": False}
    assert shaped(schema) == {}


def test_objects_with_properties_are_closed() -> None:
    person = {"type": "object", "properties": {"age": INTEGER}}
    assert shaped({"items": person}) == {"items": {**person, "additionalProperties": False}}


@pytest.mark.parametrize(
    ("bounds", "stepped"),
    [
        ({"minimum": 0, "maximum": 1}, True),
        ({"exclusiveMinimum": 1.5, "maximum": 1e6}, True),
        ({"minimum": -1, "maximum": 1}, False),
        ({"minimum": 0, "maximum": 1e-6}, False),
        ({"minimum": 0}, True),
        ({"minimum": 0, "maximum": 1, "multipleOf": 0.5}, False),
        ({"maximum": -1}, False),
    ],
)
def test_non_negative_numbers_get_nine_decimals(bounds: dict[str, Any], *, stepped: bool) -> None:
    rewritten = shaped({"type": "number", **bounds})
    assert (rewritten.get("multipleOf") == 1e-9) is stepped
    assert "multipleOf" not in shaped({"type": "integer", "minimum": 0, "maximum": 9})


@pytest.mark.parametrize(
    ("number", "minimum", "maximum"),
    [
        ({"type": "integer"}, FIRST, LAST),
        ({"type": ["integer", "null"]}, FIRST, LAST),
        ({"type": ["string", "integer"]}, FIRST, LAST),
        ({"type": "integer", "minimum": 3}, 3, LAST),
        ({"type": "integer", "exclusiveMaximum": 3}, FIRST, None),
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, FIRST, LAST),
        ({"type": "integer", "minimum": 0, "maximum": 2**64 - 1}, 0, LAST),
        ({"type": "integer", "minimum": 10**17}, 10**17, LAST),
        ({"type": "integer", "minimum": 2**64}, None, None),
        ({"type": "integer", "enum": [1, 2**70]}, None, None),
        ({"type": "number"}, -1e15, 1e15),
        ({"type": "number", "minimum": 2}, 2, 1e15),
        ({"type": "number", "maximum": 2}, -1e15, 2),
        ({"type": "number", "minimum": 0, "maximum": 1e24}, 0, 9e18),
        ({"type": "number", "minimum": 1e16}, 1e16, 9e18),
        ({"type": "number", "exclusiveMaximum": -1e16}, -9e18, -1e16),
        (
            {"type": "number", "exclusiveMinimum": -(10**28), "exclusiveMaximum": 10**28},
            -9e18,
            9e18,
        ),
        ({"type": "number", "exclusiveMinimum": 1e20}, None, None),
        ({"type": "number", "minimum": 1e-20}, 0, 1e15),
        ({"type": "number", "minimum": -1e-20, "maximum": 1e-20}, -1e-15, 1e-15),
        ({"type": "integer", "multipleOf": 65536}, FIRST, LAST),
        ({"type": "number", "multipleOf": 5000, "minimum": 0}, 0, 1e15),
        ({"type": "string"}, None, None),
    ],
)
def test_numbers_without_bounds_are_bounded(
    number: dict[str, Any], minimum: float | None, maximum: float | None
) -> None:
    """The engine reads 64-bit bounds as floats, and fails at -(2**63)."""
    sent = shaped({"properties": {"x": number}})["properties"]["x"]
    assert (sent.get("minimum"), sent.get("maximum")) == (minimum, maximum)


@pytest.mark.parametrize(
    "bounds", [{}, {"minimum": -90, "maximum": 90}, {"maximum": 2}, {"exclusiveMinimum": -2}]
)
def test_negative_numbers_keep_their_decimals(bounds: dict[str, float]) -> None:
    sent = shaped({"type": "number", **bounds})
    stepped = {"minimum": 0, "multipleOf": 1e-9}
    assert sent["allOf"] == [{"anyOf": [stepped, {"exclusiveMaximum": 0}]}]
    assert sent["type"] == "number"


def test_dependent_required_is_rewritten() -> None:
    rewritten = shaped({"properties": {"a": {}, "b": {}}, "dependentRequired": {"a": ["b"]}})
    assert rewritten["allOf"] == [{"anyOf": [{"properties": {"a": False}}, {"required": ["b"]}]}]
    assert rewritten["additionalProperties"] is False


@pytest.mark.parametrize(
    ("bounds", "rewritten"),
    [
        ({"minimum": 0, "maximum": 9}, {"minimum": 0, "maximum": 9, "multipleOf": 5}),
        ({"minimum": -9, "maximum": -1}, {"minimum": -9, "maximum": -1}),
        (
            {"minimum": -9, "maximum": 9},
            {
                "minimum": -9,
                "maximum": 9,
                "allOf": [{"anyOf": [{"minimum": 0, "multipleOf": 5}, {"exclusiveMaximum": 0}]}],
            },
        ),
    ],
)
def test_multiples_are_enforced_from_0_on(
    bounds: dict[str, Any], rewritten: dict[str, Any]
) -> None:
    """The engine accepts no negative multiples, and ends the answer if only those are allowed."""
    schema = {"type": "integer", "multipleOf": 5, **bounds}
    assert shaped(schema) == {"type": "integer", **rewritten}


def test_multiples_of_a_list_of_types_are_left_to_validation() -> None:
    sent = shaped({"type": ["integer", "null"], "multipleOf": 5})
    assert sent == {"type": ["integer", "null"], "minimum": FIRST, "maximum": LAST}


@pytest.mark.parametrize("name", ["date", "time", "date-time"])
def test_dates_and_times_get_strict_patterns(name: str) -> None:
    assert shaped({"type": "string", "format": name})["pattern"].startswith("^")
    own = {"type": "string", "format": name, "pattern": "^2"}
    assert shaped(own) == own


@pytest.mark.parametrize(
    "open_one",
    [
        {"additionalProperties": True},
        {"required": ["name"]},
        {"patternProperties": {"^x": INTEGER}},
        {"minProperties": 2},
        {"dependentRequired": {"age": ["name"]}},
        {"dependentSchemas": {"age": {"required": ["name"]}}},
        {"anyOf": [{"required": ["name"]}]},
    ],
)
def test_objects_that_may_need_other_members_stay_open(open_one: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"age": INTEGER}, **open_one}
    assert shaped(schema).get("additionalProperties", True) is True


def test_parts_of_one_object_stay_open() -> None:
    parts = [{"properties": {"a": INTEGER}}, {"properties": {"b": INTEGER}}]
    assert shaped({"allOf": parts}) == {"allOf": parts}
    beside = {"$ref": "#/$defs/a", "properties": {"b": INTEGER}, "$defs": {"a": parts[0]}}
    assert "additionalProperties" not in json.dumps(shaped(beside))


def test_alternatives_are_closed() -> None:
    rewritten = shaped({"anyOf": [{"properties": {"a": INTEGER}}, INTEGER], "title": "Either"})
    assert rewritten["anyOf"][0] == {"properties": {"a": INTEGER}, "additionalProperties": False}


@pytest.mark.parametrize(
    "reference",
    [
        "#/$defs/Page[int]",
        "#/$defs/Page%5Bint%5D",
        "#page",
        "#/properties/first",
        "#/components/schemas/0",
        "#/$defs/alias",
    ],
)
def test_references_point_to_numbered_definitions(reference: str) -> None:
    """The engine rejects `Page[int]` in a reference, and reads only definitions in the root."""
    schema = {
        "properties": {"first": INTEGER, "second": {"$ref": reference}},
        "components": {"schemas": [INTEGER]},
        "$defs": {
            "Page[int]": INTEGER,
            "anchored": {"$anchor": "page", **INTEGER},
            "alias": {"$ref": "#/properties/first"},
        },
    }
    rewritten = shaped(schema)
    assert rewritten["properties"]["second"] == {"$ref": "#/$defs/1"}
    assert rewritten["$defs"] == {"1": INTEGER}


def test_recursive_schema() -> None:
    tree = {"properties": {"children": {"items": {"$ref": "#"}}}, "type": "object"}
    rewritten = shaped(tree)
    children = {"items": {"$ref": "#/$defs/1"}}
    assert rewritten["properties"]["children"] == children
    assert rewritten["$defs"]["1"]["properties"]["children"] == children


def test_shared_schema_is_defined_once() -> None:
    items = [{"$ref": "#/$defs/a"}] * 3
    assert len(shaped({"prefixItems": items, "$defs": {"a": INTEGER}})["$defs"]) == 1


def test_the_callers_schema_is_not_changed() -> None:
    schema = {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"uniqueItems": True}}}
    before = json.dumps(schema)
    make_engine_schema(schema)
    assert json.dumps(schema) == before


def test_schema_grammar_keeps_the_order_of_properties() -> None:
    lark = make_schema_grammar({"properties": {"b": INTEGER, "a": INTEGER}})
    assert lark.startswith('start: %json {"properties": {"b"')
    assert "\n" not in lark


def test_choice_grammar() -> None:
    assert make_choice_grammar(("yes", 'say "no"\n')) == 'start: "yes" | "say \\"no\\"\\n"'


@pytest.mark.parametrize(
    "pattern",
    [
        "^a+$",
        r"\d{2}-\w+\s",
        r"^\u0061\/\.\-$",
        r"^\\b$",
        "(?:a|b)*?",
        "(?P<x>a)",
        "[^a-c]",
        r"\p{L}",
    ],
)
def test_supported_patterns(pattern: str) -> None:
    assert is_supported_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "(?=a)",
        "(?!a)",
        "(?<=a)",
        "(?<!a)",
        r"(a)\1",
        r"a\b",
        r"a\Z",
        "(?P=x)",
        "(?>a)",
        "a{,2}",
        "[[a]",
        "[a&&b]",
        r"\cA",
        "(?#c)a",
    ],
)
def test_unsupported_patterns(pattern: str) -> None:
    assert not is_supported_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "rest"),
    [
        ("^[a-z]+$", "^[a-z]+$"),
        ("^(?!x)[a-z]+$", "^[a-z]+$"),
        ("^(?=.b)a.(?<!c)$", "^a.$"),
        ("^(?!x)", None),
        ("(?!(a|b))c", None),
        (r"(?![\])x])c", None),
        (r"\(?!x\)c", r"\(?!x\)c"),
        (r"^(?!x)a\b", None),
        ("(?!x)*a", None),
    ],
)
def test_look_around_is_removed_from_patterns(pattern: str, rest: str | None) -> None:
    assert relax_pattern(pattern) == rest
