"""The limiter, also against a model."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass, field

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from foundry_api.resilience.limiter import Limiter, LimiterSettings, LimiterStatistics, Slot
from foundry_api.types.errors import ConfigurationError, QueueFull

WINDOWS_TO_FIRST_TRIAL = 2


@dataclass
class Line:
    """A limiter with callers and a controlled clock."""

    settings: LimiterSettings
    now: float = 0.0
    turns: list[int] = field(default_factory=list)
    slots: dict[int, Slot] = field(default_factory=dict)
    tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.limiter = Limiter(self.settings, monotonic=lambda: self.now)
        self.limiter.service = "http://a"

    async def come(self, caller: int, *, again: bool = False) -> None:
        """Start a caller."""
        self.tasks[caller] = asyncio.create_task(self._acquire(caller, again=again))
        await settle()

    async def leave(self, caller: int) -> None:
        """Cancel a caller."""
        self.tasks.pop(caller).cancel()
        await settle()

    async def done(self, caller: int) -> None:
        """Release a caller's slot."""
        self.slots.pop(caller).release()
        await settle()

    async def end(self) -> None:
        """Cancel all callers."""
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    async def _acquire(self, caller: int, *, again: bool) -> None:
        self.slots[caller] = await self.limiter.acquire(requeued=again)
        self.turns.append(caller)

    @property
    def statistics(self) -> LimiterStatistics:
        """The limiter's statistics."""
        return self.limiter.statistics()


async def settle() -> None:
    """Run all tasks until they wait."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_the_queue_is_first_in_first_out() -> None:
    line = Line(LimiterSettings(concurrency=2))
    for caller in range(6):
        await line.come(caller)
    assert line.turns == [0, 1]
    for caller in range(4):
        await line.done(caller)
    assert line.turns == [0, 1, 2, 3, 4, 5]
    await line.end()


async def test_a_retried_call_goes_to_the_front() -> None:
    line = Line(LimiterSettings(concurrency=1))
    for caller in range(3):
        await line.come(caller)
    await line.come(9, again=True)
    await line.done(0)
    assert line.turns == [0, 9]
    await line.end()


async def test_no_call_overtakes_the_queue() -> None:
    line = Line(LimiterSettings(concurrency=1))
    await line.come(0)
    await line.come(1)
    line.slots.pop(0).release()
    assert line.limiter.try_acquire() is None
    await settle()
    assert line.turns == [0, 1]
    await line.end()


async def test_a_full_queue_rejects_and_names_the_service() -> None:
    line = Line(LimiterSettings(concurrency=1, queue=2))
    for caller in range(3):
        await line.come(caller)
    with pytest.raises(QueueFull, match="2 calls are already queued") as caught:
        await line.limiter.acquire()
    assert caught.value.service == "http://a"
    assert (line.statistics.queued, line.statistics.refused) == (2, 1)
    await line.end()


async def test_a_retried_call_is_never_rejected() -> None:
    line = Line(LimiterSettings(concurrency=1, queue=0))
    await line.come(0)
    await line.come(1, again=True)
    await line.done(0)
    assert line.turns == [0, 1]
    await line.end()


async def test_a_slot_has_the_queue_time() -> None:
    line = Line(LimiterSettings(concurrency=1))
    await line.come(0)
    await line.come(1)
    line.now = 2.5
    await line.done(0)
    assert (line.slots[1].queued_s, line.tasks[1].done()) == (2.5, True)
    await line.end()


async def test_a_caller_cancelled_with_a_slot_passes_it_on() -> None:
    line = Line(LimiterSettings(concurrency=1))
    for caller in range(3):
        await line.come(caller)
    line.slots.pop(0).release()  # caller 1 gets the slot, and is cancelled before it runs
    await line.leave(1)
    assert line.turns == [0, 2]
    await line.end()


async def test_a_slot_is_released_only_once() -> None:
    line = Line(LimiterSettings(concurrency=1))
    await line.come(0)
    line.slots[0].release()
    line.slots[0].release()
    line.slots[0].progress(5)
    assert line.statistics.in_flight == 0


def test_callers_of_an_ended_event_loop_are_dropped() -> None:
    """One client may be used in several calls of `asyncio.run`."""
    limiter = Limiter(LimiterSettings(concurrency=1))

    async def first() -> None:
        slot = limiter.try_acquire()
        waiting = asyncio.ensure_future(limiter.acquire())
        await settle()
        assert slot is not None
        waiting.cancel()
        slot.release()

    async def second() -> None:
        (await asyncio.wait_for(limiter.acquire(), 1)).release()

    asyncio.run(first())
    asyncio.run(second())
    assert limiter.load == 0


async def work(line: Line, rate: float, seconds: float) -> None:
    """Calls in flight receive tokens; the rate grows up to five calls."""
    for _ in range(int(seconds / 0.01)):
        line.now += 0.01
        together = min(line.statistics.in_flight, 5) * rate * 0.01
        next(iter(line.slots.values())).progress(round(together))


async def test_no_window_while_the_prompts_of_new_calls_are_read() -> None:
    line = Line(LimiterSettings(initial=2))
    for caller in range(20):
        await line.come(caller)
    first, second = line.slots.values()
    line.now = 10.0
    first.progress(1)
    second.progress(1)  # the window starts here
    for _ in range(WINDOWS_TO_FIRST_TRIAL):
        line.now += 0.5
        second.progress(200)
    assert line.statistics.tokens_per_second == pytest.approx(400, rel=0.01)
    assert line.statistics.limit == 4  # on trial: two more calls have started
    await settle()
    line.now = 20.0
    second.progress(200)  # no window, because the new calls have no token
    for slot in list(line.slots.values())[2:]:
        slot.progress(1)
    line.now = 20.5
    second.progress(200)
    assert line.statistics.limit == 2  # not better
    await line.end()


async def test_the_owner_of_another_queue_learns_of_new_slots() -> None:
    line = Line(LimiterSettings(initial=2))
    limits: list[int] = []
    line.limiter.on_raised = lambda: limits.append(line.limiter.limit)
    for caller in range(5):
        await line.come(caller)
    for slot in list(line.slots.values()):
        slot.progress(1)
    for _ in range(WINDOWS_TO_FIRST_TRIAL):
        line.now += 1.0
        line.slots[0].progress(100)
    assert limits == [4]
    await line.end()


async def test_without_a_queue_the_best_limit_known_is_in_use() -> None:
    """A trial needs a queue. Without one it must not hold calls back."""
    line = Line(LimiterSettings(initial=2))
    for caller in range(5):
        await line.come(caller)
    for slot in list(line.slots.values()):
        slot.progress(1)
    for _ in range(WINDOWS_TO_FIRST_TRIAL):
        line.now += 1.0
        line.slots[0].progress(100)
    assert line.statistics.limit == 4  # on trial
    for caller in range(5):
        await line.done(caller)
    assert line.statistics.limit == 2
    await line.end()


@pytest.mark.parametrize(("minimum", "maximum"), [(1, 1), (40, 50), (1, 256)])
def test_the_initial_limit_depends_on_the_cpus_and_is_in_range(minimum: int, maximum: int) -> None:
    limit = Limiter(LimiterSettings(minimum=minimum, maximum=maximum)).limit
    cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    assert limit == max(minimum, min(maximum, 16, 2 * cpus))


async def test_without_a_queue_the_limit_is_constant() -> None:
    """Then the callers determine the throughput, not the engine."""
    line = Line(LimiterSettings(initial=4))
    for caller in range(4):
        await line.come(caller)
    await work(line, 1000.0, 5.0)
    assert (line.statistics.limit, line.statistics.tokens_per_second) == (4, None)
    await line.end()


async def test_a_fixed_limit_is_constant() -> None:
    line = Line(LimiterSettings(concurrency=3))
    for caller in range(20):
        await line.come(caller)
    await work(line, 1000.0, 5.0)
    assert line.statistics.limit == 3
    await line.end()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("concurrency", 0),
        ("concurrency", True),
        ("concurrency", 1.5),
        ("minimum", 0),
        ("initial", 0),
        ("maximum", 0),
        ("queue", -1),
    ],
)
def test_an_invalid_setting_is_named(setting: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"limiter's {setting} is {value!r}"):
        LimiterSettings(**{setting: value})  # type: ignore[arg-type]


class Queue(RuleBasedStateMachine):
    """Compares the limiter with two lists: calls in flight and calls in the queue."""

    @initialize(fixed=st.integers(1, 3), queue=st.integers(0, 3))
    def begin(self, fixed: int, queue: int) -> None:
        self.runner = asyncio.Runner()
        self.line = self.runner.run(self._line(LimiterSettings(concurrency=fixed, queue=queue)))
        self.concurrency, self.capacity = fixed, queue
        self.inside: list[int] = []
        self.waiting: list[int] = []
        self.refused = 0
        self.callers = 0

    async def _line(self, settings: LimiterSettings) -> Line:
        return Line(settings)

    @rule(again=st.booleans())
    def come(self, *, again: bool) -> None:
        self.callers += 1
        self.runner.run(self.line.come(self.callers, again=again))
        if len(self.inside) < self.concurrency:
            self.inside.append(self.callers)
        elif again:
            self.waiting.insert(0, self.callers)
        elif len(self.waiting) < self.capacity:
            self.waiting.append(self.callers)
        else:
            self.refused += 1
            assert isinstance(self.line.tasks.pop(self.callers).exception(), QueueFull)

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        caller = data.draw(st.sampled_from(self.inside))
        self.runner.run(self.line.done(caller))
        self.inside.remove(caller)
        if self.waiting:
            self.inside.append(self.waiting.pop(0))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        caller = data.draw(st.sampled_from(self.waiting))
        self.runner.run(self.line.leave(caller))
        self.waiting.remove(caller)

    @invariant()
    def both_agree(self) -> None:
        assert set(self.line.slots) == set(self.inside)
        statistics = self.line.statistics
        assert statistics.in_flight == len(self.inside) <= self.concurrency
        assert statistics.queued == len(self.waiting)
        assert statistics.refused == self.refused

    def teardown(self) -> None:
        self.runner.run(self.line.end())
        self.runner.close()


Queue.TestCase.settings = hypothesis_settings(max_examples=40)
TestQueue = Queue.TestCase
