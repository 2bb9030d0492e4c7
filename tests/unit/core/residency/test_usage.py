"""Counting calls in flight, and locks by key."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from foundry_api.core.residency.usage import KeyedLock, ModelUsage

if TYPE_CHECKING:
    from support.virtual_time import Run


def busy(calls: int) -> ModelUsage:
    uses = ModelUsage()
    uses.calls = calls
    return uses


async def test_model_without_calls_is_drained_at_once() -> None:
    assert await busy(0).drain(0)
    assert await busy(0).drain(30)


async def test_drain_without_time_does_not_wait() -> None:
    assert not await busy(1).drain(0)


def test_drain_ends_with_the_last_call(run: Run) -> None:
    async def scene() -> None:
        uses, loop = busy(2), asyncio.get_running_loop()
        loop.call_later(3, uses.end_call, 3.0)
        loop.call_later(5, uses.end_call, 5.0)
        assert await uses.drain(30)
        assert (loop.time(), uses.calls, uses.last_used) == (5, 0, 5.0)

    run(scene())


def test_drain_has_a_timeout(run: Run) -> None:
    async def scene() -> None:
        uses, loop = busy(2), asyncio.get_running_loop()
        loop.call_later(3, uses.end_call, 3.0)
        assert not await uses.drain(30)
        assert (loop.time(), uses.calls) == (30, 1)
        uses.end_call(31.0)
        assert await uses.drain(30)

    run(scene())


def test_callers_of_a_loaded_model_may_start_but_are_not_awaited_for_long(run: Run) -> None:
    async def scene() -> None:
        uses, loop = ModelUsage(), asyncio.get_running_loop()
        uses.waiting = uses.starting = 2
        loop.call_later(1, uses.end_waiting)
        loop.call_later(2, uses.end_waiting)
        await uses.wait_for_starting_calls(30)
        assert (loop.time(), uses.waiting, uses.starting) == (2, 0, 0)
        uses.waiting = uses.starting = 1
        await uses.wait_for_starting_calls(3)
        assert loop.time() == 5

    run(scene())


def test_caller_that_left_while_loading_is_not_awaited() -> None:
    uses = ModelUsage()
    uses.waiting = 2
    uses.end_waiting()
    assert (uses.waiting, uses.starting) == (1, 0)


async def test_lock_of_a_key_is_granted_in_order() -> None:
    turns, order = KeyedLock(), list[int]()

    async def take(number: int) -> None:
        async with turns.lock("a"):
            order.append(number)
            await asyncio.sleep(0)
            order.append(number)

    await asyncio.gather(*map(take, range(4)))
    assert order == [0, 0, 1, 1, 2, 2, 3, 3]
    assert turns._locks == {}


async def test_locks_of_two_keys_are_independent() -> None:
    turns = KeyedLock()
    async with turns.lock("a"), asyncio.timeout(1), turns.lock("b"):
        pass


async def test_cancelled_waiter_gives_up_its_place() -> None:
    turns = KeyedLock()
    async with turns.lock("a"):
        waiting = asyncio.create_task(turns.lock("a").__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert turns._locks == {}


def test_lock_can_be_used_on_one_event_loop_after_another() -> None:
    turns = KeyedLock()

    async def crowd() -> None:
        async def take() -> None:
            async with turns.lock("a"):
                await asyncio.sleep(0)

        await asyncio.gather(take(), take())

    asyncio.run(crowd())
    asyncio.run(crowd())
