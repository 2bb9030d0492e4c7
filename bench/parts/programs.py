"""Programs that a benchmark starts, and what they used."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Ended", "Program", "batch_command"]

MAX_RSS_BYTES = 1 if sys.platform == "darwin" else 1024
"""What `getrusage` counts in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What a program used.

    Attributes:
        code: Its exit code.
        wall_s: Seconds that it ran.
        cpu_s: Seconds of processors that it used.
        peak_mb: Most memory that it had at once, in millions of bytes.
    """

    code: int
    wall_s: float
    cpu_s: float
    peak_mb: float


class Program:
    """A program that runs, and says nothing.

    Args:
        command: What to start.

    Attributes:
        began: When, by `time.perf_counter`.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.began = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    @property
    def cpu_s(self) -> float:
        """Seconds of processors that it used so far."""
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def ended(self) -> Ended:
        """Wait for its end. A program that starts none itself is measured alone."""
        _, status, used = os.wait4(self._process.pid, 0)
        self._process.returncode = code = os.waitstatus_to_exitcode(status)
        return Ended(
            code=code,
            wall_s=time.perf_counter() - self.began,
            cpu_s=used.ru_utime + used.ru_stime,
            peak_mb=used.ru_maxrss * MAX_RSS_BYTES / 1e6,
        )


def batch_command(source: Path, output: Path, *more: str) -> list[str]:
    """The command line of a batch."""
    run = [sys.executable, "-m", "foundry_api", "batch", "run", str(source), "-o", str(output)]
    return [*run, "--json", *more]
