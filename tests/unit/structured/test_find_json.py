"""Finding the JSON in an answer, in linear time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.structured import find_json
from foundry_api.structured.find_json import (
    MAX_CANDIDATES,
    MAX_INVALID_STARTS,
    iter_json_candidates,
)

if TYPE_CHECKING:
    import re

LENGTH = 1 << 17

HOSTILE = {
    "open fence": "```" + "a" * LENGTH,
    "open fence with blanks": "```" + " " * LENGTH,
    "fences": "```json\n" * LENGTH,
    "ticks": "`" * LENGTH,
    "broken objects": "{a" * LENGTH,
    "broken members": '{"' * LENGTH,
    "unfinished objects": '{"a":' * LENGTH,
    "brackets": "[" * LENGTH,
    "braces and blanks": "{ " * LENGTH,
    "small objects": "{} " * LENGTH,
    "quotes": '"' * LENGTH,
    "backslashes": "\\" * LENGTH,
    "blanks": "x" + " " * LENGTH + "x",
}


class Decoder:
    """Counts the decoded texts."""

    def __init__(self) -> None:
        self.calls = 0

    def raw_decode(self, text: str, start: int) -> Any:
        self.calls += 1
        return json.JSONDecoder().raw_decode(text, start)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_number_of_candidates_is_bounded(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder()
    monkeypatch.setattr(find_json, "_DECODER", decoder)
    found = list(iter_json_candidates(text[:LENGTH]))
    assert len(found) <= MAX_CANDIDATES
    assert sum(map(len, found)) <= 3 * LENGTH
    assert decoder.calls <= MAX_INVALID_STARTS + MAX_CANDIDATES


def test_no_pattern_backtracks() -> None:
    """It would backtrack at every fence or bracket that is not closed."""
    patterns = [value for value in vars(find_json).values() if hasattr(value, "pattern")]
    assert patterns
    for pattern in patterns:
        expression: re.Pattern[str] = pattern
        assert ".*" not in expression.pattern


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"a": 1}\n```',
        'Here:\n```\n{"a": 1}```\nDone.',
        '```{"a": 1}```',
        'It is {"a": 1}, is it not?',
        r"As \frac{a}{b} says, " * 500 + '{"a": 1}',
        "[1], [2], and then " + '{"a": 1}',
        '{a{a {"a": 1}',
        '```json\n{"a": 1}\nand no end',
    ],
)
def test_json_is_found_in_text(text: str) -> None:
    assert '{"a": 1}' in iter_json_candidates(text)


def test_parts_of_an_incomplete_object_are_not_candidates() -> None:
    assert list(iter_json_candidates('{"a": {"b": 1}, "c": ')) == ['{"a": {"b": 1}, "c":']
