"""Log files of hosts: one for each start, of which the newest are kept."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["create", "make_path", "prune", "read_tail", "write_line"]

MAX_LOGS = 10
TAIL_LINES = 12
TAIL_BYTES = 16 * 1024


def make_path(directory: Path) -> Path:
    """Make a unique name. Names sort by time."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return directory / f"host-{stamp}-{secrets.token_hex(4)}.log"


def create(path: Path) -> int:
    """Create a log that only this user can read, and return its file descriptor."""
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)


def prune(directory: Path) -> None:
    """Remove all but the newest logs."""
    for old in sorted(directory.glob("host-*.log"), reverse=True)[MAX_LOGS:]:
        with contextlib.suppress(OSError):  # on Windows a running host holds its log open
            old.unlink()


def read_tail(path: Path) -> str:
    """Return the last lines of a log, joined into one."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return " | ".join(line.strip() for line in lines[-TAIL_LINES:] if line.strip())


def write_line(line: str) -> None:
    """Write a line to the log of this host, which is its standard error."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(stamp, line, file=sys.stderr, flush=True)  # noqa: T201 - standard error is the log
