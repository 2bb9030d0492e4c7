"""Renders the blocks of Markdown line by line while the text arrives.

Headings, lists, quotes, code, tables and rules are recognised by the start of a line, so that at
most a few characters are held back; a table is held back until it ends. Line breaks are kept as the
model wrote them. Time is linear in the length of the text, and memory is bounded.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from foundry_api.cli.markdown.inline import InlineParser, Style, StyledText
from foundry_api.cli.markdown.tables import format_table
from foundry_api.cli.markdown.wrapping import LineWrapper, style_text

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MarkdownRenderer"]

# A longer start of a line is text, whatever it looks like.
MAX_START = 80
MAX_TABLE_LINES = 200
MAX_TABLE_LINE = 2000
MAX_RULE = 40

_UNDECIDED = re.compile(
    r"[ \t]*(?:"
    r"#{0,6}[ \t]*"  # a heading, or text that starts with #
    r"|`{1,2}|~{1,2}"  # a fence
    r"|\+[ \t]*|(?:[-*_][ \t]*)+"  # a bullet, a rule or emphasis
    r"|\d{1,9}(?:[.)][ \t]*)?"  # a number
    r"|(?:>[ \t]?)+"  # a quote
    r")"
)
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+")
_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})")
_RULE = re.compile(r" {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}")
_BULLET = re.compile(r"([ \t]*)[-*+][ \t]+")
_NUMBER = re.compile(r"([ \t]*\d{1,9}[.)])[ \t]+")
_QUOTE = re.compile(r" {0,3}((?:>[ \t]?)+)")
_SPACE = re.compile(r"[ \t]*")

_BODY = Style()
_DIM = Style(dim=True)


class MarkdownRenderer:
    """Renders one text. Feed it text without control characters; lines end with a line feed.

    Args:
        write: Writes to the terminal.
        get_width: Returns the width of the terminal.
        colour: Whether colours may be used.
    """

    def __init__(
        self, write: Callable[[str], object], get_width: Callable[[], int], *, colour: bool = True
    ) -> None:
        self._write = write
        self._get_width = get_width
        self._colour = colour
        self._wrapper = LineWrapper(write, get_width, colour=colour)
        self._start = ""  # the start of a line, until it is known what the line is
        self._inline: InlineParser | None = None  # of a line that is being written
        self._fence = ""  # the fence that ends the code; empty outside of code
        self._is_code_line = False  # whether the line is known to be code, and not the fence
        self._table: list[str] = []

    def feed(self, text: str) -> None:
        """Render more text."""
        *lines, rest = text.split("\n")
        for line in lines:
            self._feed_line(line, is_complete=True)
        if rest:
            self._feed_line(rest, is_complete=False)

    def finish(self) -> None:
        """Render what was held back, and end the last line."""
        if self._start or self._inline or self._is_code_line:
            self._feed_line("", is_complete=True)
        self._flush_table()

    def _feed_line(self, text: str, *, is_complete: bool) -> None:
        if self._fence:
            self._feed_code(text, is_complete=is_complete)
        elif self._inline is not None:
            self._feed_inline(self._inline, text, is_complete=is_complete)
        else:
            self._start += text
            if is_complete or not self._is_undecided():
                line, self._start = self._start, ""
                self._start_line(line, is_complete=is_complete)

    def _is_undecided(self) -> bool:
        start = self._start.lstrip(" \t")
        if start.startswith("|"):
            return len(self._start) < MAX_TABLE_LINE
        if len(self._start) > MAX_START:
            return False
        is_fence = start.startswith(("```", "~~~"))  # which waits for the end of its line
        return is_fence or _UNDECIDED.fullmatch(self._start) is not None

    def _start_line(self, line: str, *, is_complete: bool) -> None:
        is_short = is_complete and len(line) <= MAX_START
        if is_complete and len(line) < MAX_TABLE_LINE and line.lstrip(" \t").startswith("|"):
            self._table.append(line)
            if len(self._table) >= MAX_TABLE_LINES:
                self._flush_table()
            return
        self._flush_table()
        if is_short and (fence := _FENCE.match(line)) and "`" not in line[fence.end() :]:
            self._fence = fence[2]
            self._write(style_text(line, _DIM) + "\n")
            return
        if is_short and _RULE.fullmatch(line):
            width = min(self._get_width(), MAX_RULE)
            self._write(style_text("─" * width, _DIM) + "\n")
            return
        first, indent, style, rest = _match_block(line)
        self._wrapper.start_line(first, indent)
        self._inline = InlineParser(style)
        self._feed_inline(self._inline, rest, is_complete=is_complete)

    def _feed_inline(self, inline: InlineParser, text: str, *, is_complete: bool) -> None:
        self._wrapper.put(inline.feed(text, final=is_complete))
        if is_complete:
            self._wrapper.end_line()
            self._inline = None

    def _feed_code(self, text: str, *, is_complete: bool) -> None:
        self._start += text
        if not self._is_code_line:
            stripped = self._start.strip(" \t")
            could_be_fence = set(stripped) <= {self._fence[0]} and len(self._start) < MAX_START
            if could_be_fence and not is_complete:
                return
            if could_be_fence and len(stripped) >= len(self._fence):
                self._write(style_text(self._start, _DIM) + "\n")
                self._start, self._fence = "", ""
                return
        code, self._start = self._start, ""
        self._is_code_line = not is_complete
        # Not wrapped: the code can be copied from the terminal.
        self._write(style_text(code, Style(code=True)) if self._colour else code)
        if is_complete:
            self._write("\n")

    def _flush_table(self) -> None:
        lines, self._table = self._table, []
        if lines:
            formatted = format_table(lines, self._get_width(), colour=self._colour)
            self._write("\n".join(formatted) + "\n")


def _match_block(line: str) -> tuple[StyledText, StyledText, Style, str]:
    """Return the first text of a line, the indent of its continuation, its style and the rest."""
    if heading := _HEADING.match(line):
        style = Style(bold=True, underline=heading[1] == "#")
        return StyledText("", _BODY), StyledText("", _BODY), style, line[heading.end() :]
    if bullet := _BULLET.match(line):
        first = f"{bullet[1].expandtabs(4)}• "
        return _hang(first, line[bullet.end() :])
    if number := _NUMBER.match(line):
        return _hang(f"{number[1].expandtabs(4)} ", line[number.end() :])
    if quote := _QUOTE.match(line):
        bar = StyledText("│ " * quote[1].count(">"), _DIM)
        return bar, bar, _BODY, line[quote.end() :]
    indent = _SPACE.match(line)
    end = indent.end() if indent else 0
    return _hang(line[:end].expandtabs(4), line[end:])


def _hang(first: str, rest: str) -> tuple[StyledText, StyledText, Style, str]:
    indent = " " * len(first)
    return StyledText(first, _BODY), StyledText(indent, _BODY), _BODY, rest
