"""The limiter: it adapts the number of concurrent calls to a service; other calls queue.

A hill climber finds the limit with the highest throughput.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from foundry_api.types.errors import ConfigurationError, QueueFull
from foundry_api.types.serialization import Result
from foundry_api.types.values import as_int, format_value

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HillClimber", "Limiter", "LimiterSettings", "LimiterStatistics", "Moved", "Slot"]

# A measuring window lasts at least this long, so that the clock is precise enough, and has at least
# this many tokens, so that they come from all calls in flight.
WINDOW_S = 0.2
WINDOW_TOKENS = 32
TOKENS_PER_SLOT = 8

# With these exponents, 50 % more calls in flight must give 3 % more throughput, because they raise
# the latency of every call; a third fewer may give 2 % less, which is within the measuring error.
MIN_GAIN_UP = 0.075
MIN_GAIN_DOWN = 0.05
# Outside of these a single window decides; else TRIAL_WINDOWS do.
CLEAR_GAIN = 1.25
CLEAR_LOSS = 0.85
TRIAL_WINDOWS = 2

# The step to a neighbouring limit; halved each time both neighbours are worse.
MAX_STEP = 1.5
MIN_STEP = 1.1
# Windows between two trials while nothing changes: fewer than one window in 30 is a trial.
MAX_WINDOWS_BETWEEN_TRIALS = 64
# When the rate leaves the average by this factor, up or down, the machine or the load has changed.
CHANGE_FACTOR = 0.7
# Weight of the earlier windows in the average rate.
AVERAGE_WEIGHT = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class LimiterSettings:
    """How many calls may be in flight at once, and how many may queue.

    Attributes:
        concurrency: Fixed number of calls in flight; None finds the number with the highest
            throughput in tokens per second.
        minimum: Lowest number to try.
        initial: Number to start with.
        maximum: Highest number to try.
        queue: Calls that may queue; further ones fail with `QueueFull`.
    """

    concurrency: int | None = None
    minimum: int = 1
    initial: int = 2
    maximum: int = 256
    queue: int = 16_384

    def __post_init__(self) -> None:
        """Validate each setting and convert it to int."""
        if self.concurrency is not None:
            self._check("concurrency", 1)
        self._check("minimum", 1)
        self._check("initial", self.minimum)
        self._check("maximum", self.initial)
        self._check("queue", 0)

    def _check(self, name: str, least: int) -> None:
        value = getattr(self, name)
        number = as_int(value)
        if number is None or number < least:
            raise ConfigurationError(
                f"the limiter's {name} is {format_value(value)}",
                hint=f"Give a whole number, {least} or more.",
            )
        object.__setattr__(self, name, number)


DEFAULTS = LimiterSettings()


@dataclass(frozen=True, slots=True)
class LimiterStatistics(Result):
    """A snapshot of a limiter.

    Attributes:
        limit: Maximum number of calls in flight.
        in_flight: Calls in flight.
        queued: Calls in the queue.
        refused: Calls rejected in its lifetime because the queue was full.
        tokens_per_second: Throughput of the service at the best limit found; None until it was
            measured, which needs calls in the queue.
    """

    limit: int
    in_flight: int
    queued: int
    refused: int
    tokens_per_second: float | None


class HillClimber:
    """Tries a neighbouring limit now and then, and keeps it if the throughput is better.

    Attributes:
        limit: The limit to use: the best one known, or one on trial.
    """

    # It compares tokens per second, not the duration of calls, because answers differ in length.
    def __init__(self, minimum: int, initial: int, maximum: int) -> None:
        self._minimum = minimum
        self._maximum = maximum
        self._best = self.limit = initial
        self._average_rate: float | None = None
        self._trial_rates: list[float] = []
        self._is_upward = True
        self._failed_trials = 0
        self._step = MAX_STEP
        self._windows_between_trials = 1
        self._windows_to_trial = 1  # until the next trial

    @property
    def steady_rate(self) -> float | None:
        """Tokens per second at the best limit; None before the first measurement."""
        return self._average_rate

    def add_window(self, rate: float) -> None:
        """Take the tokens per second of one window at the present limit."""
        if self.limit != self._best:
            self._trial_rates.append(rate)
            self._evaluate_trial()
            return
        average = self._average_rate or rate
        if not CHANGE_FACTOR <= rate / average <= 1 / CHANGE_FACTOR:
            average, self._step = rate, MAX_STEP
            self._windows_between_trials = self._windows_to_trial = 1
        self._average_rate = AVERAGE_WEIGHT * average + (1 - AVERAGE_WEIGHT) * rate
        self._windows_to_trial -= 1
        if self._windows_to_trial <= 0:
            self._start_trial()

    def _start_trial(self) -> None:
        self._trial_rates = []
        if self._is_upward:
            self.limit = min(self._maximum, math.ceil(self._best * self._step))
        else:
            self.limit = max(self._minimum, math.floor(self._best / self._step))
        if self.limit == self._best:  # already at the minimum or the maximum
            self._fail_trial()

    def _evaluate_trial(self) -> None:
        trial_rate = sum(self._trial_rates) / len(self._trial_rates)
        gain = trial_rate / (self._average_rate or 1.0)
        if len(self._trial_rates) < TRIAL_WINDOWS and CLEAR_LOSS < gain < CLEAR_GAIN:
            return
        min_gain = MIN_GAIN_UP if self._is_upward else MIN_GAIN_DOWN
        if gain >= (self.limit / self._best) ** min_gain:
            self._best = self.limit
            self._average_rate = trial_rate
            self._failed_trials = 0
            self._windows_between_trials = self._windows_to_trial = 1
        else:
            self._fail_trial()

    def _fail_trial(self) -> None:
        """Return to the best limit; after a failure in both directions, wait longer."""
        self.limit = self._best
        self._is_upward = not self._is_upward
        self._failed_trials += 1
        if self._failed_trials % 2 == 0:
            self._windows_between_trials = min(
                MAX_WINDOWS_BETWEEN_TRIALS, self._windows_between_trials * 2
            )
            self._step = max(MIN_STEP, (1 + self._step) / 2)
        self._windows_to_trial = self._windows_between_trials


class Moved(Exception):
    """Tells a queued call to go to another service, which has a free slot.

    Attributes:
        queued_s: Seconds that the call was in the queue.
    """

    def __init__(self, queued_s: float) -> None:
        super().__init__("another service is free")
        self.queued_s = queued_s


class Slot(msgspec.Struct, eq=False):
    """Permission for one call in flight.

    Attributes:
        queued_s: Seconds that the call was in the queue.
        epoch: The limiter's epoch; the slot is void after a reset.
    """

    _limiter: Limiter | None
    queued_s: float
    epoch: int

    def progress(self, tokens: int) -> None:
        if self._limiter is not None:
            self._limiter.progress(tokens)

    def release(self) -> None:
        """Return the slot at the end of the call; further calls do nothing."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            limiter.release(self.epoch)


class Limiter:
    """Limits the calls in flight at one service, on one event loop at a time. The queue is FIFO.

    Attributes:
        service: The service's name in errors; set by the owner.
        on_idle: Called when a slot is free and the queue is empty; set by the owner.
    """

    # It measures the throughput only while calls are queued. Without a queue, the throughput is
    # what the callers request, not what the service can do.

    def __init__(
        self,
        settings: LimiterSettings = DEFAULTS,
        *,
        monotonic: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.service = ""
        self._settings = settings
        self._monotonic = monotonic
        self._climber = HillClimber(settings.minimum, settings.initial, settings.maximum)
        self._limit = settings.concurrency or settings.initial
        self._epoch = 0
        self._in_flight = 0
        self.on_idle: Callable[[], None] | None = None
        # By future: whether the call may move to another service. The future's result is True with
        # a slot, False to move.
        self._queue: OrderedDict[asyncio.Future[bool], bool] = OrderedDict()
        self._refused = 0
        self._window_started_at: float | None = None
        self._window_tokens = 0
        self._min_window_tokens = 0

    @property
    def load(self) -> int:
        """Calls in flight and in the queue."""
        return self._in_flight + len(self._queue)

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def limit(self) -> int:
        """Maximum number of calls in flight."""
        return self._limit

    def statistics(self) -> LimiterStatistics:
        """Return a snapshot of the limiter."""
        return LimiterStatistics(
            limit=self._limit,
            in_flight=self._in_flight,
            queued=len(self._queue),
            refused=self._refused,
            tokens_per_second=self._climber.steady_rate,
        )

    def try_acquire(self) -> Slot | None:
        """Return a slot if one is free and the queue is empty."""
        if self._queue or self._in_flight >= self._limit:
            return None
        self._in_flight += 1
        return Slot(self, 0.0, self._epoch)

    async def acquire(self, *, requeued: bool = False, may_move: bool = False) -> Slot:
        """Return a slot, after waiting in the queue if necessary.

        A `requeued` call, which has waited before, goes to the front and is never rejected. With
        `may_move`, `Moved` is raised when another service is free.
        """
        # Calls of an event loop that ended without cancelling them never leave by themselves.
        if self._queue and next(iter(self._queue)).get_loop() is not asyncio.get_running_loop():
            self._queue.clear()
        if slot := self.try_acquire():
            return slot
        if not requeued and len(self._queue) >= self._settings.queue:
            self._refused += 1
            raise QueueFull(f"{len(self._queue)} calls are already queued", service=self.service)
        return Slot(self, await self._wait(requeued=requeued, may_move=may_move), self._epoch)

    def move_waiter(self) -> None:
        """Send the oldest queued call that may move to another service."""
        for waiter, may_move in self._queue.items():
            if may_move and not waiter.done():
                del self._queue[waiter]
                waiter.set_result(False)
                return

    def progress(self, tokens: int) -> None:
        """Count tokens received by the calls in flight."""
        self._window_tokens += tokens
        started_at = self._window_started_at
        if self._window_tokens >= self._min_window_tokens and started_at is not None:
            self._evaluate_window(started_at)

    def reset(self) -> None:
        """Drop all slots and queued calls, because their event loop has ended."""
        self._epoch += 1
        self._in_flight = 0
        self._queue.clear()
        self._window_started_at = None

    def release(self, epoch: int) -> None:
        if epoch != self._epoch:
            return
        self._in_flight -= 1
        if self._queue:
            self._wake_next()
        if not self._queue:
            self._window_started_at = None
            if self.on_idle is not None and self._in_flight < self._limit:
                self.on_idle()
        elif self._window_started_at is None:
            self._start_window()

    async def _wait(self, *, requeued: bool, may_move: bool) -> float:
        """Wait in the queue; return the seconds waited."""
        started_at, epoch = self._monotonic(), self._epoch
        waiter = asyncio.get_running_loop().create_future()
        self._queue[waiter] = may_move
        if requeued:
            self._queue.move_to_end(waiter, last=False)
        if self._window_started_at is None:
            self._start_window()
        try:
            has_slot = await waiter
        except BaseException:
            if not waiter.done() or waiter.cancelled():
                self._queue.pop(waiter, None)
            elif waiter.result():
                self.release(epoch)  # cancelled just as it got a slot: pass the slot on
            raise
        queued_s = self._monotonic() - started_at
        if not has_slot:
            raise Moved(queued_s)
        return queued_s

    def _wake_next(self) -> None:
        while self._queue and self._in_flight < self._limit:
            waiter, _ = self._queue.popitem(last=False)
            if not waiter.done():
                self._in_flight += 1
                waiter.set_result(True)

    def _start_window(self) -> None:
        # After the limit was lowered, more calls are in flight for a while: their throughput is
        # not that of the limit.
        if self._settings.concurrency is None and self._in_flight == self._limit:
            self._window_started_at = self._monotonic()
            self._window_tokens = 0
            self._min_window_tokens = WINDOW_TOKENS + TOKENS_PER_SLOT * self._limit

    def _evaluate_window(self, started_at: float) -> None:
        duration_s = self._monotonic() - started_at
        if duration_s < WINDOW_S:
            self._min_window_tokens += WINDOW_TOKENS
            return
        self._climber.add_window(self._window_tokens / duration_s)
        self._limit = self._climber.limit
        self._window_started_at = None
        self._wake_next()
        if self._queue:
            self._start_window()
