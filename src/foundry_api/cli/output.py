"""Print JSON, tables and colours for people and for programs."""

from __future__ import annotations

import json
import sys
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
    "is_terminal",
    "print_fields",
    "print_json",
    "print_table",
    "sanitize",
    "sanitize_line",
    "style_state",
]


GAP = "  "
STATE_COLOURS = {"healthy": "green", "degraded": "yellow", "down": "red"}


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person is at the other end of a stream."""
    return stream is not None and not stream.closed and stream.isatty()


def print_json(value: Any, *, indent: int = 2) -> None:
    """One JSON document on standard output, on one line where `indent` is 0."""
    encoded = _encode_json(value)
    text = (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()
    click.echo(escape_json(text) if is_terminal(sys.stdout) else text)


def _encode_json(value: Any) -> bytes:
    """JSON, in which half a surrogate pair, as in a file's name that is no UTF-8, is escaped."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value)).encode()


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns, the last one ragged."""
    cells = [[sanitize_line(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [GAP.join(map(str.ljust, row, widths)).rstrip() for row in cells]
    click.secho(lines[0], bold=True)
    for line in lines[1:]:
        click.echo(line)


def print_fields(title: str, state: str, fields: Iterable[tuple[str, str]]) -> None:
    """A titled list of names and values; values that are not known are left out."""
    known = [(sanitize_line(name), value) for name, value in fields if value]
    width = max((len(name) for name, _ in known), default=0)
    click.echo(click.style(sanitize_line(title), bold=True) + GAP + style_state(state))
    for name, value in known:
        click.echo(f"{GAP}{name.ljust(width)}{GAP}{sanitize_line(value)}")


def style_state(state: str) -> str:
    """A state, in its colour if it has one."""
    return click.style(state, fg=STATE_COLOURS.get(state))


BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.:-=+*#"


def get_bars(encoding: str | None) -> str:
    """The bars that a terminal can show: those of Unicode, or what ASCII has instead."""
    try:
        BARS.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII_BARS
    return BARS


def format_sparkline(
    values: Sequence[float | None], width: int, *, floor: float | None = 0.0, bars: str = BARS
) -> str:
    """The newest values as bars, the last one at the right; a gap where there was none.

    Args:
        values: Oldest first.
        width: Characters; of more values the newest are shown.
        floor: What the lowest bar stands for; None for the lowest value shown.
        bars: From the lowest to the highest.
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
