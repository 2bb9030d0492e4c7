"""The limiter: it adapts the number of concurrent calls to a service; other calls queue.

A hill climber finds the limit with the highest throughput.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from foundry_api.resilience.abandoned import AbandonedPrompts
from foundry_api.resilience.hill_climber import HillClimber
from foundry_api.types.errors import ConfigurationError, QueueFull
from foundry_api.types.serialization import Result
from foundry_api.types.values import as_int, format_value

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Limiter", "LimiterSettings", "LimiterStatistics", "Moved", "Slot"]

# A measuring window lasts at least this long, because operating systems run each process for some
# milliseconds at a time, and has at least this many tokens, so that they come from all calls in
# flight.
WINDOW_S = 0.1
WINDOW_TOKENS = 32
TOKENS_PER_SLOT = 8

# A CPU engine needs about two calls for each CPU: one works while the other one starts or ends.
INITIAL_PER_CPU = 2
MAX_INITIAL = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LimiterSettings:
    """How many calls may be in flight at once, and how many may queue.

    Attributes:
        concurrency: Fixed number of calls in flight; None finds the number with the highest
            throughput in tokens per second.
        minimum: Lowest number to try.
        initial: Number to start with; None for two for each CPU that this process may use, between
            2 and 16.
        maximum: Highest number to try.
        queue: Calls that may queue; further ones fail with `QueueFull`.
    """

    concurrency: int | None = None
    minimum: int = 1
    initial: int | None = None
    maximum: int = 256
    queue: int = 16_384

    def __post_init__(self) -> None:
        """Validate each setting and convert it to int."""
        if self.concurrency is not None:
            self._check("concurrency", 1)
        self._check("minimum", 1)
        if self.initial is not None:
            self._check("initial", self.minimum)
        self._check("maximum", self.initial or self.minimum)
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
        abandoned: Those in flight whose caller has left, but whose prompt the engine still reads.
        abandoned_s: Estimated seconds until it has read them; None if there are none, or if their
            duration is unknown.
    """

    limit: int
    in_flight: int
    queued: int
    refused: int
    tokens_per_second: float | None
    abandoned: int = 0
    abandoned_s: float | None = None


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
    _has_tokens: bool = False

    def progress(self, tokens: int) -> None:
        limiter = self._limiter
        if limiter is not None:
            if not self._has_tokens:
                self._has_tokens = True
                limiter.end_prompt(self.epoch)
            limiter.progress(tokens)

    def release(self) -> None:
        """Return the slot at the end of the call; further calls do nothing."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            if not self._has_tokens:
                limiter.end_prompt(self.epoch)
            limiter.release(self.epoch)


def get_default_initial(settings: LimiterSettings) -> int:
    """Return the number of calls to start with on this machine."""
    # An engine that this process starts inherits its CPUs.
    if sys.platform == "linux":
        cpus = len(os.sched_getaffinity(0))
    else:
        cpus = os.cpu_count() or 1
    initial = min(MAX_INITIAL, INITIAL_PER_CPU * cpus)
    return max(settings.minimum, min(settings.maximum, initial))


class Limiter:
    """Limits the calls in flight at one service, on one event loop at a time. The queue is FIFO.

    Attributes:
        service: The service's name in errors; set by the owner.
        limit: Maximum number of calls in flight.
        initial: The limit that it began with.
        acquired: How many slots were given out in its lifetime.
        on_idle: Called when a slot is free and the queue is empty; set by the owner.
        has_callers: Returns whether calls wait for a slot outside of the queue; set by the owner of
            another queue, such as that of a gateway.
        on_raised: Called when the limit was raised; set by the same owner.
        abandoned: The prompts that the engine reads for callers who have left. Each has a slot.
    """

    # It measures the throughput only while calls wait, here or outside. Without any, the throughput
    # is what the callers request, not what the service can do.

    def __init__(
        self,
        settings: LimiterSettings = DEFAULTS,
        *,
        monotonic: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.service = ""
        self._settings = settings
        self._monotonic = monotonic
        initial = settings.initial or get_default_initial(settings)
        self._climber = HillClimber(settings.minimum, initial, settings.maximum)
        self.limit = self.initial = settings.concurrency or initial
        self._epoch = 0
        self._in_flight = 0
        self._prompts = 0  # calls in flight that have no token yet
        self._prompts_to_end = 0  # before the next window
        self._is_saturated = False  # whether calls have waited ever since the last free slot
        self.acquired = 0
        self.on_idle: Callable[[], None] | None = None
        self.has_callers: Callable[[], bool] | None = None
        self.on_raised: Callable[[], None] | None = None
        self.abandoned = AbandonedPrompts(monotonic)
        # By future: what the call is for if it may move to another service, else None. The future's
        # result is True with a slot, False to move.
        self._queue: OrderedDict[asyncio.Future[bool], str | None] = OrderedDict()
        self._refused = 0
        self._window_started_at: float | None = None
        self._has_windows = False  # whether the climber got any since its last pause
        self._window_tokens = 0
        self._min_window_tokens = 0

    @property
    def load(self) -> int:
        """Calls in flight and in the queue."""
        return self._in_flight + len(self._queue)

    @property
    def queued(self) -> int:
        return len(self._queue)

    def statistics(self) -> LimiterStatistics:
        """Return a snapshot of the limiter."""
        return LimiterStatistics(
            limit=self.limit,
            in_flight=self._in_flight,
            queued=len(self._queue),
            refused=self._refused,
            tokens_per_second=self._climber.steady_rate,
            abandoned=len(self.abandoned),
            abandoned_s=self.abandoned.remaining_s,
        )

    def try_acquire(self) -> Slot | None:
        """Return a slot if one is free and the queue is empty."""
        if self._queue or self._in_flight >= self.limit:
            return None
        self._in_flight += 1
        self._prompts += 1
        self.acquired += 1
        return Slot(self, 0.0, self._epoch)

    async def acquire(self, *, requeued: bool = False, movable: str | None = None) -> Slot:
        """Return a slot, after waiting in the queue if necessary.

        A `requeued` call, which has waited before, goes to the front and is never rejected. One
        that is `movable`, which is the name of its model, gets `Moved` when another service is
        free.
        """
        # Calls of an event loop that ended without cancelling them never leave by themselves.
        if self._queue and next(iter(self._queue)).get_loop() is not asyncio.get_running_loop():
            self._queue.clear()
        if slot := self.try_acquire():
            return slot
        if not requeued and len(self._queue) >= self._settings.queue:
            self._refused += 1
            reason = f", and {self.abandoned.describe()}" if self.abandoned else ""
            raise QueueFull(
                f"{len(self._queue)} calls are already queued{reason}", service=self.service
            )
        return Slot(self, await self._wait(requeued=requeued, movable=movable), self._epoch)

    def move_waiter(self, may_take: Callable[[str], bool | None] | None = None) -> bool:
        """Send the oldest queued call that may move to another service; False if there is none.

        `may_take` says whether that service takes calls for a model.
        """
        for waiter, model in self._queue.items():
            if model is None or waiter.done():
                continue
            if may_take is None or may_take(model):
                del self._queue[waiter]
                waiter.set_result(False)
                return True
        return False

    def progress(self, tokens: int) -> None:
        """Count tokens received by the calls in flight."""
        self._window_tokens += tokens
        started_at = self._window_started_at
        if self._window_tokens >= self._min_window_tokens and started_at is not None:
            self._evaluate_window(started_at)

    def end_prompt(self, epoch: int) -> None:
        """Count a call that has its first token, or that ends without one."""
        if epoch != self._epoch:
            return
        self._prompts -= 1
        if self._prompts_to_end:
            self._prompts_to_end -= 1
            if not self._prompts_to_end and self._has_demand():
                self._start_window()

    def reset(self) -> None:
        """Drop all slots and queued calls, because their event loop has ended."""
        self._epoch += 1
        self._in_flight = self._prompts = self._prompts_to_end = 0
        self._is_saturated = False
        self._queue.clear()
        self.abandoned.clear()
        self._window_started_at = None

    def release(self, epoch: int) -> None:
        if epoch != self._epoch:
            return
        self._in_flight -= 1
        if self._queue:
            self._wake_next()
        if self._has_demand():
            if self._window_started_at is None:
                self._start_window()
        else:
            self._is_saturated = False
            if self._has_windows:  # most calls end without a queue before them
                self._has_windows = False
                self._climber.pause()
                self.limit = self._climber.limit
            self._window_started_at = None
        if not self._queue and self.on_idle is not None and self._in_flight < self.limit:
            self.on_idle()

    async def _wait(self, *, requeued: bool, movable: str | None) -> float:
        """Wait in the queue; return the seconds waited."""
        started_at, epoch = self._monotonic(), self._epoch
        waiter = asyncio.get_running_loop().create_future()
        self._queue[waiter] = movable
        if requeued:
            self._queue.move_to_end(waiter, last=False)
        if not self._is_saturated:
            self._is_saturated = True
            self._prompts_to_end = self._prompts
        if self._window_started_at is None:
            self._start_window()
        try:
            has_slot = await waiter
        except BaseException:
            if not waiter.done() or waiter.cancelled():
                self._queue.pop(waiter, None)
            elif waiter.result():
                # Cancelled just as it got a slot: pass the slot on.
                self.end_prompt(epoch)
                self.release(epoch)
            raise
        queued_s = self._monotonic() - started_at
        if not has_slot:
            raise Moved(queued_s)
        return queued_s

    def _has_demand(self) -> bool:
        return bool(self._queue) or (self.has_callers is not None and self.has_callers())

    def _wake_next(self) -> None:
        while self._queue and self._in_flight < self.limit:
            waiter, _ = self._queue.popitem(last=False)
            if not waiter.done():
                self._in_flight += 1
                self._prompts += 1
                self.acquired += 1
                waiter.set_result(True)

    def _start_window(self) -> None:
        # After the limit was lowered, more calls are in flight for a while: their throughput is
        # not that of the limit. Nor is it while a slot has an abandoned prompt, or while the engine
        # reads the prompts of several new calls after the limit was raised: these give no tokens.
        is_at_limit = self._in_flight == self.limit
        is_settled = is_at_limit and not self._prompts_to_end and not self.abandoned
        if self._settings.concurrency is None and is_settled:
            self._window_started_at = self._monotonic()
            self._window_tokens = 0
            self._min_window_tokens = WINDOW_TOKENS + TOKENS_PER_SLOT * self.limit

    def _evaluate_window(self, started_at: float) -> None:
        if self.abandoned:  # since the window began
            self._window_started_at = None
            return
        duration_s = self._monotonic() - started_at
        if duration_s < WINDOW_S:
            self._min_window_tokens += WINDOW_TOKENS
            return
        self._climber.add_window(self._window_tokens / duration_s)
        self._has_windows = True
        is_raised = self._climber.limit > self.limit
        self.limit = self._climber.limit
        self._window_started_at = None
        self._wake_next()
        if is_raised:
            if self.on_raised is not None:
                self.on_raised()
            self._prompts_to_end = self._prompts
        if self._has_demand():
            self._start_window()
