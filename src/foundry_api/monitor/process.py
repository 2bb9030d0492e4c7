"""Memory, CPU and restarts of a service's process, as the operating system reports them."""

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
    """A process at one time.

    Attributes:
        started_at: In seconds since the epoch.
        memory_bytes: Its resident memory.
        cpu_percent: CPU time since the previous reading, in percent of one core; None at the first.
    """

    pid: int
    started_at: float
    memory_bytes: int
    threads: int
    cpu_percent: float | None = None


class ProcessProbe:
    """Reads the facts of a process, one time after another. It blocks, so call it in a thread."""

    def __init__(self, monotonic: Callable[[], float] = time.perf_counter) -> None:
        self._monotonic = monotonic
        self._process: psutil.Process | None = None
        self._previous: tuple[float, float] | None = None

    def read(self, pid: int) -> ProcessFacts | None:
        """Return the facts of a process; None if it is gone or this user may not read it."""
        try:
            process = self._process
            if process is None or process.pid != pid or not process.is_running():
                process = self._process = psutil.Process(pid)
                self._previous = None
            return self._read(process)
        except (psutil.Error, ValueError, OverflowError):  # a service may report any number as pid
            self._process = self._previous = None
            return None

    def _read(self, process: psutil.Process) -> ProcessFacts:
        with process.oneshot():
            times, read_at = process.cpu_times(), self._monotonic()
            memory_bytes, threads = process.memory_info().rss, process.num_threads()
        cpu_s = times.user + times.system
        cpu_percent = None
        if self._previous is not None:
            previous_cpu_s, previous_at = self._previous
            if read_at > previous_at:
                cpu_percent = max(0.0, 100 * (cpu_s - previous_cpu_s) / (read_at - previous_at))
        self._previous = cpu_s, read_at
        return ProcessFacts(
            pid=process.pid,
            started_at=process.create_time(),
            memory_bytes=memory_bytes,
            threads=threads,
            cpu_percent=cpu_percent,
        )


class RestartCounter:
    """Counts how often another process took the place of the previous one."""

    def __init__(self) -> None:
        self.count = 0
        self._pid: int | None = None
        self._started_at: float | None = None

    def update(self, pid: int | None, started_at: float | None) -> None:
        """Record the process that answered; None for an unknown pid or start time."""
        if pid is None:
            return
        pid_changed = self._pid is not None and pid != self._pid
        # A new process may have the pid of the old one, but it has another start time.
        pid_reused = None not in (started_at, self._started_at) and started_at != self._started_at
        if pid_changed or pid_reused:
            self.count += 1
        if pid != self._pid or started_at is not None:
            self._started_at = started_at
        self._pid = pid
