"""Callers that want the same stream at the same time share one making of it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from foundry_api.cache.shared_stream import SharedStreams
from foundry_api.errors import ServerError
from foundry_api.resilience.deadline import NEVER, current, deadline

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class Source:
    """A stream of numbers that comes at the test's word."""

    def __init__(self) -> None:
        self.runs = 0
        self.ended = 0
        self.error: Exception | None = None
        self.deadlines: list[object] = []
        self._queue: asyncio.Queue[int | None] = asyncio.Queue()

    def send(self, *numbers: int | None) -> None:
        for number in numbers:
            self._queue.put_nowait(number)

    async def __call__(self) -> AsyncGenerator[int]:
        self.runs += 1
        self.deadlines.append(current())
        try:
            while (number := await self._queue.get()) is not None:
                yield number
            if self.error:
                raise self.error
        finally:
            await asyncio.sleep(0)  # cleaning up takes a while
            self.ended += 1


class Caller:
    """Somebody who follows the stream in a task of his own."""

    def __init__(self, streams: SharedStreams[int], source: Source, key: str = "key") -> None:
        self.got: list[int] = []
        self.task = asyncio.create_task(self._follow(streams, source, key))

    async def _follow(self, streams: SharedStreams[int], source: Source, key: str) -> None:
        async with aclosing(streams.follow(key, source)) as items:
            async for item in items:
                self.got.append(item)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_all_get_everything_from_the_beginning_however_late_they_come() -> None:
    streams, source = SharedStreams[int](), Source()
    callers = [Caller(streams, source) for _ in range(20)]
    source.send(1, 2)
    await settle()
    assert [caller.got for caller in callers] == [[1, 2]] * 20
    late = Caller(streams, source)
    await settle()
    assert late.got == [1, 2]
    source.send(3, None)
    await asyncio.gather(*(caller.task for caller in (*callers, late)))
    assert [caller.got for caller in (*callers, late)] == [[1, 2, 3]] * 21
    assert (source.runs, source.ended, streams._flights) == (1, 1, {})


async def test_different_streams_run_side_by_side_and_a_later_caller_makes_one_anew() -> None:
    streams, source = SharedStreams[int](), Source()
    one, other = Caller(streams, source, "a"), Caller(streams, source, "b")
    await settle()
    assert streams.running("a")
    source.send(None, None)
    await asyncio.gather(one.task, other.task)
    assert not streams.running("a")
    source.send(None)
    await Caller(streams, source, "a").task
    assert source.runs == 3


async def test_the_first_caller_who_leaves_does_not_end_it_for_the_others() -> None:
    streams, source = SharedStreams[int](), Source()
    first = Caller(streams, source)
    await settle()
    second = Caller(streams, source)
    source.send(1)
    await settle()
    first.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first.task
    source.send(2, None)
    await second.task
    assert (second.got, source.runs) == ([1, 2], 1)


async def test_the_last_caller_who_leaves_ends_it_and_waits_for_its_cleaning_up() -> None:
    streams, source = SharedStreams[int](), Source()
    callers = [Caller(streams, source) for _ in range(3)]
    source.send(1)
    await settle()
    for caller in callers:
        caller.task.cancel()
    await asyncio.gather(*(caller.task for caller in callers), return_exceptions=True)
    assert (source.ended, streams._flights) == (1, {})
    fresh = Caller(streams, source)
    source.send(9, None)
    await fresh.task
    assert fresh.got == [9]


async def test_who_breaks_off_his_loop_leaves() -> None:
    streams, source = SharedStreams[int](), Source()
    source.send(1, 2, 3)
    async with aclosing(streams.follow("key", source)) as items:
        async for _ in items:
            break
    assert source.ended == 1


async def test_a_failure_reaches_everybody_behind_what_came_as_a_copy_of_his_own() -> None:
    streams, source = SharedStreams[int](), Source()
    source.error = ServerError("no")
    callers = [Caller(streams, source) for _ in range(3)]
    source.send(1, None)
    failures = await asyncio.gather(*(caller.task for caller in callers), return_exceptions=True)
    assert [str(failure) for failure in failures] == [str(source.error)] * 3
    assert len({id(failure) for failure in (*failures, source.error)}) == 4
    assert [caller.got for caller in callers] == [[1]] * 3
    assert streams._flights == {}


async def test_a_failure_that_nobody_waits_for_is_not_complained_of() -> None:
    """Warnings are errors here: a task's exception that nobody took would be one."""
    streams, source = SharedStreams[int](), Source()
    source.error = ServerError("no")
    source.send(1, None)
    async with aclosing(streams.follow("key", source)) as items:
        async for _ in items:
            await settle()  # it failed meanwhile
            break
    assert source.ended == 1


async def test_the_first_callers_deadline_is_not_that_of_the_rest() -> None:
    streams, source = SharedStreams[int](), Source()
    with deadline(60):
        caller = Caller(streams, source)
    source.send(None)
    await caller.task
    assert source.deadlines == [NEVER]


def test_nothing_of_a_loop_that_is_over_is_followed() -> None:
    streams = SharedStreams[int]()

    async def use(number: int) -> list[int]:
        source = Source()
        source.send(number)
        abandoned = streams.follow("key", source)
        return [await anext(abandoned)]

    assert [asyncio.run(use(number)) for number in (1, 2)] == [[1], [2]]
