"""Tables of Markdown, aligned for a terminal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from foundry_api.cli.markdown.inline import Style, StyledText, parse_inline
from foundry_api.cli.markdown.wrapping import style_text
from foundry_api.cli.output import get_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["format_table"]

_DELIMITERS = re.compile(r"\|?[ \t]*:?-+:?[ \t]*(\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*")
_BAR = re.compile(r"(?<!\\)\|")
GAP = "  "


def format_table(lines: Sequence[str], width: int, *, colour: bool) -> list[str]:
    """Return the lines of a table with aligned columns; unchanged if it is none, or too wide."""
    if len(lines) < 2 or not _DELIMITERS.fullmatch(lines[1].strip()):  # noqa: PLR2004 - header and delimiters
        return list(lines)
    header = [parse_inline(cell, Style(bold=True)) for cell in _split(lines[0])]
    body = [[parse_inline(cell) for cell in _split(line)] for line in lines[2:]]
    rows = [header, *body]
    columns = max(map(len, rows))
    widths = [
        max((_measure(row[column]) for row in rows if column < len(row)), default=0)
        for column in range(columns)
    ]
    if sum(widths) + len(GAP) * (columns - 1) > width:
        return list(lines)
    right = {
        number
        for number, cell in enumerate(_split(lines[1]))
        if cell.endswith(":") and not cell.startswith(":")
    }
    formatted = [_format_row(row, widths, right, colour=colour) for row in rows]
    rule = style_text(GAP.join("─" * size for size in widths), Style(dim=True))
    return [formatted[0], rule, *formatted[1:]]


def _split(line: str) -> list[str]:
    inner = line.strip().removeprefix("|")
    cells = _BAR.split(inner)
    if not cells[-1].strip():
        cells.pop()
    return [cell.strip().replace("\\|", "|") for cell in cells]


def _measure(texts: list[StyledText]) -> int:
    return sum(get_cells(text.text) for text in texts)


def _format_row(
    row: list[list[StyledText]], widths: list[int], right: set[int], *, colour: bool
) -> str:
    cells: list[str] = []
    for number, (cell, size) in enumerate(zip(row, widths, strict=False)):
        text = "".join(style_text(*part, colour=colour) for part in cell)
        padding = " " * (size - _measure(cell))
        cells.append(padding + text if number in right else text + padding)
    return GAP.join(cells).rstrip()
