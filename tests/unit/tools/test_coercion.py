"""Arguments of the wrong JSON type are converted if their meaning is clear."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from foundry_api.tools.coercion import coerce
from foundry_api.tools.definition import tool
from foundry_api.tools.executor import ToolExecutor, ToolLimits
from foundry_api.types.messages import FunctionCall, ToolCall


class Size(enum.Enum):
    SMALL = 1
    LARGE = 2


@dataclass
class Place:
    city: str
    floor: int = 0


def book(  # noqa: PLR0917 - as a user writes it
    nights: int,
    price: float = 1.5,
    breakfast: bool = False,  # noqa: FBT001, FBT002
    guests: list[int] | None = None,
    place: Place | None = None,
    size: Size = Size.SMALL,
    unit: Literal["CHF", "EUR"] = "CHF",
    note: str = "",
) -> str:
    """Book a room."""
    return repr((nights, price, breakfast, guests, place, size, unit, note))


async def called(arguments: str, function: Any = book) -> Any:
    made = tool(function)
    caller = ToolExecutor({made.name: made}, LIMITS, lambda: 0.0)
    (result,) = await caller.execute([ToolCall("a", FunctionCall(made.name, arguments))], 1)
    if result.error is not None:
        raise result.error
    return result.value


LIMITS = ToolLimits(max_turns=1, parallel=1, tool_timeout=5.0, on_error="return")
DEFAULT: dict[str, Any] = {
    "price": 1.5,
    "breakfast": False,
    "guests": None,
    "place": None,
    "size": Size.SMALL,
    "unit": "CHF",
    "note": "",
}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"nights": "5"}', {"nights": 5}),
        ('{"nights": 5.0}', {"nights": 5}),
        ('{"nights": "5.0"}', {"nights": 5}),
        ('{"nights": " -5 "}', {"nights": -5}),
        ('{"nights": 1, "price": "2.5"}', {"nights": 1, "price": 2.5}),
        ('{"nights": 1, "price": "1e2"}', {"nights": 1, "price": 100.0}),
        ('{"nights": 1, "breakfast": "true"}', {"nights": 1, "breakfast": True}),
        ('{"nights": 1, "breakfast": "False"}', {"nights": 1, "breakfast": False}),
        ('{"nights": 1, "guests": "[1, 2]"}', {"nights": 1, "guests": [1, 2]}),
        ('{"nights": 1, "guests": ["1", 2.0]}', {"nights": 1, "guests": [1, 2]}),
        ('{"nights": 1, "guests": "null"}', {"nights": 1}),
        (
            '{"nights": "1", "place": {"city": "8000", "floor": "3"}}',
            {"nights": 1, "place": Place("8000", 3)},
        ),
        (
            '{"nights": 1, "place": "{\\"city\\": \\"Bern\\"}"}',
            {"nights": 1, "place": Place("Bern")},
        ),
        ('{"nights": 1, "size": "2"}', {"nights": 1, "size": Size.LARGE}),
        ('{"nights": 1, "unit": "eur"}', {"nights": 1, "unit": "EUR"}),
        ('"{\\"nights\\": 1}"', {"nights": 1}),
    ],
)
async def test_clear_arguments_are_converted(arguments: str, expected: dict[str, Any]) -> None:
    assert await called(arguments) == book(**{**DEFAULT, **expected})


@pytest.mark.parametrize(
    "arguments",
    [
        '{"nights": "five"}',
        '{"nights": 5.5}',
        '{"nights": true}',
        '{"nights": "1_0"}',
        '{"nights": ""}',
        '{"nights": null}',
        '{"nights": 1, "price": "inf"}',
        '{"nights": 1, "breakfast": 1}',
        '{"nights": 1, "breakfast": "yes"}',
        '{"nights": 1, "guests": "1, 2"}',
        '{"nights": 1, "place": "Bern"}',
        '{"nights": 1, "size": "3"}',
        '{"nights": 1, "note": 7}',
        '{"nights": "1", "unknown": 1}',
    ],
)
async def test_unclear_arguments_are_errors(arguments: str) -> None:
    with pytest.raises(ValueError, match=r"Expected|Object|Invalid"):
        await called(arguments)


async def test_error_describes_what_the_model_wrote() -> None:
    with pytest.raises(ValueError, match=r"Expected `int`, got `str` - at `\$.nights`"):
        await called('{"nights": "5", "breakfast": "yes"}')


async def test_arguments_of_a_given_schema_are_converted() -> None:
    def echo(**arguments: Any) -> Any:
        return arguments

    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}}
    made = tool(echo, parameters=schema)
    caller = ToolExecutor({made.name: made}, LIMITS, lambda: 0.0)
    call = ToolCall("a", FunctionCall("echo", '{"n": "5", "s": "5", "other": "5"}'))
    (result,) = await caller.execute([call], 1)
    assert result.value == {"n": 5, "s": "5", "other": "5"}


@pytest.mark.parametrize(
    ("value", "schema", "expected"),
    [
        ("5", {"anyOf": [{"type": "string"}, {"type": "integer"}]}, "5"),
        ("5", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, 5),
        ("5", {"type": ["integer", "null"]}, "5"),
        ("5", {}, "5"),
        ("5", True, "5"),
        ("5", {"$ref": "#/$defs/a"}, "5"),
        ({"a": "5"}, {"additionalProperties": {"type": "number"}}, {"a": 5}),
        (2.0**60, {"type": "integer"}, 2.0**60),
        ("9" * 400, {"type": "integer"}, "9" * 400),
        ("1e999", {"type": "number"}, "1e999"),
    ],
)
def test_coerce(value: Any, schema: Any, expected: Any) -> None:
    made = coerce(value, schema)
    assert (made, type(made)) == (expected, type(expected))


def test_recursive_schema_ends() -> None:
    schema: dict[str, Any] = {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}
    value: Any = "5"
    for _ in range(50):
        value = [value]
    assert coerce(value, schema) == value
    assert coerce("5", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}) == "5"
