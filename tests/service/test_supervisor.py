"""One engine host for all callers, which is replaced when it dies."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from foundry_api.engine.process import check_directory_length, resolve_launcher
from foundry_api.engine.supervisor import Supervisor
from foundry_api.resilience.backoff import Backoff
from foundry_api.types.errors import ConfigurationError
from service.helpers import cancel_after, list_hosts, wait_until, wait_until_async

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foundry_api.engine.process import HostOptions


class SleepRecorder:
    """Replaces asyncio.sleep: records the delays and returns at once."""

    def __init__(self) -> None:
        self.delays_s: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.delays_s.append(seconds)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def sleep_recorder() -> SleepRecorder:
    return SleepRecorder()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def supervisor(
    options: HostOptions, sleep_recorder: SleepRecorder, clock: Clock
) -> Iterator[Supervisor]:
    backoff = Backoff(base_s=1.0, cap_s=4.0, uniform=lambda _, high: high)
    supervisor = Supervisor(options, backoff=backoff, monotonic=clock, sleep=sleep_recorder)
    yield supervisor
    supervisor.close()


def kill(pid: int | None) -> None:
    psutil.Process(pid).kill()


def has_started(supervisor: Supervisor) -> bool:
    return supervisor.host is not None and supervisor.host.endpoint is not None


def test_the_launcher_of_a_virtual_environment_is_not_started() -> None:
    """Its process has another id than the host, and ends when the host is to be killed."""
    python, base = r"C:\v\Scripts\python.exe", r"C:\py\python.exe"
    resolved = resolve_launcher(python, platform="win32", executable=python, base=base)
    assert resolved == (base, {"__PYVENV_LAUNCHER__": python})


@pytest.mark.parametrize(
    ("platform", "python", "base"),
    [
        ("linux", "/v/bin/python", "/usr/bin/python"),
        ("win32", r"C:\py\python.exe", r"C:\py\python.exe"),
        ("win32", r"C:\v\Scripts\python.exe", None),
    ],
)
def test_other_interpreters_are_started_as_they_are(
    platform: str, python: str, base: str | None
) -> None:
    resolved = resolve_launcher(python, platform=platform, executable=python, base=base)
    assert resolved == (python, {})


def test_the_interpreter_of_the_caller_is_started_as_it_is() -> None:
    resolved = resolve_launcher("other.exe", platform="win32", executable="v.exe", base="b.exe")
    assert resolved == ("other.exe", {})


def test_a_home_that_is_too_long_for_windows_is_refused_before_anything_is_made() -> None:
    """There, a program does not start in a directory of 259 characters."""
    longest = Path("C:" + "d" * 256)
    check_directory_length(longest, platform="win32")
    check_directory_length(longest / "engine", platform="linux")
    with pytest.raises(ConfigurationError, match="more than 258 characters") as refused:
        check_directory_length(longest / "engine", platform="win32")
    assert "FOUNDRY_HOME" in refused.value.hint


async def test_all_callers_get_the_same_host(supervisor: Supervisor, home: Path) -> None:
    endpoints = await asyncio.gather(*(supervisor.get_endpoint() for _ in range(10)))
    assert len(set(endpoints)) == 1
    assert len(list_hosts(home)) == 1
    assert await supervisor.get_endpoint() == endpoints[0]
    assert supervisor.restarts == 0


async def test_a_host_that_was_started_early_is_used(supervisor: Supervisor, home: Path) -> None:
    supervisor.start()
    supervisor.start()
    assert supervisor.host
    assert (await supervisor.get_endpoint()).pid == supervisor.host.pid
    assert len(list_hosts(home)) == 1


async def test_a_dead_host_is_replaced_after_a_growing_delay(
    supervisor: Supervisor, sleep_recorder: SleepRecorder, clock: Clock
) -> None:
    first = await supervisor.get_endpoint()
    for _ in range(4):
        before = await supervisor.get_endpoint()
        kill(before.pid)
        await wait_until_async(lambda: supervisor.host and not supervisor.host.is_alive)
        after = await supervisor.get_endpoint()
        assert after.pid != before.pid
    assert supervisor.restarts == 4
    assert sleep_recorder.delays_s == [0.0, 1.0, 2.0, 4.0, 4.0]
    clock.now = 100.0
    kill((await supervisor.get_endpoint()).pid)
    await wait_until_async(lambda: supervisor.host and not supervisor.host.is_alive)
    assert (await supervisor.get_endpoint()).pid != first.pid
    assert sleep_recorder.delays_s[-1] == 1.0


async def test_a_cancelled_caller_does_not_affect_the_others(supervisor: Supervisor) -> None:
    cancelled_caller = asyncio.create_task(supervisor.get_endpoint())
    other_caller = asyncio.create_task(supervisor.get_endpoint())
    await asyncio.sleep(0)
    cancelled_caller.cancel()
    assert (await other_caller).pid
    assert cancelled_caller.cancelled()


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.15])
async def test_cancelling_all_callers_during_the_start_leaves_no_host(
    supervisor: Supervisor, home: Path, after_s: float
) -> None:
    for _ in range(2):
        await cancel_after(
            after_s, asyncio.gather(supervisor.get_endpoint(), supervisor.get_endpoint())
        )
        if has_started(supervisor):  # on a fast machine, perhaps while the callers were cancelled
            await supervisor.aclose()
        assert not list_hosts(home)
    assert (await supervisor.get_endpoint()).pid


async def test_callers_that_are_cancelled_as_the_start_ends_leave_the_host_to_the_supervisor(
    supervisor: Supervisor, home: Path
) -> None:
    callers = asyncio.gather(supervisor.get_endpoint(), supervisor.get_endpoint())
    while not has_started(supervisor):  # noqa: ASYNC110 - no later than in the next iteration
        await asyncio.sleep(0)
    callers.cancel()
    with pytest.raises(asyncio.CancelledError):
        await callers
    assert supervisor.host
    assert [process.pid for process in list_hosts(home)] == [supervisor.host.pid]
    assert (await supervisor.get_endpoint()).pid == supervisor.host.pid
    await supervisor.aclose()
    assert not list_hosts(home)


def test_a_supervisor_works_on_one_event_loop_after_another(supervisor: Supervisor) -> None:
    assert asyncio.run(supervisor.get_endpoint()) == asyncio.run(supervisor.get_endpoint())

    async def start_and_leave() -> None:
        asyncio.create_task(supervisor.get_endpoint())  # noqa: RUF006 - left to the end of the loop
        await asyncio.sleep(0)

    supervisor.close()
    asyncio.run(start_and_leave())
    assert asyncio.run(supervisor.get_endpoint()).pid


async def test_close_stops_the_host_and_a_later_call_starts_another(
    supervisor: Supervisor, home: Path, sleep_recorder: SleepRecorder
) -> None:
    first = await supervisor.get_endpoint()
    await supervisor.aclose()
    assert not list_hosts(home)
    assert (await supervisor.get_endpoint()).pid != first.pid
    assert supervisor.restarts == 0
    assert sleep_recorder.delays_s == [0.0, 0.0]


def test_the_newest_logs_are_kept(options: HostOptions) -> None:
    logs = options.paths.create().logs
    for day in range(10, 28):
        (logs / f"host-202601{day}T000000Z-aaaaaaaa.log").touch()
    supervisor = Supervisor(options)
    supervisor.start()
    supervisor.close()
    names = sorted(log.name for log in logs.glob("host-*.log"))
    assert len(names) == 10
    assert names[0].startswith("host-20260119")
    wait_until(lambda: not list_hosts(options.paths.data.parent))
