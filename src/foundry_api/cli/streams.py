"""Standard streams that behave the same on Linux, macOS and Windows.

A failed write is not a bug of the program: the disk behind `> file` may be full, or the caller
closed the stream. Standard output then raises `OutputError`; standard error drops the text.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import TextIO

__all__ = ["OutputError", "abandon_unwritten", "force_utf8"]


class OutputError(OSError):
    """Standard output cannot be written."""

    def __str__(self) -> str:
        if self.errno == errno.EBADF:
            return "standard output is closed"
        return f"standard output cannot be written: {self.strerror}"


class _Stream(TextIOWrapper):
    """A stream over the buffer of another stream."""

    # Keeps a reference to the other stream, which would close the buffer when it is collected.
    replaced: TextIO | None = None


class _Output(_Stream):
    """Standard output; a closed pipe still raises BrokenPipeError."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise self._translate_error(error) from error

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise self._translate_error(error) from error

    def _translate_error(self, error: OSError) -> OSError:
        is_closed = isinstance(error, BrokenPipeError)
        if error.errno == errno.EINVAL and os.name == "nt":  # so is writing to a closed pipe there
            is_closed = stat.S_ISFIFO(os.fstat(self.fileno()).st_mode)
        return (BrokenPipeError if is_closed else OutputError)(error.errno, error.strerror)


class _Errors(_Stream):
    """Standard error; failed writes are ignored, because the exit code reports the failure."""

    def write(self, text: str, /) -> int:
        with contextlib.suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def force_utf8() -> None:
    """Replace the standard streams: UTF-8 whatever the locale, and failed writes handled."""
    # Without this, the next file that is opened would get the number of a closed standard stream,
    # and with it the text that is meant for that stream. os.open takes the lowest free number.
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)
    # A pipe or file on Windows has the ANSI code page, which cannot encode most answers.
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")  # pyright: ignore[reportUnknownMemberType]
    sys.stdout = _wrap_stream(sys.stdout, 1, _Output)
    sys.stderr = _wrap_stream(sys.stderr, 2, _Errors)


def abandon_unwritten() -> None:
    """Discard what could not be written: Python would try again at exit, and print an error."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _wrap_stream(stream: TextIO | None, descriptor: int, stream_type: type[_Stream]) -> TextIO:
    # `backslashreplace`: a lone surrogate, as in a file name, cannot be encoded even as UTF-8.
    if stream is None:  # it was closed: a write to the descriptor fails, and is reported
        raw = BufferedWriter(FileIO(descriptor, "w", closefd=False))
        return stream_type(raw, encoding="utf-8", errors="backslashreplace")
    if type(stream) is not TextIOWrapper:  # a test or a notebook has replaced it
        return stream
    wrapped = stream_type(
        stream.buffer,
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
    wrapped.replaced = stream
    return wrapped
