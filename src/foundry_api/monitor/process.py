"""What the operating system tells of a service's process."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ProcessFacts", "ProcessProbe", "RestartCounter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """A process at one moment.

    Attributes:
        pid: Its id.
        started_at: When it started, in seconds since the epoch.
        memory_bytes: Its resident memory.
        threads: How many it has.
        cpu_percent: Processor time since the reading before, in percent of one core; None at the
            first.
    """

    pid: int
    started_at: float
    memory_bytes: int
    threads: int
    cpu_percent: float | None = None


class ProcessProbe:
    """Reads what a process uses, again and again. It blocks for a moment: call it in a thread.

    Args:
        clock: Seconds of a monotonic clock.
    """

    def __init__(self, monotonic: Callable[[], float] = time.perf_counter) -> None:
        self._monotonic = monotonic
        self._process: psutil.Process | None = None
        self._previous: tuple[float, float] | None = None

    def read(self, pid: int) -> ProcessFacts | None:
        """The facts of a process; None where it is gone or not ours to see."""
        try:
            return self._read(self._get_process(pid))
        except (psutil.Error, ValueError, OverflowError):  # what a service tells may be no number
            self._process = self._previous = None
            return None

    def _get_process(self, pid: int) -> psutil.Process:
        process = self._process
        if process is None or process.pid != pid or not process.is_running():
            process = self._process = psutil.Process(pid)
            self._previous = None
        return process

    def _read(self, process: psutil.Process) -> ProcessFacts:
        with process.oneshot():
            times, now = process.cpu_times(), self._monotonic()
            memory_bytes, threads = process.memory_info().rss, process.num_threads()
        used_s = times.user + times.system
        before, self._previous = self._previous, (used_s, now)
        return ProcessFacts(
            pid=process.pid,
            started_at=process.create_time(),
            memory_bytes=memory_bytes,
            threads=threads,
            cpu_percent=_compute_percent(before, used_s, now),
        )


def _compute_percent(
    previous: tuple[float, float] | None, used_s: float, now: float
) -> float | None:
    if previous is None or now <= previous[1]:
        return None
    return max(0.0, 100 * (used_s - previous[0]) / (now - previous[1]))


class RestartCounter:
    """Counts how often another process took the place of the one before.

    Attributes:
        count: As above.
    """

    def __init__(self) -> None:
        self.count = 0
        self._pid: int | None = None
        self._started_at: float | None = None

    def update(self, pid: int | None, started_at: float | None) -> None:
        """Take note of the process that answered; None for what is not known of it."""
        if pid is None:
            return
        moved = self._pid is not None and pid != self._pid
        reused = None not in (started_at, self._started_at) and started_at != self._started_at
        if moved or reused:
            self.count += 1
        if pid != self._pid or started_at is not None:
            self._started_at = started_at
        self._pid = pid
