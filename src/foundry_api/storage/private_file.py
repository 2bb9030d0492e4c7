"""Small files that only this user can read, replaced atomically."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "REPLACE_PATIENCE_S",
    "create_file",
    "is_replaceable",
    "read_file",
    "remove_file",
    "replace_atomically",
    "replace_file",
    "resolve_link",
    "sync_directory",
    "sync_file",
]

PRIVATE = 0o600

# macOS only
_FULL_SYNC: int | None = None if sys.platform == "win32" else getattr(fcntl, "F_FULLFSYNC", None)

REPLACE_WAIT_S = 0.01
REPLACE_PATIENCE_S = 0.2


def create_file(path: Path) -> None:
    """Create an empty private file, unless the file exists."""
    # An existing file must not be opened: closing a database releases the locks that SQLite holds
    # on it for other connections of this process (https://www.sqlite.org/howtocorrupt.html, section
    # "POSIX advisory locks canceled by a separate thread doing close()").
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, PRIVATE))


def read_file(path: Path, max_bytes: int) -> bytes:
    """Read at most `max_bytes` of a regular file."""
    # Reading a pipe could block for ever.
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a file")
    with path.open("rb") as file:
        return file.read(max_bytes)


def replace_file(path: Path | str, content: bytes, *, durable: bool = False) -> None:
    """Write a private file atomically; on failure, the old file stays.

    A `durable` file is on the disk when this returns, and survives a loss of power.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                sync_file(descriptor)
        replace_atomically(temporary, target)
        if durable:
            sync_directory(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def resolve_link(path: Path | str) -> Path:
    """Return the target of a symbolic link, so that a replacement keeps the link; expand `~`."""
    expanded = Path(path)
    with contextlib.suppress(RuntimeError):  # no such user: `~name` is a usual file name
        expanded = expanded.expanduser()
    return Path(os.path.realpath(expanded)) if expanded.is_symlink() else expanded


def is_replaceable(path: Path, head: str) -> bool:
    """Whether a report may replace a file: it is missing, empty, or starts with `head`."""
    try:
        with path.open("rb") as file:
            head_bytes = file.read(len(head.encode()))
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return head_bytes in {b"", head.encode()}


def replace_atomically(
    temporary: Path,
    target: Path,
    *,
    patience_s: float = REPLACE_PATIENCE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Rename a file to a name that may exist.

    On Windows, a file cannot be renamed or replaced while a program has it open, not even one that
    only reads it, such as a virus scanner. This waits up to `patience_s` seconds for it to be
    closed, then raises PermissionError.
    """
    _retry_while_open(lambda: temporary.replace(target), patience_s, sleep)


def remove_file(
    path: Path,
    *,
    patience_s: float = REPLACE_PATIENCE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Remove a file, if it exists; wait as `replace_atomically` does."""
    _retry_while_open(lambda: path.unlink(missing_ok=True), patience_s, sleep)


def _retry_while_open(
    action: Callable[[], object], patience_s: float, sleep: Callable[[float], None]
) -> None:
    waited_s = 0.0
    while True:
        try:
            action()
        except PermissionError:
            if waited_s >= patience_s:
                raise
        else:
            return
        sleep(REPLACE_WAIT_S)
        waited_s += REPLACE_WAIT_S


def sync_directory(directory: Path) -> None:
    """Flush the names in a directory to the disk; not needed on Windows."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def sync_file(descriptor: int) -> None:
    """Return when the content of a file is on the disk."""
    # On macOS, fsync only hands the content to the disk, which may keep it in its own cache and
    # lose it with the power. File systems of networks have no full synchronization.
    if _FULL_SYNC is not None:
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, _FULL_SYNC)
            return
    os.fsync(descriptor)
