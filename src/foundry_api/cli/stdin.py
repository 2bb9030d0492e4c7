"""Reads standard input as text, instead of arguments or in addition to them."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from foundry_api.cli.output import is_terminal, print_notice
from foundry_api.cli.text_file import MAX_BYTES, decode_text
from foundry_api.observe.format import format_bytes, format_duration
from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import BufferedReader
    from typing import TextIO

__all__ = ["MARK", "read_piped_text", "read_text"]

MARK = "-"  # the argument that stands for standard input
SUBJECT = "standard input"
SILENCE_S = 10.0
BLOCK_BYTES = 64 * 1024
# On Windows, Ctrl-C does not interrupt a wait without a timeout.
_INTERRUPTIBLE_S = 0.2


def read_text(field: str) -> str:
    """Read standard input to its end; `field` is the argument that errors name."""
    if sys.stdin is None or sys.stdin.closed:  # pyright: ignore[reportUnnecessaryComparison]
        raise InvalidRequest("standard input is closed", field=field)
    return decode_text(b"".join(_limit_size(_iter_blocks(sys.stdin, field), field)), SUBJECT, field)


def read_piped_text(field: str, *, silence_s: float = SILENCE_S) -> str:
    """Read standard input, unless it is a terminal or open but silent."""
    # A program that runs this one may have passed on its own standard input, to which no
    # program writes. A pipe from another command is different: its first byte may take any time.
    stream = sys.stdin
    if stream is None or stream.closed or is_terminal(stream):  # pyright: ignore[reportUnnecessaryComparison]
        return ""
    first = _FirstBlock(stream, field)
    if not first.read_within(silence_s):
        if not _is_output_of_a_command(stream):
            print_notice(
                "Standard input is open, but nothing arrived within "
                f"{format_duration(silence_s)}: it is ignored. "
                f"Pass {MARK} to wait for it, or < {os.devnull} to ignore it at once."
            )
            return ""
        while not first.read_within(_INTERRUPTIBLE_S):
            continue
    return decode_text(b"".join(_limit_size(first.iter_all(), field)), SUBJECT, field)


class _FirstBlock:
    """Reads the first block in a thread: not every platform can wait for a pipe with a timeout."""

    def __init__(self, stream: TextIO, field: str) -> None:
        self._blocks = _iter_blocks(stream, field)
        self._block = b""
        self._failure: InvalidRequest | None = None
        self._read = threading.Event()
        threading.Thread(target=self._run, name="standard-input", daemon=True).start()

    def read_within(self, seconds: float) -> bool:
        """Return whether the first byte, or the end of the input, arrives in time."""
        return self._read.wait(seconds)

    def iter_all(self) -> Iterator[bytes]:
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
    # Read past Python's buffer: a thread that is still waiting would hold the buffer's lock.
    try:
        descriptor = stream.fileno()
    except OSError:  # a stream of a test or a notebook, which may refuse to be read
        with contextlib.suppress(OSError):
            yield stream.buffer.read() if hasattr(stream, "buffer") else stream.read().encode()
        return
    # From a console of Windows, os.read gets characters of its code page, and Python's own reader
    # of consoles UTF-8.
    read: Callable[[int], bytes | None] = partial(os.read, descriptor)
    if is_terminal(stream):
        read = cast("BufferedReader", stream.buffer).raw.read
    try:
        while block := read(BLOCK_BYTES):
            yield block
    except OSError as error:
        if error.errno == errno.EBADF:  # `nohup` passes a file that cannot be read
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
                f"standard input is longer than {format_bytes(MAX_BYTES)}",
                field=field,
                hint="No model reads that much: pass a part of it.",
            )
        yield block


def _is_output_of_a_command(stream: TextIO) -> bool:
    """Whether a pipe is the standard output of a command, as in `slow | foundry-api chat`."""
    # A shell makes the pipe descriptor 1 of the command, and /proc shows the same `pipe:[NUMBER]`
    # for both ends. A program that only passes on its standard input has the other end, if at all,
    # under another descriptor. /proc is Linux only; elsewhere the answer is no.
    try:
        pipe = Path(f"/proc/self/fd/{stream.fileno()}").readlink()
    except OSError:
        return False
    for output in Path("/proc").glob("[0-9]*/fd/1"):
        with contextlib.suppress(OSError):  # of a process that ended, or of another user
            if output.readlink() == pipe:
                return True
    return False
