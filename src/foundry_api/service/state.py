"""The shared host's state file: where it answers, and how to tell that it still lives."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import psutil

from foundry_api.service.handshake import Announcement
from foundry_api.service.lifetime import alive
from foundry_api.service.private_file import read_file, replace_file

__all__ = ["own_create_time", "parsed", "process_of", "read", "remove", "running", "write"]

MAX_BYTES = 64 * 1024
CLOCK_SLACK_S = 2.0
"""A process's creation time is computed from the wall clock's, which may have been corrected."""


def own_create_time() -> float:
    """When this process began, in seconds since the epoch."""
    return psutil.Process().create_time()


def write(path: Path | str, announcement: Announcement) -> None:
    """Put the state in place, whole or not at all, readable by this user only."""
    replace_file(path, msgspec.json.encode(announcement))


def read(path: Path) -> Announcement | None:
    """The state, or None if no shared host lives.

    What a dead host left is not removed here: between the look and the removal a new host may
    have put its own in place. Who holds the lock may remove it.
    """
    state = parsed(path)
    return state if state is not None and process_of(state) is not None else None


def remove(path: Path | str, *, pid: int) -> None:
    """Remove the state, if it is still that of this process."""
    state = parsed(Path(path))
    if state is not None and state.pid == pid:
        with contextlib.suppress(OSError):  # open in a reader on Windows; it is stale from now on
            Path(path).unlink(missing_ok=True)


def process_of(state: Announcement) -> psutil.Process | None:
    """The process that wrote a state, if it is still running."""
    return running(state.pid, state.create_time)


def running(pid: int, create_time: float) -> psutil.Process | None:
    """The process of that number, if it still is the one that began at that time."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - create_time) <= CLOCK_SLACK_S
    except (psutil.Error, ValueError, OverflowError):  # a pid from a damaged file may be anything
        return None
    return process if same and alive(process) else None


def parsed(path: Path) -> Announcement | None:
    """The state as some host wrote it; None without a file, or with a damaged one."""
    try:
        return msgspec.json.decode(read_file(path, MAX_BYTES), type=Announcement)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
