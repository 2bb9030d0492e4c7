"""Standard streams as they come on Linux, macOS and Windows, made the same.

What cannot be written is not a bug of the program: a full disk behind `> file`, a stream that the
caller closed. Standard output raises `OutputError` then; standard error, where the user would be
told, loses the text.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from io import BufferedWriter, FileIO, TextIOWrapper
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
    "OutputError",
    "abandon_unwritten",
    "arrange",
    "bars_for",
    "coloured",
    "is_terminal",
    "print_fields",
    "print_json",
    "print_table",
    "sanitize",
    "sanitize_line",
    "sparkline",
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
    click.echo(escape_json(told) if is_terminal(sys.stdout) else told)


def _encoded(value: Any) -> bytes:
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
    click.echo(click.style(sanitize_line(title), bold=True) + GAP + coloured(state))
    for name, value in known:
        click.echo(f"{GAP}{name.ljust(width)}{GAP}{sanitize_line(value)}")


def coloured(state: str) -> str:
    """A state, in its colour if it has one."""
    return click.style(state, fg=STATE_COLOURS.get(state))


class OutputError(OSError):
    """Standard output cannot be written."""

    def __str__(self) -> str:
        """The sentence for the user."""
        if self.errno == errno.EBADF:
            return "standard output is closed"
        return f"standard output cannot be written: {self.strerror}"


class _Stream(TextIOWrapper):
    """A stream over the buffer of another.

    Attributes:
        replaced: The other, which would close the buffer if nobody referred to it any more.
    """

    replaced: TextIO | None = None


class _Output(_Stream):
    """Standard output. A reader that left is a `BrokenPipeError`, as always."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from error

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from error


class _Errors(_Stream):
    """Standard error. A failure to write to it changes nothing: the exit code tells the end."""

    def write(self, text: str, /) -> int:
        with contextlib.suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def arrange() -> None:
    """Read and write UTF-8, whatever the code page or locale is, and expect failing writes.

    A pipe or file on Windows has the ANSI code page, in which most answers cannot be written. What
    cannot be encoded even so, such as half a surrogate pair in a file's name, is escaped.
    """
    _occupy_closed_descriptors()
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")  # pyright: ignore[reportUnknownMemberType]
    sys.stdout = _arranged(sys.stdout, 1, _Output)
    sys.stderr = _arranged(sys.stderr, 2, _Errors)


def abandon_unwritten() -> None:
    """Let what standard output could not take go: Python would try, and complain, at its exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _arranged(stream: TextIO | None, descriptor: int, kind: type[_Stream]) -> TextIO:
    """A stream of ours in the place of Python's; others, of tests and notebooks, stay."""
    if stream is None:  # it was closed; writing to what stands in its place fails
        raw = BufferedWriter(FileIO(descriptor, "w", closefd=False))
        return kind(raw, encoding="utf-8", errors="backslashreplace")
    if type(stream) is not TextIOWrapper:
        return stream
    ours = kind(
        stream.buffer,
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
    ours.replaced = stream
    return ours


def _occupy_closed_descriptors() -> None:
    """The next file to be opened would become standard output, and get what is meant for it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # becomes the lowest free one, which is this


BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.:-=+*#"


def bars_for(encoding: str | None) -> str:
    """The bars that a terminal can show: those of Unicode, or what ASCII has instead."""
    try:
        BARS.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII_BARS
    return BARS


def sparkline(
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

    def bar(value: float | None) -> str:
        if value is None:
            return " "
        share = (value - low) / span if span > 0 else 0.0
        return bars[round(min(max(share, 0.0), 1.0) * steps)]

    return "".join(map(bar, shown)).rjust(width)
