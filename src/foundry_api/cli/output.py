"""Prints JSON, tables, fields and sparklines."""

from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any, TextIO

import click
import msgspec

from foundry_api.types.plain_text import escape_json, sanitize, sanitize_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "ASCII_BARS",
    "BARS",
    "STATE_COLOURS",
    "format_sparkline",
    "get_bars",
    "get_cells",
    "is_terminal",
    "print_fields",
    "print_json",
    "print_notice",
    "print_table",
    "sanitize",
    "sanitize_line",
    "wrap_words",
]

GAP = "  "
STATE_COLOURS = {"healthy": "green", "degraded": "yellow", "down": "red"}
MIN_WIDTH = 20
BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.:-=+*#"


def get_cells(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415 - 9 ms, and most text does without it

    return cell_len(text)


def is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def print_json(value: Any, *, indent: int = 2) -> None:
    """Print a JSON document, on one line if `indent` is 0."""
    try:
        encoded = msgspec.json.encode(value)
    except UnicodeEncodeError:
        # A lone surrogate, as in the name of a file that is not valid UTF-8: `json` escapes it.
        encoded = json.dumps(msgspec.to_builtins(value)).encode()
    text = (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()
    click.echo(escape_json(text) if is_terminal(sys.stdout) else text)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    cells = [[sanitize_line(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(map(get_cells, column)) for column in zip(*cells, strict=True)]
    lines = [GAP.join(map(_pad, row, widths)).rstrip() for row in cells]
    click.secho(lines[0], bold=True)
    for line in lines[1:]:
        click.echo(line)


def _pad(text: str, width: int) -> str:
    return text + " " * (width - get_cells(text))


def print_notice(text: str) -> None:
    """Print text for the user to standard error, which wraps at words on a terminal."""
    click.echo(wrap_words(sanitize(text), sys.stderr), err=True)


def wrap_words(text: str, stream: TextIO) -> str:
    """Wrap lines that are too long for a terminal; other streams get them as they are.

    A command in backticks is not broken, so that it can be copied.
    """
    if not is_terminal(stream):
        return text
    width = max(shutil.get_terminal_size().columns, MIN_WIDTH)
    lines = [
        _wrap_line(line, width) if get_cells(line) > width else line for line in text.split("\n")
    ]
    return "\n".join(lines)


def _wrap_line(line: str, width: int) -> str:
    commands = re.sub("`[^`]+`", lambda match: match[0].replace(" ", "\xa0"), line)
    indent = " " * (len(line) - len(line.lstrip()))
    if line.isascii():
        wrapped = textwrap.fill(
            commands,
            width,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    else:
        wrapped = _wrap_cells(commands.lstrip(" "), width, indent)
    return wrapped.replace("\xa0", " ")


def _wrap_cells(text: str, width: int, indent: str) -> str:
    """Wrap a line with characters that may take two columns, or none."""
    lines, line = list[str](), indent
    for word in text.split(" "):
        joined = f"{line} {word}" if line.strip() else f"{line}{word}"
        if get_cells(joined) <= width:
            line = joined
            continue
        if line.strip():
            lines.append(line)
        line = indent
        for character in word:
            # Scripts with wide characters have no spaces.
            if get_cells(character) > 1 and get_cells(line) + get_cells(character) > width:
                lines.append(line)
                line = indent
            line += character
    return "\n".join([*lines, line])


def print_fields(title: str, state: str, fields: Iterable[tuple[str, str]]) -> None:
    """Print a title with its state, then names and values; empty values are left out."""
    known = [(sanitize_line(name), value) for name, value in fields if value]
    width = max((get_cells(name) for name, _ in known), default=0)
    styled_state = click.style(state, fg=STATE_COLOURS.get(state))
    click.echo(click.style(sanitize_line(title), bold=True) + GAP + styled_state)
    for name, value in known:
        click.echo(f"{GAP}{_pad(name, width)}{GAP}{sanitize_line(value)}")


def get_bars(encoding: str | None) -> str:
    """Return the bars that a terminal can show: Unicode blocks, or ASCII characters."""
    try:
        BARS.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII_BARS
    return BARS


def format_sparkline(
    values: Sequence[float | None], width: int, *, floor: float | None = 0.0, bars: str = BARS
) -> str:
    """Draw the newest values as bars, right-aligned, with a gap where a value is None.

    The lowest bar stands for `floor`, or for the lowest value shown if that is None.
    """
    shown = list(values)[-width:] if width > 0 else []
    known = [value for value in shown if value is not None]
    if not known:
        return ""
    low = min(known) if floor is None else floor
    span = max(known) - low
    steps = len(bars) - 1

    def get_bar(value: float | None) -> str:
        if value is None:
            return " "
        share = (value - low) / span if span > 0 else 0.0
        return bars[round(min(max(share, 0.0), 1.0) * steps)]

    return "".join(map(get_bar, shown)).rjust(width)
