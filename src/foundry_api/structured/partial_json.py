"""JSON that is still being written: its value so far.

Each character is read once. What is complete is shared between the values given out; only the
containers that are still open are copied. That takes longer the more they hold, so a large value is
given out again as it was until enough text has come to pay for a new one.
"""

from __future__ import annotations

import re
from typing import Any, Literal

__all__ = ["NOTHING", "PartialJson"]


class _Nothing:
    """No value has begun yet: `None` would be one."""


NOTHING = _Nothing()

_SPACE = re.compile(r"[ \t\n\r]*")
_PLAIN = re.compile(r'[^"\\]*')
_BARE = re.compile(r"[-+.\w]+")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_CODE_UNIT = re.compile(r"\\u([0-9a-fA-F]{4})")
_CONTAINER = re.compile(r"[{\[]")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_WORDS = {"true": True, "false": False, "null": None}
_UNIT = len(r"\ud83d")
_HIGH = range(0xD800, 0xDC00)
_LOW = range(0xDC00, 0xE000)

MAX_DEPTH = 500
"""Containers within one another. Python reads no more than twice as many."""

COPIES_PER_CHARACTER = 16
MAX_SAVED_COPIES = 64 * 1024
"""Members that may be copied for each character that came, and after many that cost none."""

TEXT_PER_COPY = 64
"""Characters of a string that are copied in the time of one member of a container."""

_Expected = Literal["value", "value or ]", "key", "key or }", ":", ", or end"]


class _Broken(Exception):
    """The text is no JSON from here on."""


class PartialJson:
    """Reads the JSON of an answer as it comes.

    Text ahead of the first `{` or `[` is passed over, as is what follows the value. After a
    syntax error the value stays as it is: whoever checks the whole answer finds the error.

    Numbers, `true`, `false` and `null` appear when they are complete, strings grow, and a member
    appears with its value. Strings of thousands of characters and lists of hundreds of items grow
    by several pieces at a time.
    """

    def __init__(self) -> None:
        self._open: list[list[Any] | dict[str, Any]] = []
        self._keys: list[str] = []
        self._root: Any = NOTHING
        self._expected: _Expected = "value"
        self._string: list[str] | None = None
        self._is_key = False
        self._bare: list[str] = []
        self._held = ""
        self._ended = False
        self._members = 0
        self._length = 0
        self._last: Any = NOTHING
        self._saved = MAX_SAVED_COPIES

    def feed(self, text: str) -> Any:
        """The value so far, with a further piece of the text; `NOTHING` before it begins.

        The containers in it are the caller's to read, not to change.
        """
        if not self._ended:
            self._read(text)
        return self._last

    def finish(self) -> Any:
        """The value, when no more text comes: a number at its very end is complete then."""
        try:
            self._end_bare()
        except _Broken:
            self._ended = True
        return self._value()

    def _read(self, text: str) -> None:
        self._saved = min(MAX_SAVED_COPIES, self._saved + COPIES_PER_CHARACTER * len(text))
        text, self._held = self._held + text, ""
        at = 0
        while at < len(text) and not self._ended:
            try:
                at = self._step(text, at)
            except _Broken:
                at = self._recover(text, at)
        cost = 2 * len(self._open) + self._members + self._length // TEXT_PER_COPY
        if self._ended or cost <= self._saved:
            self._saved -= cost
            self._last = self._value()

    def _value(self) -> Any:
        value = self._root
        if self._string is not None and not self._is_key:
            value = "".join(self._string)
            self._string[:] = [value]
        keys = len(self._keys)
        for container in reversed(self._open):
            copy = container.copy()
            if isinstance(copy, dict):
                keys -= 1
                if value is not NOTHING:
                    copy[self._keys[keys]] = value
            elif value is not NOTHING:
                copy.append(value)
            value = copy
        return value

    def _recover(self, text: str, at: int) -> int:
        """Look for a container behind a text that is no JSON; within one there is no way on."""
        if self._open:
            self._ended = True
            return len(text)
        self._root, self._expected = NOTHING, "value"
        found = _CONTAINER.search(text, at)
        return found.start() if found else len(text)

    def _step(self, text: str, at: int) -> int:
        """Read one token, or a piece of it; where it ends."""
        if self._string is not None:
            return self._in_string(text, at, self._string)
        if found := _BARE.match(text, at):
            self._bare.append(found[0])
            return found.end()
        self._end_bare()
        if (end := _end(_SPACE, text, at)) > at:
            return end
        self._mark(text[at])
        return at + 1

    def _mark(self, character: str) -> None:
        if character == '"':
            self._begin_string()
        elif character in "{[":
            self._begin_container(character)
        elif character in "}]":
            self._end_container(character)
        elif character == "," and self._expected == ", or end" and self._open:
            self._expected = "key" if isinstance(self._open[-1], dict) else "value"
        elif character == ":" and self._expected == ":":
            self._expected = "value"
        else:
            raise _Broken

    def _begin_string(self) -> None:
        self._is_key = self._expected in {"key", "key or }"}
        if not self._is_key:
            self._expect_value()
        self._string = []
        self._length = 0

    def _in_string(self, text: str, at: int, pieces: list[str]) -> int:
        end = _end(_PLAIN, text, at)
        if end > at:
            pieces.append(text[at:end])
            self._length += end - at
        elif text[at] == '"':
            self._end_string("".join(pieces))
            end += 1
        else:
            end = self._escape(text, at, pieces)
            self._length += 1
        return end

    def _escape(self, text: str, at: int, pieces: list[str]) -> int:
        kind = text[at + 1 : at + 2]
        if plain := _ESCAPES.get(kind):
            pieces.append(plain)
            return at + 2
        if not kind or (kind == "u" and self._may_go_on(text, at)):
            self._held = text[at:]
            return len(text)
        units = [int(unit, 16) for unit in _CODE_UNIT.findall(text[at : at + 2 * _UNIT])]
        if not units or not _CODE_UNIT.match(text, at):
            raise _Broken
        if len(units) > 1 and units[0] in _HIGH and units[1] in _LOW:
            pieces.append(chr(0x10000 + ((units[0] - _HIGH[0]) << 10) + units[1] - _LOW[0]))
            return at + 2 * _UNIT
        pieces.append(chr(units[0]))
        return at + _UNIT

    def _may_go_on(self, text: str, at: int) -> bool:
        """Whether the text ends within an escape, or between the two of a surrogate pair."""
        unit = _CODE_UNIT.match(text, at)
        if unit is None:
            return len(text) - at < _UNIT
        rest = text[at + _UNIT : at + 2 * _UNIT]
        begins = rest[:2] == "\\u"[: len(rest)]
        return int(unit[1], 16) in _HIGH and len(rest) < _UNIT and begins

    def _end_string(self, text: str) -> None:
        self._string = None
        self._length = 0
        if self._is_key:
            self._keys[-1] = text
            self._expected = ":"
        else:
            self._add(text)

    def _begin_container(self, character: str) -> None:
        self._expect_value()
        if len(self._open) == MAX_DEPTH:
            raise _Broken
        if character == "{":
            self._open.append({})
            self._keys.append("")
            self._expected = "key or }"
        else:
            self._open.append([])
            self._expected = "value or ]"

    def _end_container(self, character: str) -> None:
        ends = {"}": ("key or }", ", or end"), "]": ("value or ]", ", or end")}
        kind = dict if character == "}" else list
        if self._expected not in ends[character] or not self._open:
            raise _Broken
        if type(self._open[-1]) is not kind:
            raise _Broken
        if kind is dict:
            self._keys.pop()
        container = self._open.pop()
        self._members -= len(container)
        self._add(container)
        self._ended = not self._open

    def _end_bare(self) -> None:
        if not self._bare:
            return
        word = "".join(self._bare)
        self._bare.clear()
        self._expect_value()
        self._add(_WORDS[word] if word in _WORDS else _number(word))

    def _expect_value(self) -> None:
        if self._expected not in {"value", "value or ]"}:
            raise _Broken

    def _add(self, value: Any) -> None:
        """Put a complete value where it belongs."""
        self._expected = ", or end"
        if not self._open:
            self._root = value
            return
        container = self._open[-1]
        self._members -= len(container)
        if isinstance(container, dict):
            container[self._keys[-1]] = value
        else:
            container.append(value)
        self._members += len(container)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()


def _number(word: str) -> int | float:
    if not _NUMBER.fullmatch(word):
        raise _Broken
    try:
        return int(word) if _INTEGER.fullmatch(word) else float(word)
    except ValueError as error:  # more digits than Python reads
        raise _Broken from error
