"""Ends a Ray that this program has started, with all its processes."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from foundry_api.engine.state import is_alive

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["end_local_ray"]

log = logging.getLogger("foundry_api")

# How long the processes may take to end by themselves: an actor closes its engine first.
END_TIMEOUT_S = 5.0
# How long those that were killed may take.
KILL_TIMEOUT_S = 5.0

POLL_S = 0.02


def end_local_ray(ray: Any, directory: str, *, end_timeout_s: float = END_TIMEOUT_S) -> None:
    """Shut Ray down, and return when none of its processes is left. Blocks.

    Args:
        ray: The module.
        directory: The temporary directory that was made for this Ray.
        end_timeout_s: Seconds after which the processes that are left are killed.
    """
    # Ray kills its raylet after a second, and the workers are left to notice that. One that is
    # already on its way out, in Python's or a library's exit handlers, notices nothing any more.
    processes = _list_processes(directory)
    try:
        ray.shutdown()
    finally:
        # The raylet may have started others meanwhile.
        processes |= _list_processes(directory)
        left = _wait_for_end(processes, end_timeout_s)
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        for process in _wait_for_end(left, KILL_TIMEOUT_S):
            log.warning("process %d of Ray does not end, though it was killed", process.pid)


def _list_processes(directory: str) -> set[psutil.Process]:
    """Return the processes of Ray with this directory, and their descendants."""
    # Ray gives the directory to each process as an option, and replaces the command line of a
    # worker by a title once it is connected. By then it is a child of the raylet.
    name = Path(directory).name
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process not in found and any(
                argument.startswith("--") and name in argument for argument in process.cmdline()
            ):
                found |= {process, *process.children(recursive=True)}
    return found


def _wait_for_end(processes: Iterable[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait for the end of processes, and return those that are left."""
    # psutil's own function also waits until the parent of each process has asked for its status.
    deadline = time.monotonic() + timeout_s
    while left := [process for process in processes if is_alive(process)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(POLL_S)
    return left
