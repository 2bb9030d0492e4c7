"""Small files for this user only, replaced whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from pathlib import Path

__all__ = [
    "create_file",
    "is_replaceable",
    "read_file",
    "replace_atomically",
    "replace_file",
    "resolve_link",
    "sync_directory",
]

PRIVATE = 0o600

REPLACE_ATTEMPTS = 20
REPLACE_WAIT_S = 0.01


def create_file(path: Path) -> None:
    """Make an empty file for this user only, if nothing is there.

    What is there is not even opened: closing a database's file frees the locks that SQLite holds on
    it for other connections of this process (https://www.sqlite.org/howtocorrupt.html, section
    "POSIX advisory locks canceled by a separate thread doing close()").

    Raises:
        OSError: It cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, PRIVATE))


def read_file(path: Path, max_bytes: int) -> bytes:
    """Read a regular file, and no more than a bound of it: a pipe may never have any content.

    Raises:
        OSError: It cannot be read, or is something else.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a file")
    with path.open("rb") as file:
        return file.read(max_bytes)


def replace_file(path: Path | str, content: bytes) -> None:
    """Put a file in place, readable by this user only.

    Raises:
        OSError: It cannot be written; what was there before still is.
    """
    target = Path(path)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        replace_atomically(draft, target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def resolve_link(path: Path | str) -> Path:
    """Where a path leads: what a symbolic link points to is written, not the link replaced."""
    named = Path(path)
    with contextlib.suppress(RuntimeError):  # no such user: then it is a name like any other
        named = named.expanduser()
    return Path(os.path.realpath(named)) if named.is_symlink() else named


def is_replaceable(path: Path, head: str) -> bool:
    """Whether a report may take a file's place: nothing is in that, or an earlier report is.

    Args:
        path: The file.
        head: What such a report begins with.
    """
    try:
        with path.open("rb") as file:
            head_bytes = file.read(len(head.encode()))
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return head_bytes in {b"", head.encode()}


def replace_atomically(temporary: Path, target: Path) -> None:
    """Let a file take another one's place.

    On Windows a file that somebody is reading cannot be replaced at that moment.

    Raises:
        OSError: It cannot be moved there.
    """
    for _ in range(REPLACE_ATTEMPTS):
        with contextlib.suppress(PermissionError):
            temporary.replace(target)
            return
        time.sleep(REPLACE_WAIT_S)
    temporary.replace(target)


def sync_directory(directory: Path) -> None:
    """Wait until the names in a directory are on the disk; Windows does that by itself."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
