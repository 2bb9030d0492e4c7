"""The end of a Ray that a batch has started. A program of three lines takes the place of Ray."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from foundry_api.batch.cluster.cluster import connect_cluster
from foundry_api.batch.cluster.local_ray import end_local_ray
from service.helpers import has_ended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# A raylet: it starts a worker, whose process id it prints, and runs until it is killed.
RAYLET = """
import subprocess, sys, time
worker = subprocess.Popen(
    [sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
)
print(worker.pid, flush=True)
time.sleep(600)
"""

HANGS = "import time; time.sleep(600)"
ENDS_LATE = "import sys; sys.stdin.read(); open({!r}, 'w').close()"


class LocalRay:
    """Has what `end_local_ray` calls of Ray's module."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: list[psutil.Process] = []
        self._raylet: subprocess.Popen[bytes] | None = None
        self.on_shutdown: Callable[[], object] = lambda: None

    def start(self, worker: str) -> None:
        raylet = subprocess.Popen(
            [sys.executable, "-c", RAYLET, worker, f"--session-dir={self.directory / 'session'}"],
            stdout=subprocess.PIPE,
        )
        self._raylet = raylet
        assert raylet.stdout is not None
        self.processes += map(psutil.Process, (raylet.pid, int(raylet.stdout.readline())))

    def shutdown(self) -> None:
        """Kill the raylet only, as Ray does."""
        assert self._raylet is not None
        self._raylet.kill()
        self._raylet.communicate()
        self.on_shutdown()


@pytest.fixture
def local_ray(tmp_path: Path) -> Iterator[LocalRay]:
    local_ray = LocalRay(tmp_path)
    yield local_ray
    for process in local_ray.processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def test_a_worker_that_does_not_end_is_killed(local_ray: LocalRay) -> None:
    local_ray.start(HANGS)
    end_local_ray(local_ray, str(local_ray.directory), end_timeout_s=0)
    assert all(map(has_ended, local_ray.processes))


def test_a_worker_that_ends_by_itself_gets_the_time(local_ray: LocalRay, tmp_path: Path) -> None:
    local_ray.start(ENDS_LATE.format(str(tmp_path / "closed")))
    end_local_ray(local_ray, str(local_ray.directory), end_timeout_s=60)
    assert all(map(has_ended, local_ray.processes))
    assert (tmp_path / "closed").exists()


def test_a_worker_that_starts_during_the_shutdown_is_killed(local_ray: LocalRay) -> None:
    others: list[subprocess.Popen[bytes]] = []

    def start_another() -> None:
        option = f"--temp-dir={local_ray.directory}"
        others.append(subprocess.Popen([sys.executable, "-c", HANGS, option]))

    local_ray.start(HANGS)
    local_ray.on_shutdown = start_another
    end_local_ray(local_ray, str(local_ray.directory), end_timeout_s=0)
    assert [another.poll() is not None for another in others] == [True]


def test_a_failed_shutdown_leaves_no_process(local_ray: LocalRay) -> None:
    def fail() -> None:
        raise RuntimeError

    local_ray.start(HANGS)
    local_ray.on_shutdown = fail
    with pytest.raises(RuntimeError):
        end_local_ray(local_ray, str(local_ray.directory), end_timeout_s=0)
    assert all(map(has_ended, local_ray.processes))


def test_a_program_that_reads_the_logs_is_left_alone(local_ray: LocalRay) -> None:
    log = str(local_ray.directory / "session" / "raylet.out")
    with subprocess.Popen([sys.executable, "-c", HANGS, log]) as reader:
        local_ray.start(HANGS)
        end_local_ray(local_ray, str(local_ray.directory), end_timeout_s=0)
        assert reader.poll() is None
        reader.kill()


async def test_a_cancelled_start_is_over_before_ray_is_shut_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    starting, shut_down = threading.Event(), threading.Event()

    class Ray:
        def is_initialized(self) -> bool:
            return False

        def init(self, *_: object, **__: object) -> None:
            starting.set()
            shut_down.wait(0.2)  # in vain
            order.append("init")

        def shutdown(self) -> None:
            order.append("shutdown")
            shut_down.set()

    async def connect() -> None:
        async with connect_cluster(None):
            pytest.fail("cancelled before")

    monkeypatch.setitem(sys.modules, "ray", Ray())  # type: ignore[arg-type] # a module
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    task = asyncio.create_task(connect())
    await asyncio.to_thread(starting.wait)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert order == ["init", "shutdown"]
