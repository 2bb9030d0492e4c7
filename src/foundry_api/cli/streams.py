"""Standard streams as they come on Linux, macOS and Windows, made the same.

What cannot be written is not a bug of the program: a full disk behind `> file`, a stream that the
caller closed. Standard output raises `OutputError` then; standard error, where the user would be
told, loses the text.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import TextIO

__all__ = ["OutputError", "abandon_unwritten", "force_utf8"]


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


def force_utf8() -> None:
    """Read and write UTF-8, whatever the code page or locale is, and expect failing writes.

    A pipe or file on Windows has the ANSI code page, in which most answers cannot be written. What
    cannot be encoded even so, such as half a surrogate pair in a file's name, is escaped.
    """
    _reserve_closed_descriptors()
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")  # pyright: ignore[reportUnknownMemberType]
    sys.stdout = _wrap_stream(sys.stdout, 1, _Output)
    sys.stderr = _wrap_stream(sys.stderr, 2, _Errors)


def abandon_unwritten() -> None:
    """Let what standard output could not take go: Python would try, and complain, at its exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _wrap_stream(stream: TextIO | None, descriptor: int, kind: type[_Stream]) -> TextIO:
    """A stream of ours in the place of Python's; others, of tests and notebooks, stay."""
    if stream is None:  # it was closed; writing to what stands in its place fails
        raw = BufferedWriter(FileIO(descriptor, "w", closefd=False))
        return kind(raw, encoding="utf-8", errors="backslashreplace")
    if type(stream) is not TextIOWrapper:
        return stream
    wrapped = kind(
        stream.buffer,
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
    wrapped.replaced = stream
    return wrapped


def _reserve_closed_descriptors() -> None:
    """The next file to be opened would become standard output, and get what is meant for it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # becomes the lowest free one, which is this
