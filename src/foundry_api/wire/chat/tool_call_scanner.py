"""A scanner for tool call formats that detects where the text ends too early."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from foundry_api.types.values import is_object
from foundry_api.wire.chat.tool_call_matching import (
    MAX_MARKER_LENGTH,
    MalformedCall,
    decode_json,
    find_value_end,
)

if TYPE_CHECKING:
    from foundry_api.wire.chat.tool_call_matching import TextWindow

__all__ = ["NAME", "QUOTES", "FormatScanner", "TextEnded"]

QUOTES: Final = "\"'"
# Of a function. Bounded, so that ordinary text soon stops matching and is not held back.
NAME: Final = re.compile(r"[\w.-]{1,80}")
_BLANKS: Final = re.compile(r"\s*")
_STRINGS: Final = {
    quote: re.compile(rf"{quote}((?:[^{quote}\\]|\\.)*+){quote}", re.DOTALL) for quote in QUOTES
}
_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPED: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}


class TextEnded(Exception):
    """The text ends inside what may be a call."""


class FormatScanner:
    """Reads from a position on; TextEnded is raised where more text could change the result."""

    def __init__(self, window: TextWindow) -> None:
        self.position = window.position
        self.is_proven = False  # whether this is certainly a call, though perhaps a malformed one
        self._window = window
        self._text = window.text

    @property
    def starts_line(self) -> bool:
        """Whether only white space precedes the format on its line."""
        return self._window.starts_line

    @property
    def ended(self) -> bool:
        """Whether the text is complete and has been read to its end."""
        return self._window.is_final and self.position == len(self._text)

    def read_literal(self, *options: str) -> str:
        """Read one of the options; return "" if none is here."""
        rest = self._text[self.position : self.position + MAX_MARKER_LENGTH]
        if self.position + len(rest) == len(self._text) and any(
            option.startswith(rest) and option != rest for option in options
        ):
            raise TextEnded
        for option in options:
            if rest.startswith(option):
                self.position += len(option)
                return option
        return ""

    def read_optional(self, *options: str) -> str:
        """Read one of the options, or nothing at the end of the text."""
        try:
            return self.read_literal(*options)
        except TextEnded:
            if not self._window.is_final:
                raise
            self.position = len(self._text)
            return ""

    def read_pattern(self, pattern: re.Pattern[str]) -> str | None:
        """Read text that matches; return None if there is none."""
        match = pattern.match(self._text, self.position)
        if (match.end() if match else self.position) == len(self._text):
            raise TextEnded
        if match is None:
            return None
        self.position = match.end()
        return match[0]

    def skip_blanks(self) -> None:
        match = _BLANKS.match(self._text, self.position)
        self.position = match.end() if match else self.position

    def read_until(self, marker: str) -> str:
        """Read up to and including a marker; return the text before it."""
        end = self._text.find(marker, self.position)
        if end < 0:
            raise TextEnded
        text, self.position = self._text[self.position : end], end + len(marker)
        return text

    def get_rest(self, start: int) -> str:
        """Return the text from a position on, at most as long as a marker."""
        return self._text[start : start + MAX_MARKER_LENGTH]

    def peek(self) -> str:
        """Return the next character."""
        if self.position == len(self._text):
            raise TextEnded
        return self._text[self.position]

    def read_json(self) -> dict[str, Any]:
        """Read a JSON object; raise MalformedCall if there is none."""
        if self.peek() != "{":
            raise self.make_error("its arguments are not a JSON object")
        end = find_value_end(self._text, self.position)
        if end is None:
            raise TextEnded
        value: Any = decode_json(
            self._text[self.position : end], self._text[self._window.position : end]
        )
        if not is_object(value):
            raise self.make_error("its arguments are not a JSON object")
        self.position = end
        return value

    def read_string(self) -> str:
        """Read a Python string."""
        match = _STRINGS[self.peek()].match(self._text, self.position)
        if match is None:
            raise TextEnded
        self.position = match.end()
        return _ESCAPE.sub(_unescape, match[1])

    def make_error(self, reason: str) -> MalformedCall:
        return MalformedCall(reason, self._text[self._window.position :])


def _unescape(match: re.Match[str]) -> str:
    escape = match[1]
    if len(escape) > 1:
        return chr(int(escape[1:], 16))
    return _ESCAPED.get(escape, escape if escape in "\\\"'" else match[0])
