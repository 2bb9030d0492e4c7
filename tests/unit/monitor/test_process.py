"""Processes: what they use, and whether one took another's place."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from foundry_api.monitor.process import ProcessProbe, RestartCounter


def test_a_gauge_reads_this_process() -> None:
    gauge = ProcessProbe()
    facts = gauge.read(os.getpid())
    assert facts is not None
    assert facts.pid == os.getpid()
    assert facts.memory_bytes > 10 * 2**20
    assert facts.threads >= 1
    assert 0 < time.time() - facts.started_at < 3600
    assert facts.cpu_percent is None  # of what, is not known yet


def test_processor_time_is_told_in_percent_of_one_core() -> None:
    now = [0.0]
    gauge = ProcessProbe(lambda: now[0])
    gauge.read(os.getpid())
    used = -time.process_time()
    until = time.perf_counter() + 0.2
    while time.perf_counter() < until:
        pass
    now[0] = 1.0
    facts = gauge.read(os.getpid())
    used += time.process_time()
    assert facts is not None
    assert facts.cpu_percent == pytest.approx(100 * used, abs=5)


def test_of_a_process_that_ended_nothing_is_told() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    gauge = ProcessProbe()
    assert gauge.read(process.pid) is not None
    process.communicate(b"\n")
    assert gauge.read(process.pid) is None
    assert gauge.read(os.getpid()) is not None


@pytest.mark.parametrize(
    ("looks", "count"),
    [
        ([(1, 10.0), (1, 10.0)], 0),
        ([(1, 10.0), (2, 20.0)], 1),
        ([(1, 10.0), (1, 30.0)], 1),  # the number was given out again
        ([(1, 10.0), (None, None), (1, 10.0)], 0),
        ([(1, 10.0), (None, None), (2, 20.0), (3, 30.0)], 2),
        ([(1, None), (1, 10.0), (1, None), (1, 10.0)], 0),
        ([(None, None)] * 3, 0),
        ([(1, None), (2, None)], 1),  # on another machine
    ],
)
def test_restarts_are_other_processes_in_the_place_of_the_one_before(
    looks: list[tuple[int | None, float | None]], count: int
) -> None:
    restarts = RestartCounter()
    for pid, started_at in looks:
        restarts.update(pid, started_at)
    assert restarts.count == count


@pytest.mark.parametrize("pid", [-1, 2**31, 2**63, 2**80])
def test_a_number_that_is_no_process_has_no_facts(pid: int) -> None:
    assert ProcessProbe().read(pid) is None
