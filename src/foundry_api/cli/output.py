"""What verbs print: tables, fields and JSON, plain in a pipe and with colours on a terminal."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, TextIO

import click
import msgspec

from foundry_api.plain_text import harmless_json, printable, printable_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "STATE_COLOURS",
    "coloured",
    "is_terminal",
    "print_fields",
    "print_json",
    "print_table",
    "printable",
    "printable_line",
]

GAP = "  "
STATE_COLOURS = {"healthy": "green", "degraded": "yellow", "down": "red"}


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person is at the other end of a stream."""
    return stream is not None and not stream.closed and stream.isatty()


def print_json(value: Any, *, indent: int = 2) -> None:
    """One JSON document on standard output, on one line where `indent` is 0."""
    encoded = _encoded(value)
    told = (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()
    click.echo(harmless_json(told) if is_terminal(sys.stdout) else told)


def _encoded(value: Any) -> bytes:
    """JSON, in which half a surrogate pair, as in a file's name that is no UTF-8, is escaped."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value)).encode()


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns, the last one ragged."""
    cells = [[printable_line(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [GAP.join(map(str.ljust, row, widths)).rstrip() for row in cells]
    click.secho(lines[0], bold=True)
    for line in lines[1:]:
        click.echo(line)


def print_fields(title: str, state: str, fields: Iterable[tuple[str, str]]) -> None:
    """A titled list of names and values; values that are not known are left out."""
    known = [(printable_line(name), value) for name, value in fields if value]
    width = max((len(name) for name, _ in known), default=0)
    click.echo(click.style(printable_line(title), bold=True) + GAP + coloured(state))
    for name, value in known:
        click.echo(f"{GAP}{name.ljust(width)}{GAP}{printable_line(value)}")


def coloured(state: str) -> str:
    """A state, in its colour if it has one."""
    return click.style(state, fg=STATE_COLOURS.get(state))
