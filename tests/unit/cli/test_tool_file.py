"""`--tool`: functions of a Python file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from foundry_api.cli.tool_file import load_tools
from foundry_api.tools.errors import ToolDefinitionError
from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLOCK = '''
from dataclasses import dataclass

import neighbour
from foundry_api import tool

@dataclass
class Place:
    city: str

def time_in(city: str) -> str:
    """Tell the time in a city."""
    return neighbour.say(city)

@tool(name="date")
def today() -> str:
    """Tell the date."""
    return "2026-11-30"

def untyped(city): ...
'''


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules = set(sys.modules)
    (tmp_path / "neighbour.py").write_text("def say(city):\n    return f'12:30 in {city}'\n")
    (tmp_path / "clock_of_test.py").write_text(CLOCK, encoding="utf-8")
    (tmp_path / "broken_of_test.py").write_text("raise SystemExit(3)\n", encoding="utf-8")
    yield str(tmp_path / "clock_of_test.py")
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_functions_of_a_file_become_tools(clock: str) -> None:
    time_in, today = load_tools([f"{clock}:time_in", f"{clock}:today"])
    assert (time_in.name, time_in.definition.description) == (
        "time_in", "Tell the time in a city.",
    )  # fmt: skip
    assert time_in("Bern") == "12:30 in Bern"
    assert today.name == "date"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("{}:missing", "has no function missing"),
        ("{}:Place.city", "names no function"),
        ("{}", "names no function"),
        ("{}:neighbour", "has no function neighbour"),
        ("clock.txt:time_in", "is no Python file"),
        ("missing_file.py:time_in", "there is no file "),
        ("", "names no function"),
    ],
)
def test_what_is_no_function_of_a_file_is_refused_by_name(
    clock: str, argument: str, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        load_tools([argument.format(clock)])


def test_the_functions_of_the_file_are_suggested(clock: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        load_tools([f"{clock}:time"])
    assert refused.value.hint == "It has time_in, today, untyped."


def test_a_file_that_fails_is_an_error_with_its_name(clock: str) -> None:
    path = clock.replace("clock_of", "broken_of")
    with pytest.raises(InvalidRequest, match=r"broken_of_test.py cannot be imported: SystemExit"):
        load_tools([f"{path}:time_in"])


def test_a_function_without_types_and_a_name_given_twice_are_refused(clock: str) -> None:
    with pytest.raises(ToolDefinitionError, match="city"):
        load_tools([f"{clock}:untyped"])
    with pytest.raises(InvalidRequest, match="two tools are named time_in"):
        load_tools([f"{clock}:time_in"] * 2)
