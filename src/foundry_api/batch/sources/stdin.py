"""Read standard input and other pipes, and copy them to a file so that they can be read again."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import select
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from foundry_api.batch.sources.files import (
    BLOCK_BYTES,
    FileOrigin,
    StdinOrigin,
    translate_read_errors,
)
from foundry_api.batch.types import STANDARD_STREAM
from foundry_api.storage.private_file import replace_atomically, sync_file
from foundry_api.types.errors import BatchInputInvalid, BatchMismatch, BatchStorageFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from foundry_api.batch.sources.files import InputOrigin

__all__ = ["NAME", "CopyMode", "is_stream", "make_draft_path", "remove_drafts", "spool_stdin"]

NAME = "standard input"

CopyMode = Literal["verify", "replace", "reuse"]
"""What to do with the copy that an earlier run made of a stream.

`verify` reads the stream, which must have the content of the copy, if there is one. `replace` reads
the stream and replaces the copy. `reuse` reads the copy instead of the stream.
"""

_DESCRIPTOR = re.compile(r"/dev/(?:stdin|fd/(\d+))|/proc/self/fd/(\d+)")
# Without it Windows translates line endings.
_BINARY: int = getattr(os, "O_BINARY", 0)
# Opening a named pipe blocks until it has a writer, and cannot be interrupted. On other systems
# than Linux, though, a pipe opened without blocking seems to be at its end until it has a writer.
_NONBLOCK: int = os.O_NONBLOCK if sys.platform == "linux" else 0

WAIT_MS = 200
# Random bytes in the name of an unfinished copy.
DRAFT_BYTES = 8


def is_stream(path: str) -> bool:
    """Whether an input can be read only once: a pipe, a socket, a descriptor."""
    if path == STANDARD_STREAM or _DESCRIPTOR.fullmatch(path):
        return True
    file = Path(path).expanduser()
    with translate_read_errors(path):
        try:
            mode = file.stat().st_mode
        except ValueError as error:  # a NUL character
            raise BatchInputInvalid(f"{path!r} cannot be read: {error}", field="path") from error
    if stat.S_ISDIR(mode):
        raise BatchInputInvalid(f"{path} is a directory", field="path", hint="Give a file.")
    if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and not _is_finite_device(file)):
        raise BatchInputInvalid(f"{path} is a device", field="path", hint="Give a file or a pipe.")
    return not stat.S_ISREG(mode)


def never() -> bool:
    return False


def spool_stdin(
    path: str,
    spool: Path | None,
    copy_mode: CopyMode,
    is_abandoned: Callable[[], bool] = never,
) -> InputOrigin:
    """Copy a stream to `spool`, or with None return it to be read once as it arrives.

    `is_abandoned` is polled while the stream delivers nothing.
    """
    name = NAME if path == STANDARD_STREAM else path
    if copy_mode == "reuse" and spool is not None:
        if not spool.exists():
            raise BatchInputInvalid(f"there is no copy of {name} at {spool}")
        return FileOrigin(spool, name, is_copy=True)
    if spool is None:
        return StdinOrigin(_open_stream(path, is_abandoned), name)
    with _open_stream(path, is_abandoned) as file:
        _copy(file, spool, copy_mode, name)
    return FileOrigin(spool, name, is_copy=True)


def _open_stream(path: str, is_abandoned: Callable[[], bool]) -> io.BufferedReader:
    """Open a stream. Closing the reader leaves standard input open."""
    match = _DESCRIPTOR.fullmatch(path)
    descriptor = int(match[1] or match[2] or 0) if match else None
    # Programs without a console, and `<&-`, have no standard input. The descriptor 0 may then
    # belong to any other file.
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]
        if path == STANDARD_STREAM or descriptor == 0:
            raise BatchInputInvalid(
                f"this program has no {NAME}", field="path", hint="Give a file."
            )
    elif path == STANDARD_STREAM:
        return io.BufferedReader(_Pipe(sys.stdin.buffer, is_abandoned), BLOCK_BYTES)
    with translate_read_errors(path):
        if descriptor is not None:
            # Duplicate the descriptor: a socket cannot be opened by its /dev/fd name.
            number = os.dup(descriptor)
        else:
            number = os.open(Path(path).expanduser(), os.O_RDONLY | _BINARY | _NONBLOCK)
            os.set_blocking(number, True)
        file = os.fdopen(number, "rb", buffering=0)
        return io.BufferedReader(_Pipe(file, is_abandoned, closes=True), BLOCK_BYTES)


class _Pipe(io.RawIOBase):
    """A pipe that can be abandoned while it delivers nothing.

    A thread that is blocked in a read cannot be interrupted.
    """

    def __init__(
        self, file: BinaryIO | io.FileIO, is_abandoned: Callable[[], bool], *, closes: bool = False
    ) -> None:
        super().__init__()
        self._file = file
        self._is_abandoned = is_abandoned
        self._closes = closes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not _has_bytes(self._file):
            if self._is_abandoned():
                raise OSError(errno.ECANCELED, "the read was abandoned")
        file = self._file
        # `read` of a buffered reader would wait until the whole block is there.
        block = file.read1(len(buffer)) if isinstance(file, io.BufferedReader) else None
        if block is None:
            block = file.read(len(buffer)) or b""
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        if self._closes:
            self._file.close()
        super().close()


def _has_bytes(file: BinaryIO | io.FileIO) -> bool:
    """Wait up to WAIT_MS for input; return whether a read would return without blocking."""
    if os.name != "posix":
        return True  # Windows cannot poll a pipe
    try:
        waiting = select.poll()
        waiting.register(file.fileno(), select.POLLIN)
    except OSError:  # an object without a descriptor
        return True
    return bool(waiting.poll(WAIT_MS))


def _is_finite_device(device: Path) -> bool:
    """Whether a device is a terminal or the null device, rather than an endless one."""
    if device.samefile(os.devnull):
        return True
    try:
        descriptor = os.open(device, os.O_RDONLY | getattr(os, "O_NOCTTY", 0))
    except OSError:
        return True  # reading it will report why it cannot be opened
    try:
        return os.isatty(descriptor)
    finally:
        os.close(descriptor)


def _copy(file: BinaryIO, spool: Path, copy_mode: CopyMode, name: str) -> None:
    draft = make_draft_path(spool)
    try:
        draft.parent.mkdir(mode=0o700, exist_ok=True)
        # Prompts are private: no other user may read the copy.
        descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _BINARY, 0o600)
        with os.fdopen(descriptor, "wb") as copy:
            while block := _read(file, name):
                copy.write(block)
            copy.flush()
            sync_file(copy.fileno())
        if copy_mode == "verify" and spool.exists() and not _has_same_content(draft, spool):
            raise BatchMismatch(f"{name} is not what this batch was started with")
        replace_atomically(draft, spool)
    except OSError as error:
        why = error.strerror or str(error)
        raise BatchStorageFailed(f"{name} cannot be copied to {spool}: {why}") from error
    finally:
        with contextlib.suppress(OSError):  # renamed, or never created
            draft.unlink()
        with contextlib.suppress(OSError):  # stays if it is not empty
            draft.parent.rmdir()


def make_draft_path(spool: Path) -> Path:
    """Return a path for a copy that is not finished, or not accepted yet."""
    return spool.with_name(f"{spool.name}.{secrets.token_hex(DRAFT_BYTES)}")


def remove_drafts(spool: Path) -> None:
    """Remove unfinished copies of processes that were killed while reading a pipe."""
    draft = re.compile(rf"{re.escape(spool.name)}(\.[0-9a-f]{{{2 * DRAFT_BYTES}}})+")
    for path in spool.parent.iterdir():
        if draft.fullmatch(path.name):
            with contextlib.suppress(OSError):  # Windows refuses while a process writes to it
                path.unlink()


def _read(file: BinaryIO, name: str) -> bytes:
    # An error here is the pipe's; other errors of `_copy` are the disk's.
    with translate_read_errors(name):
        return file.read(BLOCK_BYTES)


def _has_same_content(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while block := first.read(BLOCK_BYTES):
            if block != second.read(BLOCK_BYTES):
                return False
    return True
