"""Memory, CPU and restarts of a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from foundry_api.monitor.process import ProcessProbe, RestartCounter


def test_the_probe_reads_this_process() -> None:
    probe = ProcessProbe()
    facts = probe.read(os.getpid())
    assert facts is not None
    assert facts.pid == os.getpid()
    assert facts.memory_bytes > 10 * 2**20
    assert facts.threads >= 1
    assert facts.started_at == pytest.approx(psutil.Process().create_time(), abs=1)
    assert facts.cpu_percent is None  # needs a previous reading


def test_cpu_time_is_in_percent_of_one_core() -> None:
    now = [0.0]
    probe = ProcessProbe(lambda: now[0])
    probe.read(os.getpid())
    used = -time.process_time()
    until = time.perf_counter() + 0.2
    while time.perf_counter() < until:
        pass
    now[0] = 1.0
    facts = probe.read(os.getpid())
    used += time.process_time()
    assert facts is not None
    assert facts.cpu_percent == pytest.approx(100 * used, abs=5)


def test_a_process_that_ended_has_no_facts() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    probe = ProcessProbe()
    assert probe.read(process.pid) is not None
    process.communicate(b"\n")
    assert probe.read(process.pid) is None
    assert probe.read(os.getpid()) is not None


@pytest.mark.parametrize(
    ("readings", "count"),
    [
        ([(1, 10.0), (1, 10.0)], 0),
        ([(1, 10.0), (2, 20.0)], 1),
        ([(1, 10.0), (1, 30.0)], 1),  # the pid was reused
        ([(1, 10.0), (None, None), (1, 10.0)], 0),
        ([(1, 10.0), (None, None), (2, 20.0), (3, 30.0)], 2),
        ([(1, None), (1, 10.0), (1, None), (1, 10.0)], 0),
        ([(None, None)] * 3, 0),
        ([(1, None), (2, None)], 1),  # on another machine
    ],
)
def test_another_process_counts_as_a_restart(
    readings: list[tuple[int | None, float | None]], count: int
) -> None:
    restarts = RestartCounter()
    for pid, started_at in readings:
        restarts.update(pid, started_at)
    assert restarts.count == count


@pytest.mark.parametrize("pid", [-1, 2**31, 2**63, 2**80])
def test_an_invalid_pid_has_no_facts(pid: int) -> None:
    assert ProcessProbe().read(pid) is None
