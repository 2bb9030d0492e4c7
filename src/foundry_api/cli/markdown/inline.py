"""Emphasis, code spans and links within a line of Markdown, for text that is still arriving."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["InlineParser", "Style", "StyledText", "parse_inline"]

# An opener whose closer does not follow within this many characters is literal text. The limit
# bounds how long text is held back, and the search for a closer.
MAX_SPAN = 256
# What follows a closer says whether it is one.
LOOKAHEAD = 8

_SPECIAL = re.compile(r"[\\`*_~\[!]")
_ESCAPABLE = frozenset("\\`*_{}[]()#+-.!|~>")
_LINK = re.compile(r"!?\[([^\[\]\n]{0,200})\]\(<?([^()\s<>]{0,200})>?(?: \"[^\"\n]{0,100}\")?\)")
_SPAN_STYLES = {"*": "italic", "_": "italic", "**": "bold", "__": "bold", "~~": "strike"}


class Style(NamedTuple):
    """How text looks. A code span has no other style."""

    bold: bool = False
    italic: bool = False
    strike: bool = False
    underline: bool = False
    dim: bool = False
    code: bool = False


class StyledText(NamedTuple):
    text: str
    style: Style


class InlineParser:
    """Parses the text of one line, in pieces of any size, into styled texts.

    The result does not depend on how the text is cut into pieces.
    """

    def __init__(self, base: Style = Style()) -> None:  # noqa: B008 - it is immutable
        self._pending = ""
        self._previous = " "  # the character before the pending text
        self._open: list[tuple[str, Style]] = []  # delimiters, with the style outside of them
        self._style = base

    def feed(self, text: str, *, final: bool = False) -> list[StyledText]:
        """Parse more text; with `final`, the line has ended, and nothing is held back."""
        self._pending += text
        found: list[StyledText] = []
        position = 0
        while position < len(self._pending):
            end = self._parse_next(position, found, final=final)
            if end is None:
                break
            self._previous = self._pending[end - 1]
            position = end
        self._pending = self._pending[position:]
        return found

    def _parse_next(self, start: int, found: list[StyledText], *, final: bool) -> int | None:
        """Parse the text at a position and return its end; None if more text must arrive."""
        text = self._pending
        special = _SPECIAL.search(text, start)
        if special is None or special.start() > start:
            end = len(text) if special is None else special.start()
            found.append(StyledText(text[start:end], self._style))
            return end
        character = text[start]
        if character == "\\":
            return self._parse_escape(start, found, final=final)
        if character == "`":
            return self._parse_code(start, found, final=final)
        if character in "![":
            return self._parse_link(start, found, final=final)
        return self._parse_delimiter(start, found, final=final)

    def _literal(self, start: int, end: int, found: list[StyledText]) -> int:
        found.append(StyledText(self._pending[start:end], self._style))
        return end

    def _is_awaited(self, start: int, *, final: bool) -> bool:
        """Whether the rest of a span that starts here may still arrive."""
        return not final and len(self._pending) - start < MAX_SPAN + LOOKAHEAD

    def _parse_escape(self, start: int, found: list[StyledText], *, final: bool) -> int | None:
        following = self._pending[start + 1 : start + 2]
        if not following and not final:
            return None
        if following and following in _ESCAPABLE:
            found.append(StyledText(following, self._style))
            return start + 2
        return self._literal(start, start + 1, found)

    def _parse_code(self, start: int, found: list[StyledText], *, final: bool) -> int | None:
        end = self._get_run_end(start)
        if end == len(self._pending) and self._is_awaited(start, final=final):
            return None
        ticks = self._pending[start:end]
        limit = start + MAX_SPAN
        close = self._pending.find(ticks, end, limit)
        while close >= 0 and self._get_run_end(close) - close != len(ticks):
            close = self._pending.find(ticks, self._get_run_end(close), limit)
        # A run of backticks at the end of what has arrived may go on.
        is_open = close < 0 or self._get_run_end(close) == len(self._pending)
        if is_open and self._is_awaited(start, final=final):
            return None
        if close < 0:
            return self._literal(start, end, found)
        code = self._pending[end:close]
        # The spaces of `` ` `` only separate backticks.
        if code.startswith(" ") and code.endswith(" ") and code.strip():
            code = code[1:-1]
        found.append(StyledText(code, Style(code=True)))
        return close + len(ticks)

    def _parse_link(self, start: int, found: list[StyledText], *, final: bool) -> int | None:
        if link := _LINK.match(self._pending, start, start + MAX_SPAN):
            label, url = link.groups()
            if label:
                found.append(StyledText(label, self._style._replace(underline=True)))
            if url and url != label:
                found.append(
                    StyledText(f" ({url})" if label else url, self._style._replace(dim=True))
                )
            return link.end()
        rest = self._pending[start : start + MAX_SPAN]
        could_be_link = rest in {"!", "!["} or (
            rest.startswith(("[", "![")) and ("]" not in rest or rest.endswith("]") or "](" in rest)
        )
        if could_be_link and self._is_awaited(start, final=final):
            return None
        return self._literal(start, start + 1, found)

    def _parse_delimiter(self, start: int, found: list[StyledText], *, final: bool) -> int | None:
        end = self._get_run_end(start)
        if end == len(self._pending) and self._is_awaited(start, final=final):
            return None  # the run may go on, and what follows it decides what it means
        following = self._pending[end : end + 1] or " "
        run = self._pending[start:end]
        if self._open and run.startswith(self._open[-1][0]) and not self._previous.isspace():
            delimiter, self._style = self._open.pop()
            return start + len(delimiter)
        delimiter = run[:2] if len(run) > 1 else run
        opens = delimiter in _SPAN_STYLES and not following.isspace()
        if run[0] == "_" and self._previous.isalnum():
            opens = False  # as in snake_case
        if not opens:
            return self._literal(start, end, found)
        closer_end = self._find_closer(delimiter, start + len(delimiter), start + MAX_SPAN)
        is_open = closer_end is None or closer_end == len(self._pending)
        if is_open and self._is_awaited(start, final=final):
            return None
        if closer_end is None:
            return self._literal(start, end, found)
        self._open.append((delimiter, self._style))
        self._style = self._style._replace(**{_SPAN_STYLES[delimiter]: True})
        return start + len(delimiter)

    def _find_closer(self, delimiter: str, start: int, limit: int) -> int | None:
        """Return the end of the run of characters that closes a span; None if there is none."""
        text = self._pending
        close = text.find(delimiter, start + 1, limit)
        while close >= 0:
            end = self._get_run_end(close)
            is_other = len(delimiter) == 1 and end - close == 2  # noqa: PLR2004 - a ** closes no *
            is_in_word = delimiter[0] == "_" and text[end : end + 1].isalnum()
            if not (is_other or is_in_word or text[close - 1].isspace()):
                return end
            close = text.find(delimiter, end, limit)
        return None

    def _get_run_end(self, start: int) -> int:
        text, end = self._pending, start + 1
        while end < len(text) and text[end] == text[start]:
            end += 1
        return end


def parse_inline(text: str, base: Style = Style()) -> list[StyledText]:  # noqa: B008 - as above
    """Parse a line that is complete."""
    return InlineParser(base).feed(text, final=True)
