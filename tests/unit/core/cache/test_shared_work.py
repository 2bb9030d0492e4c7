"""Concurrent callers share one run of a job and all its items."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from foundry_api.core.cache.shared_work import JobDeduplicator, SharedJob
from foundry_api.resilience.deadline import NEVER, current_deadline, deadline
from foundry_api.types.errors import ClientClosed, ServerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.resilience.deadline import Deadline


class Source(SharedJob[int, str]):
    """A job that yields the numbers that a test sends."""

    def __init__(self) -> None:
        self.runs = 0
        self.ended = 0
        self.error: Exception | None = None
        self.deadlines: list[object] = []
        self.allowed: list[float] = []
        self._queue: asyncio.Queue[int | None] = asyncio.Queue()

    def send(self, *numbers: int | None) -> None:
        for number in numbers:
            self._queue.put_nowait(number)

    async def run(self, receive: Callable[[list[int]], None]) -> str:
        self.runs += 1
        self.deadlines.append(current_deadline())
        try:
            while (number := await self._queue.get()) is not None:
                receive([number])
            if self.error:
                raise self.error
        finally:
            await asyncio.sleep(0)  # cleaning up takes a while
            self.ended += 1
        return f"result {self.runs}"

    def extend_deadline(self, deadline: Deadline) -> None:
        self.allowed.append(deadline.limit_s)


class Caller:
    """A caller that joins the job in its own task."""

    def __init__(self, shared: JobDeduplicator[int, str], source: Source, key: str = "key") -> None:
        self.got: list[int] = []
        self.task = asyncio.create_task(self._follow(shared, source, key))

    async def _follow(self, shared: JobDeduplicator[int, str], source: Source, key: str) -> str:
        async with shared.join(key, lambda: source) as flight:
            while await flight.wait_for_more(len(self.got)):
                self.got += flight.items[len(self.got) :]
            return await flight.result()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_late_callers_get_all_items_from_the_first_on() -> None:
    shared, source = JobDeduplicator[int, str](), Source()
    callers = [Caller(shared, source) for _ in range(20)]
    source.send(1, 2)
    await settle()
    assert [caller.got for caller in callers] == [[1, 2]] * 20
    late = Caller(shared, source)
    await settle()
    assert late.got == [1, 2]
    source.send(3, None)
    results = await asyncio.gather(*(caller.task for caller in (*callers, late)))
    assert results == ["result 1"] * 21
    assert [caller.got for caller in (*callers, late)] == [[1, 2, 3]] * 21
    assert (source.runs, source.ended, shared._runs) == (1, 1, {})


async def test_keys_run_in_parallel_and_a_later_caller_starts_a_new_run() -> None:
    shared, source = JobDeduplicator[int, str](), Source()
    one, other = Caller(shared, source, "a"), Caller(shared, source, "b")
    await settle()
    assert shared.get_running("a")
    source.send(None, None)
    await asyncio.gather(one.task, other.task)
    assert not shared.get_running("a")
    source.send(None)
    await Caller(shared, source, "a").task
    assert source.runs == 3


async def test_first_caller_leaving_does_not_end_the_job_for_the_others() -> None:
    shared, source = JobDeduplicator[int, str](), Source()
    first = Caller(shared, source)
    await settle()
    second = Caller(shared, source)
    source.send(1)
    await settle()
    first.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first.task
    source.send(2, None)
    await second.task
    assert (second.got, source.runs) == ([1, 2], 1)


async def test_last_caller_leaving_ends_the_job_and_waits_for_its_cleanup() -> None:
    shared, source = JobDeduplicator[int, str](), Source()
    callers = [Caller(shared, source) for _ in range(3)]
    source.send(1)
    await settle()
    for caller in callers:
        caller.task.cancel()
    await asyncio.gather(*(caller.task for caller in callers), return_exceptions=True)
    assert (source.ended, shared._runs) == (1, {})
    fresh = Caller(shared, source)
    source.send(9, None)
    await fresh.task
    assert fresh.got == [9]


async def test_caller_may_leave_before_the_end() -> None:
    shared, source = JobDeduplicator[int, str](), Source()
    source.send(1, 2, 3)
    async with shared.join("key", lambda: source) as flight:
        assert await flight.wait_for_more(0)
    assert source.ended == 1


async def test_each_caller_gets_its_own_copy_of_an_error_after_the_items() -> None:
    shared, source = JobDeduplicator[int, str](), Source()
    source.error = ServerError("no")
    callers = [Caller(shared, source) for _ in range(3)]
    source.send(1, None)
    failures = await asyncio.gather(*(caller.task for caller in callers), return_exceptions=True)
    assert [str(failure) for failure in failures] == [str(source.error)] * 3
    assert len({id(failure) for failure in (*failures, source.error)}) == 4
    assert [caller.got for caller in callers] == [[1]] * 3
    assert shared._runs == {}


async def test_error_that_no_caller_awaits_is_not_logged() -> None:
    """Warnings are errors in tests, and an unretrieved exception of a task is one."""
    shared, source = JobDeduplicator[int, str](), Source()
    source.error = ServerError("no")
    source.send(1, None)
    async with shared.join("key", lambda: source):
        await settle()  # it failed meanwhile
    assert source.ended == 1


async def test_deadline_of_the_first_caller_does_not_apply_to_the_job() -> None:
    shared, source = JobDeduplicator[int, str](), Source()
    with deadline(60):
        caller = Caller(shared, source)
    source.send(None)
    await caller.task
    assert source.deadlines == [NEVER]


async def test_end_passes_the_error_to_all_callers() -> None:
    shared, source = JobDeduplicator[int, str](), Source()
    callers = [Caller(shared, source) for _ in range(3)]
    await settle()
    await shared.end(ClientClosed("closed"))
    for caller in callers:
        with pytest.raises(ClientClosed):
            await caller.task
    assert source.ended == 1


def test_run_of_a_closed_event_loop_is_not_joined() -> None:
    shared = JobDeduplicator[int, str]()

    async def use() -> str:
        source = Source()
        abandoned = shared.join("key", lambda: source)
        await abandoned.__aenter__()
        source.send(None)
        return await Caller(shared, source).task

    assert [asyncio.run(use()) for _ in range(2)] == ["result 1"] * 2
