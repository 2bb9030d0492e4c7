"""Parse JSON while it is written.

Each character is read once. Complete containers are shared between the values that are returned;
only open containers are copied. The larger they are, the longer a copy takes, so a large value is
returned unchanged until enough text has arrived to pay for a new copy. The total time is linear in
the length of the text.
"""

from __future__ import annotations

import re
from typing import Any, Literal

__all__ = ["MISSING", "PartialJsonParser"]


class _Missing:
    """The type of MISSING."""


# No value has begun. None stands for `null`.
MISSING = _Missing()

# Python's own parser reads at most about twice as many nested containers.
MAX_DEPTH = 500

# Members that may be copied per character of text. Saved copies are limited, so that a long string
# does not pay for copying a large list with each of the next chunks.
COPIES_PER_CHARACTER = 16
MAX_SAVED_COPIES = 64 * 1024
# Characters of a string that are copied in the time of one member.
TEXT_PER_COPY = 64

_SPACE = re.compile(r"[ \t\n\r]+")
_UNESCAPED = re.compile(r'[^"\\]+')
_LITERAL_TEXT = re.compile(r"[-+.\w]+")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_CODE_UNIT = re.compile(r"\\u([0-9a-fA-F]{4})")
_NO_BRACKET = re.compile(r"[^{\[]+")
# What may follow a bracket in JSON. Other brackets in prose, such as `{name}`, begin no value.
_FIRST_CHARACTERS = {"{": frozenset('"}'), "[": frozenset('"{[]-0123456789tfn')}
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_LITERALS = {"true": True, "false": False, "null": None}
_CODE_UNIT_LENGTH = len(r"\ud83d")
_HIGH_SURROGATES = range(0xD800, 0xDC00)
_LOW_SURROGATES = range(0xDC00, 0xE000)

_Expected = Literal["value", "value or ]", "key", "key or }", ":", ", or end"]
# What is expected where a container may end.
_CONTAINER_ENDS: dict[str, tuple[_Expected, ...]] = {
    "}": ("key or }", ", or end"),
    "]": ("value or ]", ", or end"),
}


class _InvalidJson(Exception):
    """The text is not JSON from here on."""


class PartialJsonParser:
    """Parses the JSON of an answer chunk by chunk.

    Text before the first JSON object or array is skipped, and so is text after the value. After a
    syntax error in it the value no longer changes; validation of the complete answer reports the
    error.

    Numbers, `true`, `false` and `null` appear when they are complete, strings grow, and a member
    appears with its value. Strings of thousands of characters and lists of hundreds of items grow
    by several chunks at a time.
    """

    def __init__(self) -> None:
        self._open_containers: list[list[Any] | dict[str, Any]] = []
        self._keys: list[str] = []  # the current key of each open object
        self._root: Any = MISSING
        self._expected: _Expected = "value"
        self._string: list[str] | None = None  # the pieces of an open string
        self._is_key = False
        self._literal: list[str] = []
        self._pending = ""  # an incomplete escape at the end of the last chunk
        self._is_prose = False  # whether there was text that is not JSON
        self._bracket = ""  # a bracket in prose, before what follows it
        self._is_complete = False
        self._open_member_count = 0
        self._string_length = 0
        self._last_value: Any = MISSING
        self._copy_budget = MAX_SAVED_COPIES

    def feed(self, text: str) -> Any:
        """Read another piece of text and return the value so far; MISSING before it begins.

        The caller must not change the containers in it.
        """
        if not self._is_complete:
            self._read(text)
        return self._last_value

    def finish(self) -> Any:
        """Return the value at the end of the text. A number at the very end is then complete."""
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
                if self._is_prose and not self._open_containers:
                    position = self._skip_prose(text, position)
                elif self._string is not None:
                    position = self._read_string(text, position, self._string)
                elif match := _LITERAL_TEXT.match(text, position):
                    self._literal.append(match[0])
                    position = match.end()
                else:
                    self._end_literal()
                    if match := _SPACE.match(text, position):
                        position = match.end()
                    else:
                        self._read_punctuation(text[position])
                        position += 1
            except _InvalidJson:
                if self._open_containers:
                    self._is_complete = True
                else:  # this was no JSON, so that quotes and numbers have no meaning either
                    self._is_prose = True
                    self._root, self._expected = MISSING, "value"
                    self._string, self._string_length = None, 0
        cost = (
            2 * len(self._open_containers)
            + self._open_member_count
            + self._string_length // TEXT_PER_COPY
        )
        if self._is_complete or cost <= self._copy_budget:
            self._copy_budget -= cost
            self._last_value = self._make_value()

    def _skip_prose(self, text: str, position: int) -> int:
        """Skip text, or open the container that begins in it, and return where to read on."""
        if not self._bracket:
            match = _NO_BRACKET.match(text, position)
            if match:
                return match.end()
            self._bracket = text[position]
            return position + 1
        if match := _SPACE.match(text, position):
            return match.end()
        bracket, self._bracket = self._bracket, ""
        if text[position] in _FIRST_CHARACTERS[bracket]:
            self._read_punctuation(bracket)
        return position

    def _make_value(self) -> Any:
        """Copy the open containers, each with the incomplete value in it."""
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

    def _read_punctuation(self, character: str) -> None:
        if character == '"':
            self._is_key = self._expected in {"key", "key or }"}
            if not self._is_key:
                self._expect_value()
            self._string = []
            self._string_length = 0
        elif character in "{[":
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
        elif character in "}]":
            kind = dict if character == "}" else list
            if (
                self._expected not in _CONTAINER_ENDS[character]
                or not self._open_containers
                or type(self._open_containers[-1]) is not kind
            ):
                raise _InvalidJson
            if kind is dict:
                self._keys.pop()
            container = self._open_containers.pop()
            self._open_member_count -= len(container)
            self._attach_value(container)
            self._is_complete = not self._open_containers
        elif character == "," and self._expected == ", or end" and self._open_containers:
            self._expected = "key" if isinstance(self._open_containers[-1], dict) else "value"
        elif character == ":" and self._expected == ":":
            self._expected = "value"
        else:
            raise _InvalidJson

    def _read_string(self, text: str, position: int, pieces: list[str]) -> int:
        """Read a piece of a string, an escape or the closing quote, and return its end."""
        if match := _UNESCAPED.match(text, position):
            pieces.append(match[0])
            self._string_length += match.end() - position
            return match.end()
        if text[position] != '"':
            self._string_length += 1
            return self._read_escape(text, position, pieces)
        self._string = None
        self._string_length = 0
        if self._is_key:
            self._keys[-1] = "".join(pieces)
            self._expected = ":"
        else:
            self._attach_value("".join(pieces))
        return position + 1

    def _read_escape(self, text: str, position: int, pieces: list[str]) -> int:
        """Read an escape and return its end; leave an incomplete one to the next chunk."""
        kind = text[position + 1 : position + 2]
        if plain := _ESCAPES.get(kind):
            pieces.append(plain)
            return position + 2
        first = _CODE_UNIT.match(text, position)
        after_first = position + _CODE_UNIT_LENGTH
        if first is None:
            if kind not in {"", "u"} or len(text) >= after_first:
                raise _InvalidJson
            self._pending = text[position:]
            return len(text)
        unit = int(first[1], 16)
        if unit in _HIGH_SURROGATES:
            # Characters beyond U+FFFF are written as two escapes.
            rest = text[after_first : after_first + _CODE_UNIT_LENGTH]
            if len(rest) < _CODE_UNIT_LENGTH and rest[:2] == "\\u"[: len(rest)]:
                self._pending = text[position:]
                return len(text)
            second = _CODE_UNIT.match(rest)
            if second and (low := int(second[1], 16)) in _LOW_SURROGATES:
                high_bits, low_bits = unit - _HIGH_SURROGATES[0], low - _LOW_SURROGATES[0]
                pieces.append(chr(0x10000 + (high_bits << 10) + low_bits))
                return after_first + _CODE_UNIT_LENGTH
        pieces.append(chr(unit))
        return after_first

    def _end_literal(self) -> None:
        """Attach the number, `true`, `false` or `null` that ends here, if there is one."""
        if not self._literal:
            return
        word = "".join(self._literal)
        self._literal.clear()
        self._expect_value()
        if word in _LITERALS:
            self._attach_value(_LITERALS[word])
            return
        if not _NUMBER.fullmatch(word):
            raise _InvalidJson
        try:
            number = int(word) if _INTEGER.fullmatch(word) else float(word)
        except ValueError as error:  # an int with more digits than Python reads
            raise _InvalidJson from error
        self._attach_value(number)

    def _expect_value(self) -> None:
        if self._expected not in {"value", "value or ]"}:
            raise _InvalidJson

    def _attach_value(self, value: Any) -> None:
        """Add a complete value to the innermost open container."""
        self._expected = ", or end"
        if not self._open_containers:
            self._root = value
            return
        container = self._open_containers[-1]
        self._open_member_count -= len(container)
        if isinstance(container, dict):
            container[self._keys[-1]] = value  # may replace an equal key
        else:
            container.append(value)
        self._open_member_count += len(container)
