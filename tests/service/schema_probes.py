"""Probes of JSON Schema keywords on engine 2.2.1: a valid and an invalid answer for each.

The engine rejects or ignores the keywords of probes whose `enforced` is False, so the client leaves
them out of the request and validates the answer instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["PROBES", "Probe"]


@dataclass(frozen=True)
class Probe:
    """A schema with a valid and an invalid answer.

    Attributes:
        schema: The schema.
        right: A valid answer.
        wrong: An invalid answer.
        enforced: Whether the engine enforces the schema.
    """

    schema: dict[str, Any]
    right: str
    wrong: str
    enforced: bool = True


TEXT, INTEGER, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
NODE = {
    "type": "object",
    "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}, "v": INTEGER},
    "required": ["kids", "v"],
}


def make_object_schema(*required: str, **more: Any) -> dict[str, Any]:
    """Return the schema of an object with the integers `b` and `a`, in that order."""
    properties = {"b": INTEGER, "a": INTEGER}
    return {"type": "object", "properties": properties, "required": list(required), **more}


PROBES = {
    "type": Probe(INTEGER, "12", '"x"'),
    "types": Probe({"type": ["integer", "null"]}, "null", '"x"'),
    "integer": Probe(INTEGER, "3", "1.5"),
    "enum": Probe({"enum": ["a", 1, None, {"x": [1]}]}, '{"x": [1]}', "2"),
    "const": Probe({"const": "k"}, '"k"', '"l"'),
    "order": Probe(make_object_schema("a", "b"), '{"b": 1, "a": 2}', '{"a": 2, "b": 1}'),
    "required": Probe(make_object_schema("a", "b"), '{"b": 2, "a": 1}', '{"b": 2}'),
    "optional": Probe(make_object_schema("a"), '{"a": 1}', '{"b": 2}'),
    "closed": Probe(make_object_schema("a"), '{"a": 3}', '{"a": 3, "z": 1}'),
    "open": Probe(
        make_object_schema("a", additionalProperties=TEXT), '{"a": 3, "z": "q"}', '{"a": 3, "z": 1}'
    ),
    "required_unnamed": Probe(make_object_schema("q"), '{"q": 1}', '{"r": 1}'),
    "additionalProperties": Probe(
        {"type": "object", "additionalProperties": INTEGER}, '{"z": 2}', '{"z": "q"}'
    ),
    "patternProperties": Probe(
        {"type": "object", "patternProperties": {"^x": INTEGER}, "additionalProperties": False},
        '{"xa": 1}',
        '{"ya": 1}',
    ),
    "minProperties": Probe(
        {"type": "object", "additionalProperties": INTEGER, "minProperties": 2},
        '{"a": 1, "b": 2}',
        '{"a": 1}',
    ),
    "maxProperties": Probe(
        {"type": "object", "additionalProperties": INTEGER, "maxProperties": 1},
        '{"a": 1}',
        '{"a": 1, "b": 2}',
    ),
    "items": Probe({"type": "array", "items": INTEGER}, "[1, 2]", '["a"]'),
    "minItems": Probe({"type": "array", "items": INTEGER, "minItems": 2}, "[1, 2]", "[1]"),
    "maxItems": Probe({"type": "array", "items": INTEGER, "maxItems": 1}, "[1]", "[1, 2]"),
    "prefixItems": Probe(
        {"type": "array", "prefixItems": [INTEGER, TEXT], "items": False, "minItems": 2},
        '[1, "a"]',
        '["a", 1]',
    ),
    "minLength": Probe({**TEXT, "minLength": 2}, '"ab"', '"a"'),
    "maxLength": Probe({**TEXT, "maxLength": 2}, '"ab"', '"abc"'),
    "maxLength_characters": Probe({**TEXT, "maxLength": 2}, '"é😀"', '"ééé"'),
    "pattern": Probe({**TEXT, "pattern": "^[a-c]{2}$"}, '"ab"', '"ad"'),
    "pattern_within": Probe({**TEXT, "pattern": "b+"}, '"abc"', '"acd"'),
    "date": Probe({**TEXT, "format": "date"}, '"2024-02-29"', '"2024-02-31"'),
    "time": Probe({**TEXT, "format": "time"}, '"10:20:30Z"', '"25:00:00Z"'),
    "date-time": Probe(
        {**TEXT, "format": "date-time"}, '"2024-01-31T10:20:30Z"', '"2024-01-31T10:20:30"'
    ),
    "duration": Probe({**TEXT, "format": "duration"}, '"P1D"', '"x"'),
    "email": Probe({**TEXT, "format": "email"}, '"a@b.co"', '"ab"'),
    "hostname": Probe({**TEXT, "format": "hostname"}, '"example.com"', '"-x-"'),
    "ipv4": Probe({**TEXT, "format": "ipv4"}, '"10.0.0.1"', '"10.0.0.256"'),
    "ipv6": Probe({**TEXT, "format": "ipv6"}, '"::1"', '"zz"'),
    "uuid": Probe({**TEXT, "format": "uuid"}, '"123e4567-e89b-12d3-a456-426614174000"', '"xyz"'),
    "minimum": Probe({**INTEGER, "minimum": 5}, "5", "4"),
    "maximum": Probe({**NUMBER, "maximum": 0.5}, "0.25", "0.75"),
    "bounds": Probe({**NUMBER, "minimum": 0, "maximum": 1}, "0.123456789", "1.5"),
    "exclusiveMinimum": Probe({**NUMBER, "exclusiveMinimum": 0}, "0.1", "0.0"),
    "exclusiveMaximum": Probe({**INTEGER, "exclusiveMaximum": 5}, "4", "5"),
    "draft-4": Probe(
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            **INTEGER,
            "minimum": 5,
            "exclusiveMinimum": True,
        },
        "6",
        "5",
    ),
    "multipleOf": Probe({**NUMBER, "multipleOf": 0.1}, "0.3", "0.25"),
    "anyOf": Probe({"anyOf": [INTEGER, TEXT]}, '"a"', "true"),
    "allOf": Probe({"allOf": [{**INTEGER, "minimum": 3}, {"maximum": 5}]}, "4", "6"),
    "oneOf": Probe({"oneOf": [INTEGER, TEXT]}, '"a"', "true"),
    "ref": Probe({"$ref": "#/$defs/x", "$defs": {"x": INTEGER}}, "4", '"a"'),
    "ref_beside": Probe({"$ref": "#/$defs/x", "minimum": 5, "$defs": {"x": INTEGER}}, "5", "4"),
    "ref_generic": Probe({"$ref": "#/$defs/Page[é]", "$defs": {"Page[é]": INTEGER}}, "4", '"a"'),
    "ref_anchor": Probe({"$ref": "#x", "$defs": {"x": {"$anchor": "x", **INTEGER}}}, "4", '"a"'),
    "ref_recursive": Probe(
        {"$ref": "#/$defs/node", "$defs": {"node": NODE}},
        '{"kids": [{"kids": [], "v": 1}], "v": 2}',
        '{"kids": [{"v": 1}], "v": 2}',
    ),
    "boolean": Probe({"properties": {"a": True}, "required": ["a"]}, '{"a": [1]}', '{"b": 1}'),
    "dependentRequired": Probe(
        make_object_schema(dependentRequired={"a": ["b"]}), '{"b": 1, "a": 2}', '{"a": 1}'
    ),
    "year": Probe({**TEXT, "format": "date"}, '"0001-01-01"', '"0000-01-01"'),
    "second": Probe({**TEXT, "format": "time"}, '"10:20:30.5+01:00"', '"10:20:60Z"'),
    "multipleOf_negative": Probe(
        {**INTEGER, "minimum": -20, "maximum": -5, "multipleOf": 5}, "-15", "-4"
    ),
    "multipleOf_both": Probe({**INTEGER, "minimum": -20, "multipleOf": 5}, "-15", "4"),
    # The engine does not enforce the following schemas.
    "multipleOf_any_negative": Probe({**INTEGER, "multipleOf": 5}, "-15", "-4", enforced=False),
    "oneOf_overlapping": Probe(
        {"oneOf": [{**INTEGER, "minimum": 0}, {**INTEGER, "maximum": 10}]},
        "11",
        "5",
        enforced=False,
    ),
    "not": Probe({**TEXT, "not": {"const": "x"}}, '"y"', '"x"', enforced=False),
    "if": Probe(
        {**INTEGER, "if": {"minimum": 5}, "then": {"multipleOf": 5}}, "10", "7", enforced=False
    ),
    "contains": Probe({"type": "array", "contains": INTEGER}, '["a", 1]', '["a"]', enforced=False),
    "uniqueItems": Probe(
        {"type": "array", "items": INTEGER, "uniqueItems": True}, "[2, 1]", "[1, 1]", enforced=False
    ),
    "propertyNames": Probe(
        {"type": "object", "propertyNames": {"pattern": "^x"}, "additionalProperties": INTEGER},
        '{"xa": 1}',
        '{"ya": 1}',
        enforced=False,
    ),
    "unevaluatedProperties": Probe(
        make_object_schema(unevaluatedProperties=False),
        '{"a": 1}',
        '{"a": 1, "z": 1}',
        enforced=False,
    ),
    "minProperties_repeated": Probe(
        {"type": "object", "additionalProperties": INTEGER, "minProperties": 2},
        '{"a": 1, "c": 2}',
        '{"a": 1, "a": 2}',
        enforced=False,
    ),
    "pattern_lookahead": Probe({**TEXT, "pattern": "^(?!x)"}, '"y"', '"xy"', enforced=False),
    "huge_bounds": Probe({**INTEGER, "minimum": -(2**63)}, "-5", str(-(2**64)), enforced=True),
}
