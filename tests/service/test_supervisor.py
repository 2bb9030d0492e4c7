"""One host for everybody who asks, and another one when it dies."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psutil
import pytest

from foundry_api.engine.supervisor import Supervisor
from foundry_api.resilience.backoff import Backoff
from service.helpers import eventually, eventually_async, gives_up, hosts_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from foundry_api.engine.process import HostOptions


class Waits:
    """In place of asyncio.sleep: notes how long it was asked to wait, and does not."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def supervisor(options: HostOptions, waits: Waits, clock: Clock) -> Iterator[Supervisor]:
    backoff = Backoff(base_s=1.0, cap_s=4.0, uniform=lambda _, high: high)
    supervisor = Supervisor(options, backoff=backoff, clock=clock, sleep=waits)
    yield supervisor
    supervisor.stop()


def kill(pid: int | None) -> None:
    psutil.Process(pid).kill()


async def test_everybody_gets_the_same_host(supervisor: Supervisor, home: Path) -> None:
    endpoints = await asyncio.gather(*(supervisor.endpoint() for _ in range(10)))
    assert len(set(endpoints)) == 1
    assert len(hosts_of(home)) == 1
    assert await supervisor.endpoint() == endpoints[0]
    assert supervisor.restarts == 0


async def test_a_host_spawned_early_is_the_one_that_is_used(
    supervisor: Supervisor, home: Path
) -> None:
    supervisor.spawn()
    supervisor.spawn()
    assert supervisor.host
    assert (await supervisor.endpoint()).pid == supervisor.host.pid
    assert len(hosts_of(home)) == 1


async def test_a_dead_host_is_replaced_after_a_growing_wait(
    supervisor: Supervisor, waits: Waits, clock: Clock
) -> None:
    first = await supervisor.endpoint()
    for _ in range(4):
        before = await supervisor.endpoint()
        kill(before.pid)
        await eventually_async(lambda: supervisor.host and not supervisor.host.alive)
        after = await supervisor.endpoint()
        assert after.pid != before.pid
    assert supervisor.restarts == 4
    assert waits.asked == [0.0, 1.0, 2.0, 4.0, 4.0]
    clock.now = 100.0
    kill((await supervisor.endpoint()).pid)
    await eventually_async(lambda: supervisor.host and not supervisor.host.alive)
    assert (await supervisor.endpoint()).pid != first.pid
    assert waits.asked[-1] == 1.0


async def test_a_cancelled_caller_does_not_disturb_the_others(supervisor: Supervisor) -> None:
    impatient = asyncio.create_task(supervisor.endpoint())
    patient = asyncio.create_task(supervisor.endpoint())
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient).pid
    assert impatient.cancelled()


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.15])
async def test_cancelling_every_caller_during_the_start_leaves_nothing(
    supervisor: Supervisor, home: Path, after_s: float
) -> None:
    for _ in range(2):
        if not await gives_up(
            after_s, asyncio.gather(supervisor.endpoint(), supervisor.endpoint())
        ):
            await supervisor.astop()
        assert not hosts_of(home)
    assert (await supervisor.endpoint()).pid


def test_it_serves_one_event_loop_after_another(supervisor: Supervisor) -> None:
    assert asyncio.run(supervisor.endpoint()) == asyncio.run(supervisor.endpoint())

    async def interrupted() -> None:
        asyncio.create_task(supervisor.endpoint())  # noqa: RUF006 - left to the end of the loop
        await asyncio.sleep(0)

    supervisor.stop()
    asyncio.run(interrupted())
    assert asyncio.run(supervisor.endpoint()).pid


async def test_stop_ends_the_host_and_a_later_call_starts_another(
    supervisor: Supervisor, home: Path, waits: Waits
) -> None:
    first = await supervisor.endpoint()
    await supervisor.astop()
    assert not hosts_of(home)
    assert (await supervisor.endpoint()).pid != first.pid
    assert supervisor.restarts == 0
    assert waits.asked == [0.0, 0.0]


def test_the_newest_logs_are_kept(options: HostOptions) -> None:
    logs = options.paths.create().logs
    for day in range(10, 28):
        (logs / f"host-202601{day}T000000Z-aaaaaaaa.log").touch()
    supervisor = Supervisor(options)
    supervisor.spawn()
    supervisor.stop()
    names = sorted(log.name for log in logs.glob("host-*.log"))
    assert len(names) == 10
    assert names[0].startswith("host-20260119")
    eventually(lambda: not hosts_of(options.paths.data.parent))
