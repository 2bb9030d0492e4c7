"""Plain JSON schemas, where jsonschema alone is not sufficient."""

from __future__ import annotations

import json
from typing import Any

import pytest

from foundry_api.structured.errors import ValidationFailed
from foundry_api.structured.response_model import make_response_type
from foundry_api.structured.validation import SchemaValidator
from foundry_api.types.errors import GrammarError, InvalidRequest


def passes(schema: dict[str, Any], value: object) -> bool:
    try:
        SchemaValidator(schema).validate(value)
    except ValidationFailed:
        return False
    return True


@pytest.mark.parametrize(
    ("value", "factor", "is_multiple"),
    [
        (0.3, 0.1, True),
        (0.25, 0.1, False),
        (1e300, 0.1, True),
        (15, 5, True),
        (16, 5, False),
        (True, 5, True),
        ("text", 5, True),
    ],
)
def test_multiples_of_decimal_numbers(value: object, factor: float, *, is_multiple: bool) -> None:
    """The quotient of the floats 0.3 and 0.1 is 2.9999999999999996."""
    assert passes({"multipleOf": factor}, value) == is_multiple


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("date", "2024-02-29", "2024-02-30"),
        ("date", "0001-01-01", "20240101"),
        ("time", "10:20:30Z", "10:20:30"),
        ("time", "00:00:00.5+01:00", "25:00:00Z"),
        ("date-time", "2024-02-29T10:20:30Z", "2024-02-30T10:20:30Z"),
        ("date-time", "2024-02-29t10:20:30.5z", "2024-02-29 at ten"),
        ("duration", "P1Y2M3DT4H", "P"),
        ("duration", "P2W", "1 day"),
        ("email", "ada@example.com", "ada"),
        ("hostname", "example.com", "-x-"),
        ("ipv4", "10.0.0.1", "10.0.0.256"),
        ("ipv6", "::1", "zz"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
        ("unheard-of", "anything", None),
    ],
)
def test_formats_are_asserted(name: str, right: str, wrong: str | None) -> None:
    assert passes({"format": name}, right)
    assert passes({"format": name}, 12)
    assert wrong is None or not passes({"format": name}, wrong)


def test_draft_of_a_schema() -> None:
    bound = {"minimum": 5, "exclusiveMinimum": True}
    assert not passes({"$schema": "http://json-schema.org/draft-04/schema#", **bound}, 5)


def test_number_and_length_of_errors_are_limited() -> None:
    with pytest.raises(ValidationFailed) as caught:
        SchemaValidator({"items": {"type": "integer"}}).validate(["x" * 1000] * 50)
    assert len(caught.value.errors) == 8
    assert max(map(len, caught.value.errors)) < 350


TREE = {"type": "array", "items": {"$ref": "#"}}


def test_deeply_nested_answer_is_invalid() -> None:
    deep = json.loads("[" * 400 + "]" * 400)
    with pytest.raises(ValidationFailed, match="the answer is nested too deeply"):
        SchemaValidator(TREE).find_errors(deep)
    assert SchemaValidator(TREE).find_errors(json.loads("[" * 50 + "]" * 50)) == []
    endless = SchemaValidator({"allOf": [{"$ref": "#"}]})
    with pytest.raises(GrammarError, match="refers to itself without end"):
        endless.find_errors([[1]])


@pytest.mark.parametrize("depth", [200, 3000, 100_000])
def test_deeply_nested_schema_is_rejected(depth: int) -> None:
    deep: dict[str, Any] = {}
    for _ in range(depth):
        deep = {"items": deep}
    for model in (deep, '{"items": ' * depth + "{}" + "}" * depth):
        with pytest.raises(InvalidRequest, match="nested too deeply") as caught:
            make_response_type(model)
        assert caught.value.field == "response_model"
