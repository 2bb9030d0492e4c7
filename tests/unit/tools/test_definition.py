"""Tool definitions of functions, and invalid tools."""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api import InvalidRequest, Tool, ToolDefinition, ToolDefinitionError, tool
from foundry_api.tools.definition import require_callable, to_definitions
from foundry_api.tools.signature import parse_docstring


class Unit(enum.Enum):
    CELSIUS = "C"
    FAHRENHEIT = "F"


@dataclass
class Place:
    city: str
    country: str = "CH"


class Point(msgspec.Struct):
    x: float
    y: float


class Wish(TypedDict):
    what: str


def weather(place: Place, unit: Unit = Unit.CELSIUS, days: int = 1) -> str:
    """Tell the weather.

    It is made up.

    Args:
        place: Where.
        unit: Of the temperature; its name
            goes on here.
        days (int): How many: at most seven.

    Returns:
        A sentence.
    """
    return f"{place.city} {unit.value} {days}"


async def clock(city: str | None = None) -> str:
    """Tell the time."""
    return city or "here"


def parameters(function: Any) -> dict[str, Any]:
    return tool(function).definition.parameters


def test_definition_of_a_typed_function() -> None:
    assert tool(weather).definition == ToolDefinition(
        name="weather",
        description="Tell the weather.\n\nIt is made up.",
        parameters={
            "type": "object",
            "properties": {
                "place": {"$ref": "#/$defs/Place", "description": "Where."},
                "unit": {
                    "$ref": "#/$defs/Unit",
                    "description": "Of the temperature; its name goes on here.",
                    "default": "C",
                },
                "days": {
                    "type": "integer",
                    "description": "How many: at most seven.",
                    "default": 1,
                },
            },
            "required": ["place"],
            "additionalProperties": False,
            "$defs": {
                "Place": {
                    "title": "Place",
                    "type": "object",
                    "properties": {
                        "city": {"type": "string"},
                        "country": {"type": "string", "default": "CH"},
                    },
                    "required": ["city"],
                },
                "Unit": {"title": "Unit", "enum": ["C", "F"]},
            },
        },
    )


def test_schemas_of_parameter_types() -> None:
    def all_of_them(  # noqa: PLR0917 - one parameter of item type
        text: str,
        number: int,
        real: float,
        yes: bool,  # noqa: FBT001 - a model gives it by name
        several: list[int],
        mapping: dict[str, float],
        one_of: Literal["a", "b"],
        perhaps: str | None,
        point: Point,
        wish: Wish,
        anything: Any,
        noted: Annotated[int, "A note."],
        bounded: Annotated[int, msgspec.Meta(ge=0, description="Not negative.")] = 3,
    ) -> None:
        """Take everything."""

    expected = parameters(all_of_them)
    properties = expected["properties"]
    assert properties["text"] == {"type": "string"}
    assert properties["number"] == {"type": "integer"}
    assert properties["real"] == {"type": "number"}
    assert properties["yes"] == {"type": "boolean"}
    assert properties["several"] == {"type": "array", "items": {"type": "integer"}}
    assert properties["mapping"] == {"type": "object", "additionalProperties": {"type": "number"}}
    assert properties["one_of"] == {"enum": ["a", "b"]}
    assert properties["perhaps"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert properties["anything"] == {}
    assert properties["noted"] == {"type": "integer", "description": "A note."}
    assert properties["bounded"] == {
        "type": "integer",
        "minimum": 0,
        "description": "Not negative.",
        "default": 3,
    }
    assert {"Point", "Wish"} == expected["$defs"].keys()
    assert expected["required"] == [name for name in properties if name != "bounded"]


def test_pydantic_models_as_parameters() -> None:
    pydantic = pytest.importorskip("pydantic")
    inner = pydantic.create_model("Inner", x=(int, ...))
    outer = pydantic.create_model("Outer", inner=(inner, ...), names=(list[str], []))

    def take(value: Any, several: Any) -> Any:
        """Take them."""
        return value, several

    take.__annotations__ = {"value": outer, "several": list[inner]}
    made = tool(take)
    expected = made.definition.parameters
    assert {"Inner"} <= expected["$defs"].keys()
    assert "'$defs'" not in str(expected["properties"])
    assert made.arguments
    values = made.arguments.convert({"value": {"inner": {"x": 1}}, "several": [{"x": 2}]})
    assert values["value"].inner.x == 1
    assert [item.x for item in values["several"]] == [2]
    with pytest.raises(msgspec.ValidationError, match=r"\$\.several\[0\]"):
        made.arguments.convert({"value": {"inner": {"x": 1}}, "several": [{"x": "no"}]})


def test_arguments_are_converted_without_defaults() -> None:
    arguments = tool(weather).arguments
    assert arguments
    values = arguments.convert({"place": {"city": "Bern"}, "unit": "F"})
    assert values == {"place": Place("Bern"), "unit": Unit.FAHRENHEIT}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "missing required field `place`"),
        ({"place": {"city": 3}}, r"Expected `str`, got `int` - at `\$.place.city`"),
        ({"place": {"city": "Bern"}, "unit": "K"}, r"Invalid enum value 'K' - at `\$.unit`"),
        ({"place": {"city": "Bern"}, "dayz": 3}, "unknown field `dayz`"),
    ],
)
def test_errors_of_invalid_arguments_have_a_path(values: dict[str, Any], expected: str) -> None:
    arguments = tool(weather).arguments
    assert arguments
    with pytest.raises(msgspec.ValidationError, match=expected):
        arguments.convert(values)


@given(
    st.fixed_dictionaries(
        {"place": st.fixed_dictionaries({"city": st.text()})},
        optional={"unit": st.sampled_from(["C", "F"]), "days": st.integers(-9, 9)},
    )
)
def test_arguments_that_match_the_schema_are_accepted(values: dict[str, Any]) -> None:
    arguments = tool(weather).arguments
    assert arguments
    assert weather(**arguments.convert(values)).startswith(values["place"]["city"])


class Station:
    """An object that is callable and has a method."""

    def record(self, depth: float) -> float:
        """Measure."""
        return depth

    def __call__(self, height: int) -> int:
        """Call it."""
        return height


def test_methods_partials_and_callable_objects() -> None:
    assert list(parameters(Station().record)["properties"]) == ["depth"]
    assert tool(Station()).name == "Station"
    assert list(parameters(Station())["properties"]) == ["height"]
    half = tool(functools.partial(weather, days=2), name="two_days", description="Tell more.")
    assert half.definition.description == "Tell more."
    assert half.definition.parameters["properties"]["days"]["default"] == 2


def test_decorator() -> None:
    @tool(name="time_of_day", description="Tell the time of day.")
    def hour(city: str) -> str:
        """Not this."""
        return f"noon in {city}"

    assert isinstance(hour, Tool)
    assert (hour.name, hour.definition.description) == ("time_of_day", "Tell the time of day.")
    assert hour("Bern") == "noon in Bern"


def test_given_schema_is_unchanged() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    made = tool(lambda **values: values, name="raw", parameters=schema)
    assert made.definition.parameters == schema
    assert made.arguments is None


def unannotated(first: int, second) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """One has no type."""


def starred(*numbers: int) -> None:
    """Many."""


def double_starred(**numbers: int) -> None:
    """Many with names."""


def by_place(number: int, /) -> None:
    """Without a name."""


def unknown(value: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Of a type that is not there."""


def unspeakable(value: int, number: type[int], thing: type[int]) -> None:
    """Of a type that JSON has not."""


@pytest.mark.parametrize(
    ("function", "field", "expected"),
    [
        (unannotated, "second", "second of unannotated has no type"),
        (starred, "numbers", r"starred takes \*numbers"),
        (double_starred, "numbers", r"double_starred takes \*\*numbers"),
        (by_place, "number", "a model gives every argument by name"),
        (unknown, None, "'Nowhere' is not defined"),
        (unspeakable, "number", "the type of number of unspeakable cannot be described"),
        (lambda x: x, "name", "'<lambda>' is not a tool name"),
        ("clock", "tools[0]", "is 'clock', not a function"),
        (3, "tools[0]", "is 3, not a function"),
        ({"name": 3}, "tools[0]", "tools\\[0\\] is not a tool"),
        ({"type": "function", "function": "clock"}, "tools[0]", "tools\\[0\\] is not a tool"),
        (ToolDefinition(name="two words"), "tools[0]", "not a tool name"),
        (
            ToolDefinition(name="x", parameters={"x": object}),
            "tools[0].parameters",
            "cannot be sent as JSON",
        ),
    ],
)
def test_error_names_an_invalid_tool(function: Any, field: str | None, expected: str) -> None:
    with pytest.raises(InvalidRequest, match=expected) as caught:
        to_definitions([function])
    assert caught.value.field == field
    assert caught.value.hint


def test_tool_definition_error() -> None:
    with pytest.raises(ToolDefinitionError):
        tool(unannotated)
    with pytest.raises(ToolDefinitionError, match="3 is not a function"):
        tool(3)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue] # the misuse is the test


@pytest.mark.parametrize("tools", [clock, "clock", {"name": "clock"}, 3])
def test_tools_must_be_a_list(tools: Any) -> None:
    with pytest.raises(InvalidRequest, match="not a list") as caught:
        to_definitions(tools)
    assert caught.value.field == "tools"


def test_two_tools_with_the_same_name_are_rejected() -> None:
    with pytest.raises(InvalidRequest, match=r"tools\[1\] is named clock"):
        require_callable([clock, clock])


def test_strict_is_dropped_from_openais_form() -> None:
    schema = {"type": "object", "properties": {}}
    function = {"name": "clock", "description": "x", "parameters": schema, "strict": True}
    expected = (ToolDefinition(name="clock", description="x", parameters=schema),)
    assert to_definitions([{"type": "function", "function": function}]) == expected
    assert to_definitions([function]) == expected
    assert to_definitions([{"name": "clock"}])[0].parameters == schema


def test_definition_without_a_function_cannot_be_run() -> None:
    with pytest.raises(InvalidRequest, match=r"tools\[1\] describes clock, but cannot be called"):
        require_callable([weather, ToolDefinition(name="clock")])


@pytest.mark.parametrize(
    ("docstring", "summary", "expected"),
    [
        (None, "", {}),
        ("One line.", "One line.", {}),
        ("Args:\n    x: Only that.", "", {"x": "Only that."}),
        ("S.\n\nArguments:\n    x: A.\n    *y (int, optional): B.\n", "S.", {"x": "A.", "y": "B."}),
        ("S.\n\nArgs:\n    x: A\n        goes on.\n\nRaises:\n    y: Z", "S.", {"x": "A goes on."}),
        ("S.\n\nNote:\n    x: no", "S.", {}),
        ("S.\n\nArgs:\n", "S.", {}),
        ("S: with a colon:\n and more", "S: with a colon:\nand more", {}),
    ],
)
def test_parse_docstring(docstring: str | None, summary: str, expected: dict[str, str]) -> None:
    def function() -> None: ...

    function.__doc__ = docstring
    assert parse_docstring(function) == (summary, expected)


@given(st.text())
def test_any_docstring_is_parsed(docstring: str) -> None:
    def function() -> None: ...

    function.__doc__ = docstring
    parse_docstring(function)
