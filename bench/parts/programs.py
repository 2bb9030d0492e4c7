"""Run a program and measure its time and memory."""

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

__all__ = ["Program", "ProgramResult", "batch_command"]

# The unit of `ru_maxrss`.
MAX_RSS_BYTES = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramResult:
    """The exit code, time, processor time and peak memory of a program."""

    exit_code: int
    wall_s: float
    cpu_s: float
    peak_mb: float


class Program:
    """A running program whose output is discarded."""

    def __init__(self, command: Sequence[str]) -> None:
        self.started_at = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @property
    def is_running(self) -> bool:
        # WNOWAIT leaves the process for `wait4`, which returns what it used.
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    @property
    def cpu_s(self) -> float:
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def wait(self) -> ProgramResult:
        """Wait for the program and return what it used, child processes it waited for included."""
        _, status, used = os.wait4(self._process.pid, 0)
        self._process.returncode = exit_code = os.waitstatus_to_exitcode(status)
        return ProgramResult(
            exit_code=exit_code,
            wall_s=time.perf_counter() - self.started_at,
            cpu_s=used.ru_utime + used.ru_stime,
            peak_mb=used.ru_maxrss * MAX_RSS_BYTES / 1e6,
        )


def batch_command(source: Path, output: Path, *more: str) -> list[str]:
    run = [sys.executable, "-m", "foundry_api", "batch", "run", str(source), "-o", str(output)]
    return [*run, "--json", *more]
