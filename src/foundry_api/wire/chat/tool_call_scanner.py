"""Reads a format of tool calls step by step, and knows where the text ends too early."""

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

__all__ = ["QUOTES", "FormatScanner", "TextEnded"]

QUOTES: Final = "\"'"
_BLANKS: Final = re.compile(r"\s*")
_STRINGS: Final = {
    quote: re.compile(rf"{quote}((?:[^{quote}\\]|\\.)*+){quote}", re.DOTALL) for quote in QUOTES
}
_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPED: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}


class TextEnded(Exception):
    """The text ends within what may be a call."""


class FormatScanner:
    """Reads a format step by step.

    Attributes:
        position: The place that is looked at.
        is_proven: Whether it is clear that this is a call.
    """

    def __init__(self, window: TextWindow) -> None:
        self.position = window.position
        self.is_proven = False
        self._window = window
        self._text = window.text

    @property
    def starts_line(self) -> bool:
        """Whether nothing but blanks stood before the format on its line."""
        return self._window.starts_line

    @property
    def ended(self) -> bool:
        """Whether all of the text was passed, and no more will come."""
        return self._window.is_final and self.position == len(self._text)

    def read_literal(self, *options: str) -> str:
        """The option that stands here, which is passed; empty if none does.

        Raises:
            TextEnded: One may begin here.
        """
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
        """As `read_literal`, of what may be left out at the end of the text."""
        try:
            return self.read_literal(*options)
        except TextEnded:
            if not self._window.is_final:
                raise
            self.position = len(self._text)
            return ""

    def read_pattern(self, pattern: re.Pattern[str]) -> str | None:
        """The text that matches, which is passed; None if none does.

        Raises:
            TextEnded: It may go on.
        """
        match = pattern.match(self._text, self.position)
        if (match.end() if match else self.position) == len(self._text):
            raise TextEnded
        if match is None:
            return None
        self.position = match.end()
        return match[0]

    def skip_blanks(self) -> None:
        """Pass white space."""
        match = _BLANKS.match(self._text, self.position)
        self.position = match.end() if match else self.position

    def read_until(self, marker: str) -> str:
        """The text ahead of a marker; both are passed.

        Raises:
            TextEnded: It has not come.
        """
        end = self._text.find(marker, self.position)
        if end < 0:
            raise TextEnded
        text, self.position = self._text[self.position : end], end + len(marker)
        return text

    def rest_from(self, start: int) -> str:
        """The text from a place on, as far as a marker can reach."""
        return self._text[start : start + MAX_MARKER_LENGTH]

    def peek(self) -> str:
        """The next character.

        Raises:
            TextEnded: There is none.
        """
        if self.position == len(self._text):
            raise TextEnded
        return self._text[self.position]

    def read_json(self) -> dict[str, Any]:
        """The JSON object that stands here, which is passed.

        Raises:
            MalformedCall: There is none.
            TextEnded: It has not ended.
        """
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
        """The text between quotes as Python writes it, which is passed.

        Raises:
            TextEnded: It has not ended.
        """
        match = _STRINGS[self.peek()].match(self._text, self.position)
        if match is None:
            raise TextEnded
        self.position = match.end()
        return _ESCAPE.sub(_unescape, match[1])

    def make_error(self, reason: str) -> MalformedCall:
        """The error for a call that cannot be read."""
        return MalformedCall(reason, self._text[self._window.position :])


def _unescape(match: re.Match[str]) -> str:
    escape = match[1]
    if len(escape) > 1:
        return chr(int(escape[1:], 16))
    return _ESCAPED.get(escape, escape if escape in "\\\"'" else match[0])
