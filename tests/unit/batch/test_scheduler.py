"""What becomes of the lines of a batch when calls fail: on a clock that costs no time."""

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
from foundry_api.types import errors

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable

    from support.no_real_time import Run

    Fails = Callable[["Engine", int], Exception | None]

PAUSES = Backoff(base_s=1.0, cap_s=8.0, uniform=lambda _, most: most)


class Engine:
    """Answers lines in a second each, and fails as it is told."""

    def __init__(self, fails: Fails = lambda _engine, _index: None) -> None:
        self.fails = fails
        self.flying: set[int] = set()
        self.most = 0
        self.is_started: list[int] = []
        self.groups: list[str] = []
        self.tries: defaultdict[int, int] = defaultdict(int)
        self.cancelled: list[int] = []

    async def answer(self, index: int, group: str, took_s: float) -> str:
        self.tries[index] += 1
        self.is_started.append(index)
        self.groups.append(group)
        self.flying.add(index)
        self.most = max(self.most, len(self.flying))
        try:
            await asyncio.sleep(took_s)
            if (error := self.fails(self, index)) is not None:
                raise error
        except asyncio.CancelledError:
            self.cancelled.append(index)
            raise
        finally:
            self.flying.discard(index)
        return f"{index}"


class Mortal(Engine):
    """An engine that dies of some lines, or at some calls, with all that are in flight."""

    def __init__(self, poison: range | set[int], at_calls: range = range(0)) -> None:
        super().__init__()
        self.poison = poison
        self.at_calls = at_calls
        self.crashes = 0

    async def answer(self, index: int, group: str, took_s: float) -> str:
        self.is_started.append(index)
        self.groups.append(group)
        number, epoch = len(self.is_started), self.crashes
        await asyncio.sleep(took_s / 2)
        if self.crashes == epoch and (index in self.poison or number in self.at_calls):
            self.crashes += 1
        await asyncio.sleep(0)  # the others notice it in the same moment
        if self.crashes != epoch:
            raise errors.StreamInterrupted("it died")
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


def pump(
    *,
    at_once: int = 4,
    attempts: int = 3,
    patience_s: float = 100.0,
    reachable: bool = True,
    kept: LruResults[str] | None = None,
    ordered: bool = False,
) -> Scheduler[str]:
    async def tells_its_status() -> bool:
        return reachable

    return Scheduler(
        ConcurrencyWindow(lambda: at_once),
        Outage(patience_s, asyncio.get_running_loop().time, PAUSES),
        max_attempts=attempts,
        is_reachable=tells_its_status,
        shared_results=kept,
        ordered=ordered,
    )


async def several(lines: list[Line]) -> AsyncGenerator[Line]:
    for line in lines:
        yield line


async def results(of: Scheduler[str], lines: AsyncIterable[Line] | list[Line]) -> list[str]:
    source = several(lines) if isinstance(lines, list) else lines
    async with aclosing(of.run(source)) as given:
        return [result async for result in given]


def lines(engine: Engine, count: int, models: str = "a") -> list[Line]:
    """As many lines, their models taking turns."""
    return [Line(engine, index, models[index % len(models)]) for index in range(count)]


def test_every_line_is_answered_once_with_as_many_at_once_as_are_allowed(run: Run) -> None:
    async def test() -> None:
        engine = Engine()
        given = await results(pump(at_once=7), lines(engine, 300))
        assert sorted(map(int, given)) == list(range(300))
        assert engine.most == 7
        assert set(engine.tries.values()) == {1}
        assert asyncio.get_running_loop().time() == pytest.approx(300 / 7, abs=1)

    run(test())


def test_no_more_are_taken_than_are_needed(run: Run) -> None:
    """From a source that never ends, by somebody who takes three results."""

    async def test() -> None:
        engine, taken = Engine(), 0

        async def endless() -> AsyncGenerator[Line]:
            nonlocal taken
            while True:
                yield Line(engine, taken)
                taken += 1

        async with aclosing(pump().run(endless())) as given:
            for _ in range(3):
                await anext(given)
            await asyncio.sleep(10_000)
        assert len(engine.is_started) <= MAX_READY + 2 * 4 + 3
        assert taken <= len(engine.is_started) + ONE_GROUP_CAPACITY + 1

    run(test())


def test_what_is_left_early_ends_what_is_in_flight_and_the_source(run: Run) -> None:
    async def test() -> None:
        engine, ended = Engine(), False

        async def source() -> AsyncGenerator[Line]:
            nonlocal ended
            try:
                for index in range(1000):
                    yield Line(engine, index, s=1.0 if index == 0 else 100.0)
            finally:
                ended = True

        given = pump().run(source())
        await anext(given)
        await given.aclose()
        assert sorted(engine.cancelled) == [1, 2, 3, 4]
        assert ended
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(test())


def test_order_is_kept_and_no_line_runs_too_far_ahead(run: Run) -> None:
    async def test() -> None:
        engine = Engine()
        slow_first = [Line(engine, index, s=0.1 if index else 1e4) for index in range(2000)]
        given = await results(pump(ordered=True), slow_first)
        assert given == [f"{index}" for index in range(2000)]
        assert max(engine.is_started[:REORDER_WINDOW]) < REORDER_WINDOW

    run(test())


def test_lines_of_one_model_are_answered_together(run: Run) -> None:
    async def test() -> None:
        engine = Engine()
        given = await results(pump(), lines(engine, 3000, models="abc"))
        assert len(given) == 3000
        changes = sum(a != b for a, b in zip(engine.groups, engine.groups[1:], strict=False))
        assert changes <= 12

    run(test())


def test_the_callers_mistake_fails_its_line_alone_and_at_once(run: Run) -> None:
    async def test() -> None:
        engine = Engine(lambda _, index: errors.InvalidRequest("no") if index == 5 else None)
        given = await results(pump(), lines(engine, 20))
        assert "5 InvalidRequest" in given
        assert len(given) == 20
        assert engine.tries[5] == 1

    run(test())


@pytest.mark.parametrize("kind", [errors.ServerError, errors.ReadTimeout, errors.DownloadFailed])
def test_a_line_that_fails_for_a_passing_reason_is_begun_again_so_often(
    run: Run, kind: type[errors.FoundryError]
) -> None:
    def fails(engine: Engine, index: int) -> Exception | None:
        often = {3: 2, 4: 99}.get(index, 0)
        return kind("for now") if engine.tries[index] <= often else None

    async def test() -> None:
        engine = Engine(fails)
        given = await results(pump(), lines(engine, 10))
        assert "3" in given
        assert f"4 {kind.__name__}" in given
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
def test_no_line_fails_while_the_service_is_away(run: Run, error: errors.FoundryError) -> None:
    def fails(_engine: Engine, _index: int) -> Exception | None:
        return error if 20 < asyncio.get_running_loop().time() < 60 else None

    async def test() -> None:
        engine = Engine(fails)
        given = await results(pump(attempts=1), lines(engine, 200))
        assert sorted(map(int, given)) == list(range(200))
        assert len(engine.is_started) < 200 + 60  # few look whether it is back

    run(test())


def test_the_patience_ends_and_the_answers_before_are_kept(run: Run) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        gone = errors.ServiceNotRunning("gone")
        engine = Engine(lambda *_: gone if loop.time() > 10.5 else None)
        given: list[str] = []

        async def take() -> None:
            async with aclosing(pump(patience_s=300).run(several(lines(engine, 99)))) as some:
                async for result in some:
                    given.append(result)  # noqa: PERF401 - those before the error count

        with pytest.raises(errors.ServiceNotRunning) as caught:
            await take()
        assert len(given) == 40
        assert "It was away for" in caught.value.hint
        assert 300 < loop.time() < 330

    run(test())


def test_a_service_that_was_never_there_is_not_waited_for_as_long(run: Run) -> None:
    async def test() -> None:
        engine = Engine(lambda *_: errors.ServiceNotRunning("gone"))
        with pytest.raises(errors.ServiceNotRunning):
            await results(pump(patience_s=1e6), lines(engine, 99))
        assert asyncio.get_running_loop().time() < MAX_START_OUTAGE_S + 10

    run(test())


def test_a_service_that_tells_no_status_is_away_and_no_line_is_blamed(run: Run) -> None:
    async def test() -> None:
        def fails(_engine: Engine, _index: int) -> Exception | None:
            return errors.ReadTimeout("mute") if asyncio.get_running_loop().time() < 20 else None

        given = await results(pump(attempts=2, reachable=False), lines(Engine(fails), 5))
        assert sorted(map(int, given)) == list(range(5))

    run(test())


def test_a_line_that_kills_the_service_is_found_and_its_neighbours_are_not_blamed(run: Run) -> None:
    async def test() -> None:
        engine = Mortal({30, 31, 60})
        given = await results(pump(attempts=3), lines(engine, 100))
        failed = sorted(each for each in given if " " in each)
        assert failed == [f"{index} StreamInterrupted" for index in (30, 31, 60)]
        assert len(given) == 100
        assert engine.crashes <= 3 * 3 + 2

    run(test())


def test_a_service_that_is_killed_at_any_moment_fails_no_line(run: Run) -> None:
    async def test() -> None:
        engine = Mortal(set(), at_calls=range(3, 1000, 11))
        given = await results(pump(attempts=3), lines(engine, 300))
        assert engine.crashes > 20
        assert sorted(given, key=int) == [f"{index}" for index in range(300)]

    run(test())


def test_a_service_that_dies_of_every_line_ends_the_batch_and_no_line_is_written_off(
    run: Run,
) -> None:
    async def test() -> None:
        engine = Mortal(range(1000))
        with pytest.raises(errors.StreamInterrupted):
            await results(pump(), lines(engine, 1000))
        assert engine.crashes <= 3 * MAX_CONSECUTIVE_FAILURES + 10

    run(test())


def test_a_model_that_nobody_knows_ends_the_batch_before_a_million_lines_fail(run: Run) -> None:
    async def test() -> None:
        engine = Engine(lambda *_: errors.ModelNotFound("what model?"))
        with pytest.raises(errors.ModelNotFound):
            await results(pump(), lines(engine, 10_000))
        assert len(engine.is_started) < 2 * MAX_CONSECUTIVE_FAILURES

    run(test())


def test_of_several_models_one_that_is_not_known_fails_its_own_lines(run: Run) -> None:
    async def test() -> None:
        def fails(_: Engine, index: int) -> Exception | None:
            return errors.ModelNotFound("what model?") if index % 2 else None

        given = await results(pump(), lines(Engine(fails), 200, models="ab"))
        assert sum(each.endswith("ModelNotFound") for each in given) == 100
        assert len(given) == 200

    run(test())


def test_few_lines_of_a_model_that_nobody_knows_fail_as_lines(run: Run) -> None:
    async def test() -> None:
        engine = Engine(lambda *_: errors.ModelNotFound("what model?"))
        given = await results(pump(), lines(engine, 3))
        assert sorted(given) == [f"{index} ModelNotFound" for index in range(3)]

    run(test())


@pytest.mark.parametrize(
    "error", [errors.ClientClosed("closed"), errors.InvalidRequest("who are you?", status=401)]
)
def test_what_no_line_can_mend_ends_the_batch_at_once(run: Run, error: errors.FoundryError) -> None:
    async def test() -> None:
        engine = Engine(lambda *_: error)
        with pytest.raises(type(error)):
            await results(pump(), lines(engine, 1000))
        assert len(engine.is_started) <= 5

    run(test())


def test_a_model_that_finds_no_room_beside_another_waits_until_that_is_done(run: Run) -> None:
    def fails(engine: Engine, index: int) -> Exception | None:
        others = {each % 2 for each in engine.flying} - {index % 2}
        return errors.MemoryBudgetExceeded("no room") if others and index % 2 else None

    async def test() -> None:
        given = await results(pump(), lines(Engine(fails), 100, models="ab"))
        assert sorted(map(int, given)) == list(range(100))

    run(test())


def test_one_that_finds_no_room_by_itself_fails(run: Run) -> None:
    async def test() -> None:
        too_large = errors.MemoryBudgetExceeded("too large")
        engine = Engine(lambda _, index: too_large if index == 2 else None)
        given = await results(pump(), lines(engine, 5))
        assert "2 MemoryBudgetExceeded" in given

    run(test())


def test_identical_lines_are_asked_once(run: Run) -> None:
    async def test() -> None:
        engine = Engine()
        same = [Line(engine, index, key=b"k%d" % (index % 10)) for index in range(1000)]
        given = await results(pump(kept=LruResults(len)), same)
        assert len(given) == 1000
        assert len(engine.is_started) == 10
        assert sum(" as " in each for each in given) == 990

    run(test())


def test_a_failure_is_shared_by_those_who_waited_for_it_and_is_not_kept(run: Run) -> None:
    async def test() -> None:
        kept = LruResults[str](len)
        engine = Engine(lambda *_: errors.InvalidRequest("no"))
        same = [Line(engine, index, key=b"same") for index in range(3)]
        given = await results(pump(kept=kept), same)
        assert given == ["0 InvalidRequest", *(f"{n} as 0 InvalidRequest" for n in (1, 2))]
        assert kept.get(b"same") is None

    run(test())


def test_a_mistake_in_the_callers_own_code_is_raised_as_it_is(run: Run) -> None:
    async def test() -> None:
        engine = Engine(lambda _, index: ZeroDivisionError("parser") if index == 7 else None)
        with pytest.raises(ZeroDivisionError):
            await results(pump(), lines(engine, 100))

        async def broken() -> AsyncGenerator[Line]:
            yield Line(engine, 0)
            raise OSError("the caller's file")

        with pytest.raises(OSError, match="the caller's file"):
            await results(pump(), broken())

    run(test())


@pytest.mark.parametrize(
    "failure", [asyncio.CancelledError, GeneratorExit, ValueError, KeyError, errors.ProtocolError]
)
def test_a_source_that_fails_is_not_at_its_end(run: Run, failure: type[BaseException]) -> None:
    """What is in flight gives its results; then comes the failure, as one of ours if need be."""

    async def broken(engine: Engine) -> AsyncGenerator[Line]:
        for index in range(3):
            yield Line(engine, index)
        await asyncio.sleep(0.5)
        raise failure("broken")

    async def main() -> None:
        engine, told = Engine(), list[str]()
        expected = errors.BatchError if not issubclass(failure, Exception) else failure
        given = pump().run(broken(engine))
        with pytest.raises(expected, match="broken") as caught:  # noqa: PT012 - it ends the loop
            async for result in given:
                told.append(result)
        assert sorted(told) == ["0", "1", "2"]
        assert engine.cancelled == []
        if expected is errors.BatchError:
            assert type(caught.value.__cause__) is failure

    run(main())


def test_a_batch_that_is_cancelled_while_it_reads_is_cancelled(run: Run) -> None:
    async def main() -> None:
        begun = asyncio.Event()

        async def waits() -> AsyncGenerator[Line]:
            begun.set()
            await asyncio.Event().wait()
            yield Line(Engine(), 0)

        running = asyncio.create_task(results(pump(), waits()))
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    run(main())


def test_what_is_kept_has_a_bound_and_the_one_used_longest_ago_goes() -> None:
    kept = LruResults[str](len, max_bytes=30)
    kept.put(b"one", "x" * 9)
    kept.put(b"two", "y" * 9)
    assert kept.get(b"one") is not None
    kept.put(b"six", "z" * 9)
    assert (kept.get(b"one"), kept.get(b"two")) == ("x" * 9, None)
    kept.put(b"big", "w" * 99)
    assert kept.get(b"big") is None
    assert kept.get(b"six") is not None


def test_a_pump_that_is_drained_finishes_what_is_in_flight_and_begins_nothing(run: Run) -> None:
    async def test() -> None:
        engine, given = Engine(), list[str]()
        draining = pump()
        async with aclosing(draining.run(several(lines(engine, 1000)))) as replies:
            async for reply in replies:
                given.append(reply)
                if len(given) == 6:
                    draining.drain()
        assert sorted(map(int, given)) == sorted(engine.is_started)
        assert engine.cancelled == []
        assert len(given) <= 6 + 4 + 4, "those that had ended, and those in flight"

    run(test())
