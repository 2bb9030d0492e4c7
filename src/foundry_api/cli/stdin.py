"""Standard input as text: what a verb reads instead of its arguments, or beside them."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from foundry_api.cli.output import is_terminal
from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

__all__ = ["MARK", "read_piped_text", "read_text"]

MARK = "-"
"""The argument that stands for standard input."""

MAX_BYTES = 16 * 2**20
"""More than any model reads: a megabyte of text is longer than the longest context."""

SILENCE_S = 10.0
"""How long an open pipe may stay silent before a command that has its text goes on without it."""

BLOCK_BYTES = 64 * 1024
_INTERRUPTIBLE_S = 0.2
"""On Windows, Ctrl-C does not end a wait that has no end of its own."""


def read_text(field: str) -> str:
    """All of standard input, which the user asked for: wait for its end, however long it takes.

    Args:
        field: The argument that the text is for; errors name it.

    Raises:
        InvalidRequest: It is closed, too long, or not text.
    """
    if sys.stdin is None or sys.stdin.closed:  # pyright: ignore[reportUnnecessaryComparison]
        raise InvalidRequest("standard input is closed", field=field)
    return _decode_text(b"".join(_limit_size(_iter_blocks(sys.stdin, field), field)), field)


def read_piped_text(field: str, *, silence_s: float = SILENCE_S) -> str:
    """What a pipe or a file on standard input holds, for a command that has its text already.

    Nothing is read from a terminal. A program that runs this one may have left its own input open,
    where nothing will ever come: an open input that stays silent is left out, and the user is told.
    Where another command writes to it, it is waited for.

    Args:
        field: The argument that the text is for; errors name it.
        silence_s: How long to wait for the first byte.

    Raises:
        InvalidRequest: It is too long, or not text.
    """
    stream = sys.stdin
    if stream is None or stream.closed or is_terminal(stream):  # pyright: ignore[reportUnnecessaryComparison]
        return ""
    first = _FirstBlock(stream, field)
    if not first.read_within(silence_s):
        if not _is_command_output(stream):
            click.echo(
                f"Standard input is open, but nothing came within {silence_s:g} s: it is left out. "
                f"Give {MARK} to wait for it, or < {os.devnull} to leave it out at once.",
                err=True,
            )
            return ""
        while not first.read_within(_INTERRUPTIBLE_S):
            continue
    return _decode_text(b"".join(_limit_size(first.iter_all(), field)), field)


class _FirstBlock:
    """Reads a block in a thread of its own: not every platform can wait for a pipe and stop."""

    def __init__(self, stream: TextIO, field: str) -> None:
        self._blocks = _iter_blocks(stream, field)
        self._block = b""
        self._failure: InvalidRequest | None = None
        self._read = threading.Event()
        threading.Thread(target=self._run, name="standard-input", daemon=True).start()

    def read_within(self, seconds: float) -> bool:
        """Wait for the first byte, or the end."""
        return self._read.wait(seconds)

    def iter_all(self) -> Iterator[bytes]:
        """The block, and those after it.

        Raises:
            InvalidRequest: The input cannot be read.
        """
        if self._failure is not None:
            raise self._failure
        yield self._block
        yield from self._blocks

    def _run(self) -> None:
        try:
            self._block = next(self._blocks, b"")
        except InvalidRequest as error:
            self._failure = error
        finally:
            self._read.set()


def _iter_blocks(stream: TextIO, field: str) -> Iterator[bytes]:
    """The input, read past Python's buffer: a thread that still waits would hold its lock."""
    try:
        descriptor = stream.fileno()
    except OSError:  # what tests and notebooks put in its place is no file, and may refuse
        with contextlib.suppress(OSError):
            yield stream.buffer.read() if hasattr(stream, "buffer") else stream.read().encode()
        return
    try:
        while block := os.read(descriptor, BLOCK_BYTES):
            yield block
    except OSError as error:
        if error.errno == errno.EBADF:  # `nohup` gives a file that can't be read
            return
        raise InvalidRequest(
            f"standard input cannot be read: {error.strerror}", field=field
        ) from error


def _limit_size(blocks: Iterator[bytes], field: str) -> Iterator[bytes]:
    size = 0
    for block in blocks:
        size += len(block)
        if size > MAX_BYTES:
            raise InvalidRequest(
                f"standard input is longer than {MAX_BYTES} bytes",
                field=field,
                hint="No model reads that much: give a part of it.",
            )
        yield block


def _decode_text(raw: bytes, field: str) -> str:
    """Text with its line ends made the same, without the mark that Windows begins it with."""
    try:
        text = io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            "standard input is not text in UTF-8", field=field, hint="Convert it first."
        ) from error
    if "\0" in text:
        raise InvalidRequest("standard input is not text: it holds NUL characters", field=field)
    return text


def _is_command_output(stream: TextIO) -> bool:
    """Whether a pipe is the standard output of a command, as in `slow | foundry-api chat`.

    Only Linux tells; elsewhere the answer is no.
    """
    try:
        pipe = Path(f"/proc/self/fd/{stream.fileno()}").readlink()
    except OSError:
        return False
    return any(_is_link_to(output, pipe) for output in Path("/proc").glob("[0-9]*/fd/1"))


def _is_link_to(link: Path, target: Path) -> bool:
    try:
        return link.readlink() == target
    except OSError:  # a process that has ended, or of another user
        return False
