"""Calls in flight are counted, and one thing at a time is done to a model."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from foundry_api.core.residency.usage import KeyedLock, ModelUsage

if TYPE_CHECKING:
    from support.no_real_time import Run


def busy(calls: int) -> ModelUsage:
    uses = ModelUsage()
    uses.calls = calls
    return uses


async def test_a_model_without_calls_is_drained_at_once() -> None:
    assert await busy(0).drain(0)
    assert await busy(0).drain(30)


async def test_without_time_a_call_in_flight_is_not_waited_for() -> None:
    assert not await busy(1).drain(0)


def test_draining_ends_with_the_last_call(run: Run) -> None:
    async def scene() -> None:
        uses, loop = busy(2), asyncio.get_running_loop()
        loop.call_later(3, uses.end_call, 3.0)
        loop.call_later(5, uses.end_call, 5.0)
        assert await uses.drain(30)
        assert (loop.time(), uses.calls, uses.last_used) == (5, 0, 5.0)

    run(scene())


def test_draining_has_an_end(run: Run) -> None:
    async def scene() -> None:
        uses, loop = busy(2), asyncio.get_running_loop()
        loop.call_later(3, uses.end_call, 3.0)
        assert not await uses.drain(30)
        assert (loop.time(), uses.calls) == (30, 1)
        uses.end_call(31.0)
        assert await uses.drain(30)

    run(scene())


def test_those_for_whom_a_model_was_loaded_are_let_begin_but_not_waited_for_long(run: Run) -> None:
    async def scene() -> None:
        uses, loop = ModelUsage(), asyncio.get_running_loop()
        uses.waiting = uses.starting = 2
        loop.call_later(1, uses.on_loaded)
        loop.call_later(2, uses.on_loaded)
        await uses.wait_waiters_started(30)
        assert (loop.time(), uses.waiting, uses.starting) == (2, 0, 0)
        uses.waiting = uses.starting = 1
        await uses.wait_waiters_started(3)
        assert loop.time() == 5

    run(scene())


def test_one_who_left_while_it_was_loading_is_not_waited_for() -> None:
    uses = ModelUsage()
    uses.waiting = 2
    uses.on_loaded()
    assert (uses.waiting, uses.starting) == (1, 0)


async def test_turns_of_a_key_are_taken_in_the_order_they_were_asked_for() -> None:
    turns, order = KeyedLock(), list[int]()

    async def take(number: int) -> None:
        async with turns.lock("a"):
            order.append(number)
            await asyncio.sleep(0)
            order.append(number)

    await asyncio.gather(*map(take, range(4)))
    assert order == [0, 0, 1, 1, 2, 2, 3, 3]
    assert turns._locks == {}


async def test_turns_of_two_keys_do_not_wait_for_each_other() -> None:
    turns = KeyedLock()
    async with turns.lock("a"), asyncio.timeout(1), turns.lock("b"):
        pass


async def test_who_is_cancelled_while_it_waits_leaves_its_place() -> None:
    turns = KeyedLock()
    async with turns.lock("a"):
        waiting = asyncio.create_task(turns.lock("a").__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert turns._locks == {}


def test_the_same_turns_serve_one_event_loop_after_another() -> None:
    turns = KeyedLock()

    async def crowd() -> None:
        async def take() -> None:
            async with turns.lock("a"):
                await asyncio.sleep(0)

        await asyncio.gather(take(), take())

    asyncio.run(crowd())
    asyncio.run(crowd())
