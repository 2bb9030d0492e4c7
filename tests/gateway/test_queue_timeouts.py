"""The time limit of waiting calls, on a virtual clock."""

from __future__ import annotations

import asyncio

from foundry_api.gateway.limits.queue_timeouts import QueueTimeouts
from support.virtual_time import VirtualTimeLoop

LIMIT_S = 600.0


def test_each_wait_ends_after_the_limit_and_those_that_ended_before_do_not() -> None:
    async def wait() -> list[float]:
        loop = asyncio.get_running_loop()
        timeouts = QueueTimeouts(LIMIT_S)
        waits: list[asyncio.Future[bool]] = []
        for _ in range(4):
            waits.append(loop.create_future())
            timeouts.add(waits[-1])
            await asyncio.sleep(10)
        waits[1].set_result(True)
        timeouts.remove(waits[1])
        waits[2].cancel()  # its task has not removed it yet
        ended_at: list[float] = []
        for one in (waits[0], waits[3]):
            assert not await one
            ended_at.append(loop.time())
        return ended_at

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(wait()) == [LIMIT_S, LIMIT_S + 30]


def test_without_waits_no_timer_is_armed_again() -> None:
    async def wait() -> bool:
        loop = asyncio.get_running_loop()
        timeouts = QueueTimeouts(LIMIT_S)
        first: asyncio.Future[bool] = loop.create_future()
        timeouts.add(first)
        timeouts.remove(first)
        await asyncio.sleep(2 * LIMIT_S)
        second: asyncio.Future[bool] = loop.create_future()
        timeouts.add(second)
        timeouts.cancel()
        await asyncio.sleep(2 * LIMIT_S)
        return second.done()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert not runner.run(wait())
