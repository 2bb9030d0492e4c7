"""Concurrent callers with the same key share one task."""

from __future__ import annotations

import asyncio

import pytest

from foundry_api.resilience.single_flight import SingleFlight


class Work:
    """A task that waits until the test releases it."""

    def __init__(self) -> None:
        self.runs = 0
        self.cancelled = 0
        self.started = asyncio.Event()
        self.let_go = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> str:
        self.runs += 1
        self.started.set()
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # the cleanup takes a while
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return f"result {self.runs}"


async def callers(
    flight: SingleFlight[str], work: Work, count: int, key: str = "key"
) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(flight.run(key, work)) for _ in range(count)]
    await asyncio.sleep(0)
    await work.started.wait()
    return tasks


async def test_fifty_callers_share_one_task() -> None:
    flight, work = SingleFlight[str](), Work()
    tasks = await callers(flight, work, 50)
    work.let_go.set()
    assert await asyncio.gather(*tasks) == ["result 1"] * 50
    assert flight._flights == {}


async def test_different_keys_run_concurrently() -> None:
    flight, work = SingleFlight[str](), Work()
    tasks = await callers(flight, work, 2, "a") + await callers(flight, work, 2, "b")
    work.let_go.set()
    await asyncio.gather(*tasks)
    assert work.runs == 2


async def test_a_later_caller_starts_a_new_task() -> None:
    flight, work = SingleFlight[str](), Work()
    work.let_go.set()
    assert [await flight.run("key", work) for _ in range(2)] == ["result 1", "result 2"]


async def test_a_cancelled_caller_does_not_affect_the_others() -> None:
    flight, work = SingleFlight[str](), Work()
    first, *others = await callers(flight, work, 50)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    work.let_go.set()
    assert await asyncio.gather(*others) == ["result 1"] * 49
    assert work.cancelled == 0


async def test_the_last_cancelled_caller_waits_for_the_cleanup() -> None:
    flight, work = SingleFlight[str](), Work()
    tasks = await callers(flight, work, 50)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert (work.runs, work.cancelled) == (1, 1)
    assert flight._flights == {}


async def test_a_caller_after_the_last_one_starts_a_new_task() -> None:
    flight, work = SingleFlight[str](), Work()
    (task,) = await callers(flight, work, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (task,) = await callers(flight, work, 1)
    work.let_go.set()
    assert await task == "result 2"
    assert flight._flights == {}


async def test_a_failure_reaches_every_caller() -> None:
    flight, work = SingleFlight[str](), Work()
    work.error = ValueError("no")
    tasks = await callers(flight, work, 50)
    work.let_go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [ValueError] * 50
    work.error = None
    assert await flight.run("key", work) == "result 2"


async def test_a_failure_without_callers_is_not_logged_as_lost() -> None:
    """asyncio would report "exception was never retrieved" to the loop's handler."""
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    flight = SingleFlight[str]()
    started = asyncio.Event()

    async def fail_when_cancelled() -> str:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            raise ValueError("no")

    task = asyncio.create_task(flight.run("key", fail_when_cancelled))
    await started.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    del task
    await asyncio.sleep(0)
    assert reported == []


def test_a_new_event_loop_starts_a_new_task() -> None:
    flight = SingleFlight[str]()

    async def leave_it_hanging() -> None:
        await callers(flight, Work(), 1)

    async def use_it() -> str:
        work = Work()
        work.let_go.set()
        return await flight.run("key", work)

    old = asyncio.new_event_loop()
    old.run_until_complete(leave_it_hanging())
    assert asyncio.run(use_it()) == "result 1"
    for task in asyncio.all_tasks(old):
        task.cancel()
    old.run_until_complete(asyncio.sleep(0))
    old.run_until_complete(asyncio.sleep(0))
    old.close()
    assert flight._flights == {}


async def test_closing_a_callers_coroutine_does_not_wait() -> None:
    flight, work = SingleFlight[str](), Work()
    caller = flight.run("key", work)
    caller.send(None)
    await work.started.wait()
    caller.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert work.cancelled == 1
    assert flight._flights == {}
