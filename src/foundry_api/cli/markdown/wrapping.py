"""Wraps styled text at the width of the terminal, and writes it with ANSI codes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from foundry_api.cli.markdown.inline import Style, StyledText
from foundry_api.cli.output import get_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["LineWrapper", "style_text"]

# SGR codes: https://ecma-international.org/publications-and-standards/standards/ecma-48/
_CODES = {"bold": "1", "dim": "2", "italic": "3", "underline": "4", "strike": "9"}
_CODE_COLOUR = "36"
_WORDS = re.compile(r"[ \t]+|[^ \t]+")
TAB = "    "


def style_text(text: str, style: Style, *, colour: bool = True) -> str:
    """Return text with the ANSI codes of a style; without `colour`, code spans have backticks."""
    if style.code and not colour:
        return f"`{text}`"
    codes = [code for name, code in _CODES.items() if getattr(style, name)]
    if style.code:
        codes.append(_CODE_COLOUR)
    return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if codes and text else text


class LineWrapper:
    """Writes the words of a line, and starts another line before a word that does not fit.

    Args:
        write: Writes text to the terminal.
        get_width: Returns the width of the terminal, which may change at any time.
        colour: Whether colours are used, in addition to bold and the like.
    """

    def __init__(
        self, write: Callable[[str], object], get_width: Callable[[], int], *, colour: bool = True
    ) -> None:
        self._write = write
        self._get_width = get_width
        self._colour = colour
        self._word: list[StyledText] = []
        self._word_cells = 0
        self._space: list[StyledText] = []
        self._column = 0
        self._indent = StyledText("", Style())
        self._is_at_start = True  # whether the line has nothing but its indent

    def start_line(self, first: StyledText, indent: StyledText) -> None:
        """Start a line with its first text, such as a bullet; `indent` starts those that follow."""
        self._indent = indent
        self._write(style_text(*first, colour=self._colour))
        self._column = get_cells(first.text)
        self._is_at_start = True

    def put(self, texts: Iterable[StyledText]) -> None:
        """Write styled text; the last word waits for its end."""
        for text, style in texts:
            for part in _WORDS.findall(text):
                if part[0] in " \t" and not style.code:
                    self._flush_word()
                    self._space.append(StyledText(part.replace("\t", TAB), style))
                else:
                    self._put_part(part, style)

    def put_plain(self, text: str) -> None:
        """Write text of any number of lines, without a style."""
        first, *others = text.split("\n")
        self.put([StyledText(first, Style())])
        for line in others:
            self.end_line()
            self.put([StyledText(line, Style())])

    def end_line(self) -> None:
        """Write the last word and end the line."""
        self._flush_word()
        self._space.clear()
        self._write("\n")
        self._column = 0
        self._indent = StyledText("", Style())
        self._is_at_start = True

    def _put_part(self, part: str, style: Style) -> None:
        cells = get_cells(part)
        width = max(self._get_width() - get_cells(self._indent.text), 1)
        if cells == len(part) and self._word_cells + cells <= width:
            self._word.append(StyledText(part, style))
            self._word_cells += cells
            return
        # Scripts with wide characters have no spaces; a word longer than a line is cut.
        for character in part:
            size = get_cells(character)
            if size > 1 or self._word_cells + size > width:
                self._flush_word()
            self._word.append(StyledText(character, style))
            self._word_cells += size
            if size > 1:
                self._flush_word()

    def _flush_word(self) -> None:
        if not self._word:
            return
        needed = sum(len(text) for text, _ in self._space) + self._word_cells
        if self._column + needed > self._get_width() and not self._is_at_start:
            self._write(f"\n{style_text(*self._indent, colour=self._colour)}")
            self._column = get_cells(self._indent.text)
            self._space.clear()
            needed = self._word_cells
        texts = _merge([*self._space, *self._word])
        self._write("".join(style_text(*text, colour=self._colour) for text in texts))
        self._column += needed
        self._is_at_start = False
        self._word.clear()
        self._space.clear()
        self._word_cells = 0


def _merge(texts: list[StyledText]) -> list[StyledText]:
    """Join neighbours of the same style."""
    merged: list[StyledText] = []
    parts: list[str] = []
    for number, (text, style) in enumerate(texts):
        parts.append(text)
        if number + 1 == len(texts) or texts[number + 1].style != style:
            merged.append(StyledText("".join(parts), style))
            parts.clear()
    return merged
