"""Timeouts, on an event loop with a simulated clock."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar
from unittest.mock import patch

import pytest

from foundry_api.resilience.deadline import NEVER, Deadline
from foundry_api.resilience.timeouts import KEEP_ALIVE_CAP, TimeoutGuard, Timers
from foundry_api.types.errors import DeadlineExceeded, ReadTimeout

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from support.virtual_time import Run


_T = TypeVar("_T")


class Bound:
    """A guard of the waits for a stream, with or without a deadline."""

    def __init__(
        self, limit_s: float, deadline: Deadline = NEVER, timers: Timers | None = None
    ) -> None:
        self.guard = TimeoutGuard(deadline, timers or Timers())
        self.guard.start_read_timeout(limit_s, limit_s)
        self.token = self.guard.on_token

    async def wait(self, awaitable: Awaitable[_T]) -> _T:
        with self.guard:
            return await awaitable


def now() -> float:
    return asyncio.get_running_loop().time()


async def after(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "life"


async def ready() -> str:
    return "life"


def test_a_wait_below_the_limit_returns_its_value(run: Run) -> None:
    async def body() -> None:
        assert await Bound(10).wait(after(9.9)) == "life"
        assert now() == pytest.approx(9.9)

    run(body())


def test_a_wait_above_the_limit_ends_at_the_limit(run: Run) -> None:
    async def body() -> None:
        with pytest.raises(ReadTimeout, match="nothing for 10 s") as caught:
            await Bound(10).wait(after(10.1))
        assert now() == pytest.approx(10)
        assert caught.value.limit_s == 10
        assert isinstance(caught.value, TimeoutError)

    run(body())


def test_each_wait_has_the_full_limit(run: Run) -> None:
    async def body() -> None:
        bound = Bound(10)
        for _ in range(100):
            await bound.wait(after(9))
            bound.token()
        assert now() == pytest.approx(900)

    run(body())


def test_keep_alives_without_a_token_end_at_the_cap(run: Run) -> None:
    async def body() -> None:
        bound = Bound(10)

        async def listen() -> None:
            while True:
                await bound.wait(after(0.25))

        with pytest.raises(ReadTimeout, match="only keep-alives") as caught:
            await listen()
        assert now() == pytest.approx(10 * KEEP_ALIVE_CAP)
        assert caught.value.limit_s == 10 * KEEP_ALIVE_CAP

    run(body())


async def wait_for_token(bound: Bound) -> None:
    """Wait as a reader does while only keep-alives arrive."""
    while True:
        await bound.wait(after(0.25))


def test_exact_limits_are_not_extended_by_keep_alives(run: Run) -> None:
    async def body() -> None:
        bound = Bound(10)
        bound.guard.start_read_timeout(10, 5, are_extended=False)
        with pytest.raises(ReadTimeout, match="no token, for 10 s"):
            await wait_for_token(bound)
        assert now() == pytest.approx(10)
        bound.guard.start_read_timeout(10, 5, are_extended=False)
        bound.token()
        with pytest.raises(ReadTimeout, match="no token, for 5 s"):
            await wait_for_token(bound)

    run(body())


def test_silence_after_keep_alives_ends_the_call(run: Run) -> None:
    async def body() -> None:
        bound = Bound(10)
        for _ in range(100):
            await bound.wait(after(0.25))
        with pytest.raises(ReadTimeout, match="nothing for 10 s"):
            await bound.wait(after(99))
        assert now() == pytest.approx(35)

    run(body())


def test_a_token_restarts_the_cap(run: Run) -> None:
    async def body() -> None:
        bound = Bound(10)
        for _ in range(99):
            await bound.wait(after(1))
        bound.token()
        for _ in range(99):
            await bound.wait(after(1))
        assert now() == pytest.approx(198)

    run(body())


def test_the_time_between_two_waits_does_not_count(run: Run) -> None:
    async def body() -> None:
        bound = Bound(10)
        for _ in range(99):
            await bound.wait(after(1))
            await asyncio.sleep(1000)

    run(body())


def test_data_that_is_ready_is_never_too_late(run: Run) -> None:
    """A received chunk is delivered, even if the cap has expired."""

    async def body() -> None:
        bound = Bound(10)
        bound.guard._waited_s = 10.0 * KEEP_ALIVE_CAP + 1
        assert await bound.wait(ready()) == "life"

    run(body())


@pytest.mark.parametrize("error", [ValueError("x"), TimeoutError("the awaited one's own")])
def test_errors_inside_a_wait_pass_through(run: Run, error: Exception) -> None:
    async def fail() -> None:
        await asyncio.sleep(1)
        raise error

    async def body() -> None:
        with pytest.raises(type(error)) as caught:
            await Bound(10).wait(fail())
        assert caught.value is error

    run(body())


def test_an_enclosing_timeout_is_not_its_own(run: Run) -> None:
    async def body() -> None:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(3):
                await Bound(10).wait(after(99))
        assert type(caught.value) is TimeoutError
        assert now() == pytest.approx(3)

    run(body())


def test_cancelling_the_caller_cancels_the_wait(run: Run) -> None:
    cancelled: list[bool] = []

    async def awaited() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def body() -> None:
        task = asyncio.ensure_future(Bound(10).wait(awaited()))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cancelled == [True]

    run(body())


def test_a_deadline_can_be_extended_during_a_wait(run: Run) -> None:
    """For shared work that a caller with a later deadline joins. An earlier one is ignored."""

    async def body() -> None:
        bound = Bound(100, Deadline(5, 5))
        waiting = asyncio.create_task(bound.wait(after(50)))
        await asyncio.sleep(1)
        for deadline in (Deadline(3, 3), Deadline(20, 20)):
            bound.guard.extend(deadline)
        with pytest.raises(DeadlineExceeded, match="20 s"):
            await waiting
        assert now() == pytest.approx(20)
        bound.guard.extend(Deadline(30, 30))
        assert await bound.wait(after(9)) == "life"

    run(body())


def test_a_later_deadline_keeps_the_silence_limit(run: Run) -> None:
    async def body() -> None:
        bound = Bound(10, Deadline(5, 5))
        waiting = asyncio.create_task(bound.wait(after(50)))
        await asyncio.sleep(1)
        bound.guard.extend(Deadline(40, 40))
        with pytest.raises(ReadTimeout):
            await waiting
        assert now() == pytest.approx(10)

    run(body())


def test_an_infinite_limit_never_expires(run: Run) -> None:
    async def body() -> None:
        waiting: Awaitable[str] = Bound(float("inf")).wait(after(10_000))
        assert await waiting == "life"

    run(body())


@pytest.mark.parametrize("limit_s", [3, 9.5, 10, 20])
def test_a_timer_of_an_ended_call_serves_the_next_one(run: Run, limit_s: float) -> None:
    """It is due after 10 s: before, at, or after the limit of the next call."""

    async def body() -> None:
        timers = Timers()
        first = Bound(10, timers=timers)
        await first.wait(after(1))
        first.guard.stop()
        with pytest.raises(ReadTimeout, match=f"nothing for {limit_s:g} s"):
            await Bound(limit_s, timers=timers).wait(after(99))
        assert now() == pytest.approx(1 + limit_s)

    run(body())


def test_calls_in_a_row_arm_one_timer(run: Run) -> None:
    async def body() -> None:
        timers, loop = Timers(), asyncio.get_running_loop()
        armed: list[asyncio.TimerHandle] = []

        def call_at(*arguments: Any) -> asyncio.TimerHandle:
            armed.append(arm(*arguments))
            return armed[-1]

        arm = loop.call_at
        with patch.object(loop, "call_at", call_at):
            for _ in range(100):
                bound = Bound(10, timers=timers)
                assert await bound.wait(ready()) == "life"
                bound.guard.stop()
        (handle,) = armed
        timers.cancel()
        assert handle.cancelled()

    run(body())


def test_a_timer_that_no_call_uses_fires_for_nothing(run: Run) -> None:
    async def body() -> None:
        timers = Timers()
        ended = Bound(10, timers=timers)
        await ended.wait(ready())
        ended.guard.stop()
        await asyncio.sleep(30)
        with pytest.raises(ReadTimeout):
            await Bound(10, timers=timers).wait(after(99))
        assert now() == pytest.approx(40)

    run(body())


def test_a_timer_of_another_event_loop_is_not_used(run: Run) -> None:
    timers = Timers()

    async def call(limit_s: float) -> None:
        bound = Bound(limit_s, timers=timers)
        try:
            await bound.wait(after(5))
        finally:
            bound.guard.stop()

    run(call(10))
    with pytest.raises(ReadTimeout):
        run(call(4))
