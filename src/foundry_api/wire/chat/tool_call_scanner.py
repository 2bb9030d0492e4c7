"""Reads a format of tool calls step by step, and knows where the text ends too early."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from foundry_api.types.values import is_object
from foundry_api.wire.chat.tool_call_matching import (
    LONGEST_MARKER,
    MalformedCall,
    decoded,
    end_of_value,
)

if TYPE_CHECKING:
    from foundry_api.wire.chat.tool_call_matching import Seen

__all__ = ["QUOTES", "Incomplete", "Scan"]

QUOTES: Final = "\"'"
_BLANKS: Final = re.compile(r"\s*")
_STRINGS: Final = {
    quote: re.compile(rf"{quote}((?:[^{quote}\\]|\\.)*+){quote}", re.DOTALL) for quote in QUOTES
}
_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPED: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}


class Incomplete(Exception):
    """The text ends within what may be a call."""


class Scan:
    """Reads a format step by step.

    Attributes:
        at: The place that is looked at.
        proven: Whether it is clear that this is a call.
    """

    def __init__(self, seen: Seen) -> None:
        self.at = seen.at
        self.proven = False
        self._seen = seen
        self._text = seen.text

    @property
    def starts_line(self) -> bool:
        """Whether nothing but blanks stood before the format on its line."""
        return self._seen.starts_line

    @property
    def ended(self) -> bool:
        """Whether all of the text was passed, and no more will come."""
        return self._seen.final and self.at == len(self._text)

    def literal(self, *options: str) -> str:
        """The option that stands here, which is passed; empty if none does.

        Raises:
            Incomplete: One may begin here.
        """
        rest = self._text[self.at : self.at + LONGEST_MARKER]
        if self.at + len(rest) == len(self._text) and any(
            option.startswith(rest) and option != rest for option in options
        ):
            raise Incomplete
        for option in options:
            if rest.startswith(option):
                self.at += len(option)
                return option
        return ""

    def optional(self, *options: str) -> str:
        """As `literal`, of what may be left out at the end of the text."""
        try:
            return self.literal(*options)
        except Incomplete:
            if not self._seen.final:
                raise
            self.at = len(self._text)
            return ""

    def pattern(self, pattern: re.Pattern[str]) -> str | None:
        """The text that matches, which is passed; None if none does.

        Raises:
            Incomplete: It may go on.
        """
        match = pattern.match(self._text, self.at)
        if (match.end() if match else self.at) == len(self._text):
            raise Incomplete
        if match is None:
            return None
        self.at = match.end()
        return match[0]

    def blanks(self) -> None:
        """Pass white space."""
        match = _BLANKS.match(self._text, self.at)
        self.at = match.end() if match else self.at

    def upto(self, marker: str) -> str:
        """The text ahead of a marker; both are passed.

        Raises:
            Incomplete: It has not come.
        """
        end = self._text.find(marker, self.at)
        if end < 0:
            raise Incomplete
        text, self.at = self._text[self.at : end], end + len(marker)
        return text

    def rest_from(self, start: int) -> str:
        """The text from a place on, as far as a marker can reach."""
        return self._text[start : start + LONGEST_MARKER]

    def next(self) -> str:
        """The next character.

        Raises:
            Incomplete: There is none.
        """
        if self.at == len(self._text):
            raise Incomplete
        return self._text[self.at]

    def json(self) -> dict[str, Any]:
        """The JSON object that stands here, which is passed.

        Raises:
            MalformedCall: There is none.
            Incomplete: It has not ended.
        """
        if self.next() != "{":
            raise self.malformed("its arguments are not a JSON object")
        end = end_of_value(self._text, self.at)
        if end is None:
            raise Incomplete
        value: Any = decoded(self._text[self.at : end], self._text[self._seen.at : end])
        if not is_object(value):
            raise self.malformed("its arguments are not a JSON object")
        self.at = end
        return value

    def string(self) -> str:
        """The text between quotes as Python writes it, which is passed.

        Raises:
            Incomplete: It has not ended.
        """
        match = _STRINGS[self.next()].match(self._text, self.at)
        if match is None:
            raise Incomplete
        self.at = match.end()
        return _ESCAPE.sub(_unescaped, match[1])

    def malformed(self, reason: str) -> MalformedCall:
        """The error for a call that cannot be read."""
        return MalformedCall(reason, self._text[self._seen.at :])


def _unescaped(match: re.Match[str]) -> str:
    told = match[1]
    if len(told) > 1:
        return chr(int(told[1:], 16))
    return _ESCAPED.get(told, told if told in "\\\"'" else match[0])
