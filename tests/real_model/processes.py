"""The processor time of engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil


def get_cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
