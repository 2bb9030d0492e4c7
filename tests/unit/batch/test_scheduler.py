"""The scheduler of a batch when calls fail, on a virtual clock."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from foundry_api.batch.dedupe import LruResults
from foundry_api.batch.failures import MAX_CONSECUTIVE_FAILURES, MAX_START_OUTAGE_S, Outage
from foundry_api.batch.queues import MAX_READY, ONE_GROUP_CAPACITY, REORDER_WINDOW
from foundry_api.batch.scheduler import ConcurrencyWindow, Scheduler
from foundry_api.batch.task import BatchTask
from foundry_api.resilience.backoff import Backoff
from foundry_api.resilience.prompt_reading import DeadlineTooShort
from foundry_api.types import errors

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable

    from support.virtual_time import Run

    Fails = Callable[["Engine", int], Exception | None]

PAUSES = Backoff(base_s=1.0, cap_s=8.0, uniform=lambda _, most: most)


class Engine:
    """Answers each line after a delay, unless `fails` returns an error for it."""

    def __init__(self, fails: Fails = lambda _engine, _index: None) -> None:
        self.fails = fails
        self.in_flight: set[int] = set()
        self.most = 0
        self.started: list[int] = []
        self.groups: list[str] = []
        self.tries: defaultdict[int, int] = defaultdict(int)
        self.cancelled: list[int] = []

    async def answer(self, index: int, group: str, duration_s: float) -> str:
        self.tries[index] += 1
        self.started.append(index)
        self.groups.append(group)
        self.in_flight.add(index)
        self.most = max(self.most, len(self.in_flight))
        try:
            await asyncio.sleep(duration_s)
            if (error := self.fails(self, index)) is not None:
                raise error
        except asyncio.CancelledError:
            self.cancelled.append(index)
            raise
        finally:
            self.in_flight.discard(index)
        return f"{index}"


class CrashingEngine(Engine):
    """An engine that crashes on some lines or calls, with everything in flight."""

    def __init__(self, poison: range | set[int], at_calls: range = range(0)) -> None:
        super().__init__()
        self.poison = poison
        self.at_calls = at_calls
        self.crashes = 0

    async def answer(self, index: int, group: str, duration_s: float) -> str:
        self.started.append(index)
        self.groups.append(group)
        number, epoch = len(self.started), self.crashes
        await asyncio.sleep(duration_s / 2)
        if self.crashes == epoch and (index in self.poison or number in self.at_calls):
            self.crashes += 1
        await asyncio.sleep(0)  # the others fail at the same moment
        if self.crashes != epoch:
            raise errors.StreamInterrupted("it crashed")
        return f"{index}"


class Line(BatchTask[str]):
    def __init__(
        self, engine: Engine, index: int, group: str = "a", key: bytes | None = None, s: float = 1.0
    ) -> None:
        super().__init__(index, group, key)
        self.engine = engine
        self.duration_s = s

    async def run(self) -> str:
        return await self.engine.answer(self.index, self.group, self.duration_s)

    def make_failed_result(self, error: errors.FoundryError) -> str:
        return f"{self.index} {type(error).__name__}"

    def make_shared_result(self, result: str) -> str:
        return f"{self.index} as {result}"


def make_scheduler(
    *,
    at_once: int = 4,
    attempts: int = 3,
    patience_s: float = 100.0,
    reachable: bool = True,
    shared_results: LruResults[str] | None = None,
    ordered: bool = False,
) -> Scheduler[str]:
    async def is_reachable() -> bool:
        return reachable

    return Scheduler(
        ConcurrencyWindow(lambda: at_once),
        Outage(patience_s, asyncio.get_running_loop().time, PAUSES),
        max_attempts=attempts,
        is_reachable=is_reachable,
        shared_results=shared_results,
        ordered=ordered,
    )


async def several(lines: list[Line]) -> AsyncGenerator[Line]:
    for line in lines:
        yield line


async def results(of: Scheduler[str], lines: AsyncIterable[Line] | list[Line]) -> list[str]:
    source = several(lines) if isinstance(lines, list) else lines
    async with aclosing(of.run(source)) as stream:
        return [result async for result in stream]


def lines(engine: Engine, count: int, models: str = "a") -> list[Line]:
    """Return lines whose models alternate."""
    return [Line(engine, index, models[index % len(models)]) for index in range(count)]


def test_every_line_is_answered_once_within_the_concurrency(run: Run) -> None:
    async def test() -> None:
        engine = Engine()
        stream = await results(make_scheduler(at_once=7), lines(engine, 300))
        assert sorted(map(int, stream)) == list(range(300))
        assert engine.most == 7
        assert set(engine.tries.values()) == {1}
        assert asyncio.get_running_loop().time() == pytest.approx(300 / 7, abs=1)

    run(test())


def test_no_more_lines_are_read_than_needed(run: Run) -> None:
    """The source never ends, and the caller takes three results."""

    async def test() -> None:
        engine, taken = Engine(), 0

        async def endless() -> AsyncGenerator[Line]:
            nonlocal taken
            while True:
                yield Line(engine, taken)
                taken += 1

        async with aclosing(make_scheduler().run(endless())) as stream:
            for _ in range(3):
                await anext(stream)
            await asyncio.sleep(10_000)
        assert len(engine.started) <= MAX_READY + 2 * 4 + 3
        assert taken <= len(engine.started) + ONE_GROUP_CAPACITY + 1

    run(test())


def test_closing_early_cancels_calls_and_closes_the_source(run: Run) -> None:
    async def test() -> None:
        engine, ended = Engine(), False

        async def source() -> AsyncGenerator[Line]:
            nonlocal ended
            try:
                for index in range(1000):
                    yield Line(engine, index, s=1.0 if index == 0 else 100.0)
            finally:
                ended = True

        stream = make_scheduler().run(source())
        await anext(stream)
        await stream.aclose()
        assert sorted(engine.cancelled) == [1, 2, 3, 4]
        assert ended
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(test())


def test_ordered_results_and_bounded_look_ahead(run: Run) -> None:
    async def test() -> None:
        engine = Engine()
        slow_first = [Line(engine, index, s=0.1 if index else 1e4) for index in range(2000)]
        stream = await results(make_scheduler(ordered=True), slow_first)
        assert stream == [f"{index}" for index in range(2000)]
        assert max(engine.started[:REORDER_WINDOW]) < REORDER_WINDOW

    run(test())


def test_lines_of_one_model_are_answered_together(run: Run) -> None:
    async def test() -> None:
        engine = Engine()
        stream = await results(make_scheduler(), lines(engine, 3000, models="abc"))
        assert len(stream) == 3000
        changes = sum(a != b for a, b in zip(engine.groups, engine.groups[1:], strict=False))
        assert changes <= 12

    run(test())


@pytest.mark.parametrize("kind", [errors.InvalidRequest, DeadlineTooShort])
def test_invalid_line_fails_alone_and_at_once(run: Run, kind: type[errors.FoundryError]) -> None:
    async def test() -> None:
        engine = Engine(lambda _, index: kind("no") if index == 5 else None)
        stream = await results(make_scheduler(), lines(engine, 20))
        assert f"5 {kind.__name__}" in stream
        assert len(stream) == 20
        assert engine.tries[5] == 1

    run(test())


@pytest.mark.parametrize("kind", [errors.ServerError, errors.ReadTimeout, errors.DownloadFailed])
def test_transient_failure_is_retried_up_to_max_attempts(
    run: Run, kind: type[errors.FoundryError]
) -> None:
    def fails(engine: Engine, index: int) -> Exception | None:
        often = {3: 2, 4: 99}.get(index, 0)
        return kind("for now") if engine.tries[index] <= often else None

    async def test() -> None:
        engine = Engine(fails)
        stream = await results(make_scheduler(), lines(engine, 10))
        assert "3" in stream
        assert f"4 {kind.__name__}" in stream
        assert (engine.tries[3], engine.tries[4]) == (3, 3)

    run(test())


AWAY = [
    errors.ServiceNotRunning("gone"),
    errors.ConnectTimeout("gone"),
    errors.CircuitOpen("open", retry_after_s=0.5),
    errors.ServiceStartFailed("no engine"),
    errors.ServiceOverloaded("later"),
    errors.QueueFull("full"),
]


@pytest.mark.parametrize("error", AWAY, ids=lambda error: type(error).__name__)
def test_no_line_fails_while_the_service_is_unreachable(
    run: Run, error: errors.FoundryError
) -> None:
    def fails(_engine: Engine, _index: int) -> Exception | None:
        return error if 20 < asyncio.get_running_loop().time() < 60 else None

    async def test() -> None:
        engine = Engine(fails)
        stream = await results(make_scheduler(attempts=1), lines(engine, 200))
        assert sorted(map(int, stream)) == list(range(200))
        assert len(engine.started) < 200 + 60  # few check whether it is back

    run(test())


def test_too_long_an_outage_ends_the_batch_with_earlier_answers(run: Run) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        gone = errors.ServiceNotRunning("gone")
        engine = Engine(lambda *_: gone if loop.time() > 10.5 else None)
        stream: list[str] = []

        async def take() -> None:
            async with aclosing(
                make_scheduler(patience_s=300).run(several(lines(engine, 99)))
            ) as some:
                async for result in some:
                    stream.append(result)  # noqa: PERF401 - those before the error count

        with pytest.raises(errors.ServiceNotRunning) as caught:
            await take()
        assert len(stream) == 40
        assert "It was unreachable for" in caught.value.hint
        assert 300 < loop.time() < 330

    run(test())


def test_service_that_never_answered_gets_less_patience(run: Run) -> None:
    async def test() -> None:
        engine = Engine(lambda *_: errors.ServiceNotRunning("gone"))
        with pytest.raises(errors.ServiceNotRunning):
            await results(make_scheduler(patience_s=1e6), lines(engine, 99))
        assert asyncio.get_running_loop().time() < MAX_START_OUTAGE_S + 10

    run(test())


def test_read_timeout_of_a_hanging_service_blames_no_line(run: Run) -> None:
    async def test() -> None:
        def fails(_engine: Engine, _index: int) -> Exception | None:
            return errors.ReadTimeout("mute") if asyncio.get_running_loop().time() < 20 else None

        stream = await results(make_scheduler(attempts=2, reachable=False), lines(Engine(fails), 5))
        assert sorted(map(int, stream)) == list(range(5))

    run(test())


def test_line_that_crashes_the_service_fails_alone(run: Run) -> None:
    async def test() -> None:
        engine = CrashingEngine({30, 31, 60})
        stream = await results(make_scheduler(attempts=3), lines(engine, 100))
        failed = sorted(each for each in stream if " " in each)
        assert failed == [f"{index} StreamInterrupted" for index in (30, 31, 60)]
        assert len(stream) == 100
        assert engine.crashes <= 3 * 3 + 2

    run(test())


def test_service_killed_at_any_moment_fails_no_line(run: Run) -> None:
    async def test() -> None:
        engine = CrashingEngine(set(), at_calls=range(3, 1000, 11))
        stream = await results(make_scheduler(attempts=3), lines(engine, 300))
        assert engine.crashes > 20
        assert sorted(stream, key=int) == [f"{index}" for index in range(300)]

    run(test())


def test_service_that_crashes_on_every_line_ends_the_batch(
    run: Run,
) -> None:
    async def test() -> None:
        engine = CrashingEngine(range(1000))
        with pytest.raises(errors.StreamInterrupted):
            await results(make_scheduler(), lines(engine, 1000))
        assert engine.crashes <= 3 * MAX_CONSECUTIVE_FAILURES + 10

    run(test())


def test_unknown_model_ends_the_batch(run: Run) -> None:
    async def test() -> None:
        engine = Engine(lambda *_: errors.ModelNotFound("what model?"))
        with pytest.raises(errors.ModelNotFound):
            await results(make_scheduler(), lines(engine, 10_000))
        assert len(engine.started) < 2 * MAX_CONSECUTIVE_FAILURES

    run(test())


def test_unknown_model_among_several_fails_only_its_lines(run: Run) -> None:
    async def test() -> None:
        def fails(_: Engine, index: int) -> Exception | None:
            return errors.ModelNotFound("what model?") if index % 2 else None

        stream = await results(make_scheduler(), lines(Engine(fails), 200, models="ab"))
        assert sum(each.endswith("ModelNotFound") for each in stream) == 100
        assert len(stream) == 200

    run(test())


def test_few_lines_of_an_unknown_model_fail_as_lines(run: Run) -> None:
    async def test() -> None:
        engine = Engine(lambda *_: errors.ModelNotFound("what model?"))
        stream = await results(make_scheduler(), lines(engine, 3))
        assert sorted(stream) == [f"{index} ModelNotFound" for index in range(3)]

    run(test())


@pytest.mark.parametrize(
    "error", [errors.ClientClosed("closed"), errors.InvalidRequest("who are you?", status=401)]
)
def test_fatal_error_ends_the_batch_at_once(run: Run, error: errors.FoundryError) -> None:
    async def test() -> None:
        engine = Engine(lambda *_: error)
        with pytest.raises(type(error)):
            await results(make_scheduler(), lines(engine, 1000))
        assert len(engine.started) <= 5

    run(test())


def test_model_without_memory_waits_for_the_other_model(run: Run) -> None:
    def fails(engine: Engine, index: int) -> Exception | None:
        others = {each % 2 for each in engine.in_flight} - {index % 2}
        return errors.MemoryBudgetExceeded("no room") if others and index % 2 else None

    async def test() -> None:
        stream = await results(make_scheduler(), lines(Engine(fails), 100, models="ab"))
        assert sorted(map(int, stream)) == list(range(100))

    run(test())


def test_model_without_memory_on_its_own_fails(run: Run) -> None:
    async def test() -> None:
        too_large = errors.MemoryBudgetExceeded("too large")
        engine = Engine(lambda _, index: too_large if index == 2 else None)
        stream = await results(make_scheduler(), lines(engine, 5))
        assert "2 MemoryBudgetExceeded" in stream

    run(test())


def test_identical_lines_are_sent_once(run: Run) -> None:
    async def test() -> None:
        engine = Engine()
        same = [Line(engine, index, key=b"k%d" % (index % 10)) for index in range(1000)]
        stream = await results(make_scheduler(shared_results=LruResults(len)), same)
        assert len(stream) == 1000
        assert len(engine.started) == 10
        assert sum(" as " in each for each in stream) == 990

    run(test())


def test_failure_is_shared_with_followers_but_not_stored(run: Run) -> None:
    async def test() -> None:
        shared_results = LruResults[str](len)
        engine = Engine(lambda *_: errors.InvalidRequest("no"))
        same = [Line(engine, index, key=b"same") for index in range(3)]
        stream = await results(make_scheduler(shared_results=shared_results), same)
        assert stream == ["0 InvalidRequest", *(f"{n} as 0 InvalidRequest" for n in (1, 2))]
        assert shared_results.get(b"same") is None

    run(test())


def test_unexpected_exception_is_raised_unchanged(run: Run) -> None:
    async def test() -> None:
        engine = Engine(lambda _, index: ZeroDivisionError("parser") if index == 7 else None)
        with pytest.raises(ZeroDivisionError):
            await results(make_scheduler(), lines(engine, 100))

        async def broken() -> AsyncGenerator[Line]:
            yield Line(engine, 0)
            raise OSError("the caller's file")

        with pytest.raises(OSError, match="the caller's file"):
            await results(make_scheduler(), broken())

    run(test())


@pytest.mark.parametrize(
    "failure", [asyncio.CancelledError, GeneratorExit, ValueError, KeyError, errors.ProtocolError]
)
def test_failing_source_is_not_taken_for_its_end(run: Run, failure: type[BaseException]) -> None:
    """Calls in flight finish first; then the error is raised, wrapped if it would end the loop."""

    async def broken(engine: Engine) -> AsyncGenerator[Line]:
        for index in range(3):
            yield Line(engine, index)
        await asyncio.sleep(0.5)
        raise failure("broken")

    async def main() -> None:
        engine, finished = Engine(), list[str]()
        expected = errors.BatchError if not issubclass(failure, Exception) else failure
        stream = make_scheduler().run(broken(engine))
        with pytest.raises(expected, match="broken") as caught:  # noqa: PT012 - it ends the loop
            async for result in stream:
                finished.append(result)
        assert sorted(finished) == ["0", "1", "2"]
        assert engine.cancelled == []
        if expected is errors.BatchError:
            assert type(caught.value.__cause__) is failure

    run(main())


def test_cancellation_during_reading_is_propagated(run: Run) -> None:
    async def main() -> None:
        begun = asyncio.Event()

        async def waits() -> AsyncGenerator[Line]:
            begun.set()
            await asyncio.Event().wait()
            yield Line(Engine(), 0)

        running = asyncio.create_task(results(make_scheduler(), waits()))
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    run(main())


def test_lru_results_are_bounded_in_size() -> None:
    shared_results = LruResults[str](len, max_bytes=30)
    shared_results.put(b"one", "x" * 9)
    shared_results.put(b"two", "y" * 9)
    assert shared_results.get(b"one") is not None
    shared_results.put(b"six", "z" * 9)
    assert (shared_results.get(b"one"), shared_results.get(b"two")) == ("x" * 9, None)
    shared_results.put(b"big", "w" * 99)
    assert shared_results.get(b"big") is None
    assert shared_results.get(b"six") is not None


def test_drained_scheduler_only_finishes_lines_in_flight(run: Run) -> None:
    async def test() -> None:
        engine, stream = Engine(), list[str]()
        draining = make_scheduler()
        async with aclosing(draining.run(several(lines(engine, 1000)))) as replies:
            async for reply in replies:
                stream.append(reply)
                if len(stream) == 6:
                    draining.drain()
        assert sorted(map(int, stream)) == sorted(engine.started)
        assert engine.cancelled == []
        assert len(stream) <= 6 + 4 + 4, "those that had ended, and those in flight"

    run(test())
