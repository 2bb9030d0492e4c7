"""The state file of the shared host: its address, its token and its process."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import psutil

from foundry_api.engine.handshake import HostReady
from foundry_api.storage.private_file import read_file, replace_file

__all__ = [
    "find_process",
    "get_own_create_time",
    "get_process",
    "is_alive",
    "parse_state",
    "read_state",
    "remove_state",
    "write_state",
]

MAX_BYTES = 64 * 1024

# psutil computes a creation time from the wall clock, which may have been corrected since.
CLOCK_SLACK_S = 2.0


def get_own_create_time() -> float:
    return psutil.Process().create_time()


def write_state(path: Path | str, ready: HostReady) -> None:
    """Write the state atomically, readable by this user only."""
    replace_file(path, msgspec.json.encode(ready))


def read_state(path: Path) -> HostReady | None:
    """Return the state of the shared host, or None if no shared host runs."""
    # The state of a dead host is not removed here: a new host may write its own between the check
    # and the removal. Only the owner of the lock may remove it.
    state = parse_state(path)
    return state if state is not None and find_process(state) is not None else None


def parse_state(path: Path) -> HostReady | None:
    """Return the state even if its host is dead; None if the file is missing or damaged."""
    try:
        return msgspec.json.decode(read_file(path, MAX_BYTES), type=HostReady)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def remove_state(path: Path | str, *, pid: int) -> None:
    """Remove the state if the process `pid` wrote it."""
    state = parse_state(Path(path))
    if state is not None and state.pid == pid:
        # Windows refuses while a reader has the file open; the state is stale from now on anyway.
        with contextlib.suppress(OSError):
            Path(path).unlink(missing_ok=True)


def find_process(state: HostReady) -> psutil.Process | None:
    """Return the process that wrote a state, if it still runs."""
    return get_process(state.pid, state.create_time)


def get_process(pid: int, create_time: float) -> psutil.Process | None:
    """Return the process `pid` if it is the one that started at `create_time`."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - create_time) <= CLOCK_SLACK_S
    except (psutil.Error, ValueError, OverflowError):  # a pid from a damaged file may be anything
        return None
    return process if same and is_alive(process) else None


def is_alive(process: psutil.Process) -> bool:
    """Return whether this process runs; False for another one with the same pid, or a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
