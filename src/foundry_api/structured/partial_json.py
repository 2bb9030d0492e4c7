"""JSON that is still being written: its value so far.

Each character is read once. What is complete is shared between the values given out; only the
containers that are still open are copied. That takes longer the more they hold, so a large value is
given out again as it was until enough text has come to pay for a new one.
"""

from __future__ import annotations

import re
from typing import Any, Literal

__all__ = ["MISSING", "PartialJsonParser"]


class _Missing:
    """No value has begun yet: `None` would be one."""


MISSING = _Missing()

_SPACE = re.compile(r"[ \t\n\r]*")
_UNESCAPED = re.compile(r'[^"\\]*')
_LITERAL_TEXT = re.compile(r"[-+.\w]+")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_CODE_UNIT = re.compile(r"\\u([0-9a-fA-F]{4})")
_CONTAINER = re.compile(r"[{\[]")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_LITERALS = {"true": True, "false": False, "null": None}
_CODE_UNIT_LENGTH = len(r"\ud83d")
_HIGH_SURROGATES = range(0xD800, 0xDC00)
_LOW_SURROGATES = range(0xDC00, 0xE000)

MAX_DEPTH = 500
"""Containers within one another. Python reads no more than twice as many."""

COPIES_PER_CHARACTER = 16
MAX_SAVED_COPIES = 64 * 1024
"""Members that may be copied for each character that came, and after many that cost none."""

TEXT_PER_COPY = 64
"""Characters of a string that are copied in the time of one member of a container."""

_Expected = Literal["value", "value or ]", "key", "key or }", ":", ", or end"]


class _InvalidJson(Exception):
    """The text is no JSON from here on."""


class PartialJsonParser:
    """Reads the JSON of an answer as it comes.

    Text ahead of the first `{` or `[` is passed over, as is what follows the value. After a
    syntax error the value stays as it is: whoever checks the whole answer finds the error.

    Numbers, `true`, `false` and `null` appear when they are complete, strings grow, and a member
    appears with its value. Strings of thousands of characters and lists of hundreds of items grow
    by several pieces at a time.
    """

    def __init__(self) -> None:
        self._open_containers: list[list[Any] | dict[str, Any]] = []
        self._keys: list[str] = []
        self._root: Any = MISSING
        self._expected: _Expected = "value"
        self._string: list[str] | None = None
        self._is_key = False
        self._literal: list[str] = []
        self._pending = ""
        self._is_complete = False
        self._open_member_count = 0
        self._string_length = 0
        self._last_value: Any = MISSING
        self._copy_budget = MAX_SAVED_COPIES

    def feed(self, text: str) -> Any:
        """The value so far, with a further piece of the text; `MISSING` before it begins.

        The containers in it are the caller's to read, not to change.
        """
        if not self._is_complete:
            self._read(text)
        return self._last_value

    def finish(self) -> Any:
        """The value, when no more text comes: a number at its very end is complete then."""
        try:
            self._end_literal()
        except _InvalidJson:
            self._is_complete = True
        return self._make_value()

    def _read(self, text: str) -> None:
        self._copy_budget = min(
            MAX_SAVED_COPIES, self._copy_budget + COPIES_PER_CHARACTER * len(text)
        )
        text, self._pending = self._pending + text, ""
        position = 0
        while position < len(text) and not self._is_complete:
            try:
                position = self._read_token(text, position)
            except _InvalidJson:
                position = self._recover(text, position)
        cost = (
            2 * len(self._open_containers)
            + self._open_member_count
            + self._string_length // TEXT_PER_COPY
        )
        if self._is_complete or cost <= self._copy_budget:
            self._copy_budget -= cost
            self._last_value = self._make_value()

    def _make_value(self) -> Any:
        value = self._root
        if self._string is not None and not self._is_key:
            value = "".join(self._string)
            self._string[:] = [value]
        keys = len(self._keys)
        for container in reversed(self._open_containers):
            copy = container.copy()
            if isinstance(copy, dict):
                keys -= 1
                if value is not MISSING:
                    copy[self._keys[keys]] = value
            elif value is not MISSING:
                copy.append(value)
            value = copy
        return value

    def _recover(self, text: str, position: int) -> int:
        """Look for a container behind a text that is no JSON; within one there is no way on."""
        if self._open_containers:
            self._is_complete = True
            return len(text)
        self._root, self._expected = MISSING, "value"
        match = _CONTAINER.search(text, position)
        return match.start() if match else len(text)

    def _read_token(self, text: str, position: int) -> int:
        """Read one token, or a piece of it; where it ends."""
        if self._string is not None:
            return self._read_string(text, position, self._string)
        if match := _LITERAL_TEXT.match(text, position):
            self._literal.append(match[0])
            return match.end()
        self._end_literal()
        if (end := _match_end(_SPACE, text, position)) > position:
            return end
        self._structural(text[position])
        return position + 1

    def _structural(self, character: str) -> None:
        if character == '"':
            self._begin_string()
        elif character in "{[":
            self._begin_container(character)
        elif character in "}]":
            self._end_container(character)
        elif character == "," and self._expected == ", or end" and self._open_containers:
            self._expected = "key" if isinstance(self._open_containers[-1], dict) else "value"
        elif character == ":" and self._expected == ":":
            self._expected = "value"
        else:
            raise _InvalidJson

    def _begin_string(self) -> None:
        self._is_key = self._expected in {"key", "key or }"}
        if not self._is_key:
            self._expect_value()
        self._string = []
        self._string_length = 0

    def _read_string(self, text: str, position: int, pieces: list[str]) -> int:
        end = _match_end(_UNESCAPED, text, position)
        if end > position:
            pieces.append(text[position:end])
            self._string_length += end - position
        elif text[position] == '"':
            self._end_string("".join(pieces))
            end += 1
        else:
            end = self._read_escape(text, position, pieces)
            self._string_length += 1
        return end

    def _read_escape(self, text: str, position: int, pieces: list[str]) -> int:
        kind = text[position + 1 : position + 2]
        if plain := _ESCAPES.get(kind):
            pieces.append(plain)
            return position + 2
        if not kind or (kind == "u" and self._is_incomplete_escape(text, position)):
            self._pending = text[position:]
            return len(text)
        units = [
            int(unit, 16)
            for unit in _CODE_UNIT.findall(text[position : position + 2 * _CODE_UNIT_LENGTH])
        ]
        if not units or not _CODE_UNIT.match(text, position):
            raise _InvalidJson
        if len(units) > 1 and units[0] in _HIGH_SURROGATES and units[1] in _LOW_SURROGATES:
            pieces.append(
                chr(
                    0x10000
                    + ((units[0] - _HIGH_SURROGATES[0]) << 10)
                    + units[1]
                    - _LOW_SURROGATES[0]
                )
            )
            return position + 2 * _CODE_UNIT_LENGTH
        pieces.append(chr(units[0]))
        return position + _CODE_UNIT_LENGTH

    def _is_incomplete_escape(self, text: str, position: int) -> bool:
        """Whether the text ends within an escape, or between the two of a surrogate pair."""
        unit = _CODE_UNIT.match(text, position)
        if unit is None:
            return len(text) - position < _CODE_UNIT_LENGTH
        rest = text[position + _CODE_UNIT_LENGTH : position + 2 * _CODE_UNIT_LENGTH]
        begins = rest[:2] == "\\u"[: len(rest)]
        return int(unit[1], 16) in _HIGH_SURROGATES and len(rest) < _CODE_UNIT_LENGTH and begins

    def _end_string(self, text: str) -> None:
        self._string = None
        self._string_length = 0
        if self._is_key:
            self._keys[-1] = text
            self._expected = ":"
        else:
            self._attach_value(text)

    def _begin_container(self, character: str) -> None:
        self._expect_value()
        if len(self._open_containers) == MAX_DEPTH:
            raise _InvalidJson
        if character == "{":
            self._open_containers.append({})
            self._keys.append("")
            self._expected = "key or }"
        else:
            self._open_containers.append([])
            self._expected = "value or ]"

    def _end_container(self, character: str) -> None:
        ends = {"}": ("key or }", ", or end"), "]": ("value or ]", ", or end")}
        kind = dict if character == "}" else list
        if self._expected not in ends[character] or not self._open_containers:
            raise _InvalidJson
        if type(self._open_containers[-1]) is not kind:
            raise _InvalidJson
        if kind is dict:
            self._keys.pop()
        container = self._open_containers.pop()
        self._open_member_count -= len(container)
        self._attach_value(container)
        self._is_complete = not self._open_containers

    def _end_literal(self) -> None:
        if not self._literal:
            return
        word = "".join(self._literal)
        self._literal.clear()
        self._expect_value()
        self._attach_value(_LITERALS[word] if word in _LITERALS else _parse_number(word))

    def _expect_value(self) -> None:
        if self._expected not in {"value", "value or ]"}:
            raise _InvalidJson

    def _attach_value(self, value: Any) -> None:
        """Put a complete value where it belongs."""
        self._expected = ", or end"
        if not self._open_containers:
            self._root = value
            return
        container = self._open_containers[-1]
        self._open_member_count -= len(container)
        if isinstance(container, dict):
            container[self._keys[-1]] = value
        else:
            container.append(value)
        self._open_member_count += len(container)


def _match_end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return position if match is None else match.end()


def _parse_number(word: str) -> int | float:
    if not _NUMBER.fullmatch(word):
        raise _InvalidJson
    try:
        return int(word) if _INTEGER.fullmatch(word) else float(word)
    except ValueError as error:  # more digits than Python reads
        raise _InvalidJson from error
