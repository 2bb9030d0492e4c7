"""The limiter: as many calls in flight at a service as gain throughput, the others in line."""

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


MIN_GAIN_UP = 0.075
"""Half as many calls again in flight have to bring 3 % more: every call pays with its latency."""

MIN_GAIN_DOWN = 0.05
"""A third less in flight may bring 2 % less, within what measuring can tell."""

CLEAR_GAIN = 1.25
CLEAR_LOSS = 0.85
"""Beyond these a single window decides."""

TRIAL_WINDOWS = 2
WIDEST_STEP = 1.5
MIN_STEP = 1.1
"""Each time both neighbours were worse, it looks half as far."""

MAX_REST = 64
"""Windows between two trials when nothing changes: below one window in thirty is a trial."""

CHANGED = 0.7
"""A rate so far from the usual one, up or down, means that the machine or the load is another."""

MEMORY = 0.7
"""Share of the past in the usual rate."""


class HillClimber:
    """Tries a neighbouring limit now and then, and stays there if that is better.

    Answers differ in length, so it does not look at how long calls take, only at tokens a second.
    After trials that brought nothing it rests longer each time.

    Args:
        minimum: Lowest limit.
        initial: Where to begin.
        maximum: Highest limit.

    Attributes:
        limit: The limit to use now: the best one known, or one on trial.
    """

    def __init__(self, minimum: int, initial: int, maximum: int) -> None:
        self._minimum = minimum
        self._maximum = maximum
        self._best = self.limit = initial
        self._usual: float | None = None
        self._seen: list[float] = []
        self._up = True
        self._in_vain = 0
        self._step = WIDEST_STEP
        self._rest = 1
        self._left = 1

    @property
    def steady_rate(self) -> float | None:
        """Tokens a second at the best limit; None until it was measured."""
        return self._usual

    def measured(self, rate: float) -> None:
        """Take the tokens a second of one window at the present limit."""
        if self.limit != self._best:
            self._seen.append(rate)
            self._evaluate_window()
        else:
            self._settle(rate)

    def _settle(self, rate: float) -> None:
        usual = self._usual or rate
        if not CHANGED <= rate / usual <= 1 / CHANGED:
            usual, self._rest, self._left, self._step = rate, 1, 1, WIDEST_STEP
        self._usual = MEMORY * usual + (1 - MEMORY) * rate
        self._left -= 1
        if self._left <= 0:
            self._begin_trial()

    def _begin_trial(self) -> None:
        self._seen = []
        self.limit = self._neighbour()
        if self.limit == self._best:
            self._fail()

    def _neighbour(self) -> int:
        if self._up:
            return min(self._maximum, math.ceil(self._best * self._step))
        return max(self._minimum, math.floor(self._best / self._step))

    def _evaluate_window(self) -> None:
        gain = sum(self._seen) / len(self._seen) / (self._usual or 1.0)
        if len(self._seen) < TRIAL_WINDOWS and CLEAR_LOSS < gain < CLEAR_GAIN:
            return
        if gain >= (self.limit / self._best) ** (MIN_GAIN_UP if self._up else MIN_GAIN_DOWN):
            self._best = self.limit
            self._usual = sum(self._seen) / len(self._seen)
            self._in_vain, self._rest, self._left = 0, 1, 1
        else:
            self._fail()

    def _fail(self) -> None:
        """Go back and look the other way next; once both were in vain, look nearer, and rest."""
        self.limit = self._best
        self._up = not self._up
        self._in_vain += 1
        if self._in_vain % 2 == 0:
            self._rest = min(MAX_REST, self._rest * 2)
            self._step = max(MIN_STEP, (1 + self._step) / 2)
        self._left = self._rest


WINDOW_S = 0.2
WINDOW_TOKENS = 32
TOKENS_PER_SLOT = 8
"""A window is long enough for the clock, and for the tokens to come from all the calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimiterSettings:
    """How many calls may be in flight at once, and how many may wait.

    Attributes:
        concurrency: Exactly so many; None finds the number with the most tokens a second.
        minimum: Lowest number to try.
        initial: Number to begin with.
        maximum: Highest number to try.
        queue: Calls that may wait for their turn; one more is refused with `QueueFull`.
    """

    concurrency: int | None = None
    minimum: int = 1
    initial: int = 2
    maximum: int = 256
    queue: int = 16_384

    def __post_init__(self) -> None:
        """Refuse what cannot work, with the name of the setting."""
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
    """A limiter at one moment.

    Attributes:
        limit: Calls that may be in flight now.
        in_flight: Calls that are.
        queued: Calls that wait for their turn.
        refused: Calls that it refused in its life because too many waited.
        tokens_per_second: Of the whole service at the best limit found; None until it was measured,
            which needs calls that wait.
    """

    limit: int
    in_flight: int
    queued: int
    refused: int
    tokens_per_second: float | None


class Moved(Exception):
    """A call need not wait here any longer: another service has a turn for it.

    Attributes:
        queued_s: Seconds that it waited.
    """

    def __init__(self, queued_s: float) -> None:
        super().__init__("another service is free")
        self.queued_s = queued_s


class Slot(msgspec.Struct, eq=False):
    """A call's turn.

    Attributes:
        queued_s: Seconds that the call waited for it.
        epoch: Of the limiter that gave it; after a reset it counts no longer.
    """

    _limiter: Limiter | None
    queued_s: float
    epoch: int

    def progress(self, tokens: int) -> None:
        """So many tokens came."""
        if self._limiter is not None:
            self._limiter.progress(tokens)

    def release(self) -> None:
        """The call is over; more than once does nothing."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            limiter.released(self.epoch)


class Limiter:
    """Gives out turns, first in, first out, on one event loop at a time.

    It judges the limit only while calls wait for their turn all along: without a queue the
    throughput is the callers', not the service's.

    Args:
        settings: How many.
        clock: Seconds of a monotonic clock.

    Attributes:
        service: The service's name in errors; its owner sets it.
        on_idle: Called when a turn is free and nobody waits for it; its owner sets it.
    """

    def __init__(
        self,
        settings: LimiterSettings = DEFAULTS,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.service = ""
        self._settings = settings
        self._clock = clock
        self._climb = HillClimber(settings.minimum, settings.initial, settings.maximum)
        self._limit = settings.concurrency or settings.initial
        self._epoch = 0
        self._in_flight = 0
        self.on_idle: Callable[[], None] | None = None
        self._queue: OrderedDict[asyncio.Future[bool], bool] = OrderedDict()
        """The turns that are waited for: given, or not because the call moves; which calls may."""
        self._refused = 0
        self._tokens = 0
        self._enough_tokens = 0
        self._window_began: float | None = None

    @property
    def load(self) -> int:
        """Calls in flight and calls that wait."""
        return self._in_flight + len(self._queue)

    @property
    def queued(self) -> int:
        """Calls that wait."""
        return len(self._queue)

    def move_one(self) -> None:
        """Send the call that waits longest to another service, of those that may go there."""
        for turn, may_move in self._queue.items():
            if may_move and not turn.done():
                del self._queue[turn]
                turn.set_result(False)
                return

    @property
    def limit(self) -> int:
        """How many calls may be in flight."""
        return self._limit

    def statistics(self) -> LimiterStatistics:
        """What it does now."""
        return LimiterStatistics(
            limit=self._limit,
            in_flight=self._in_flight,
            queued=len(self._queue),
            refused=self._refused,
            tokens_per_second=self._climb.steady_rate,
        )

    def try_acquire(self) -> Slot | None:
        """A turn, if one is free and nobody waits for it."""
        if self._queue or self._in_flight >= self._limit:
            return None
        self._in_flight += 1
        return Slot(self, 0.0, self._epoch)

    async def acquire(self, *, again: bool = False, may_move: bool = False) -> Slot:
        """A turn, after waiting for it in line.

        Args:
            again: The call had waited before: it goes to the front, and is never refused.
            may_move: Another service may serve it as well.

        Raises:
            Moved: Another service is free.
            QueueFull: Too many wait already.
        """
        self._drop_cancelled()
        if slot := self.try_acquire():
            return slot
        if not again and len(self._queue) >= self._settings.queue:
            self._refuse()
        return Slot(self, await self._wait(again=again, may_move=may_move), self._epoch)

    def progress(self, tokens: int) -> None:
        """So many tokens came for one of the calls in flight."""
        self._tokens += tokens
        if self._tokens >= self._enough_tokens and self._window_began is not None:
            self._evaluate_window(self._window_began)

    def reset(self) -> None:
        """Forget the turns that were given and the calls that wait: their event loop has ended."""
        self._epoch += 1
        self._in_flight = 0
        self._queue.clear()
        self._window_began = None

    def released(self, epoch: int) -> None:
        """One of the turns is over."""
        if epoch != self._epoch:
            return
        self._in_flight -= 1
        if self._queue:
            self._wake_next()
        if not self._queue:
            self._window_began = None
            if self.on_idle is not None and self._in_flight < self._limit:
                self.on_idle()
        elif self._window_began is None:
            self._begin_window()

    async def _wait(self, *, again: bool, may_move: bool) -> float:
        began, epoch = self._clock(), self._epoch
        turn = asyncio.get_running_loop().create_future()
        self._queue[turn] = may_move
        if again:
            self._queue.move_to_end(turn, last=False)
        if self._window_began is None:
            self._begin_window()
        try:
            has_turn = await turn
        except BaseException:
            self._leave(turn, epoch)
            raise
        queued_s = self._clock() - began
        if not has_turn:
            raise Moved(queued_s)
        return queued_s

    def _leave(self, turn: asyncio.Future[bool], epoch: int) -> None:
        if turn.done() and not turn.cancelled():
            if turn.result():
                self.released(epoch)  # the turn came in the same moment: it goes to the next one
        else:
            self._queue.pop(turn, None)

    def _wake_next(self) -> None:
        while self._queue and self._in_flight < self._limit:
            turn, _ = self._queue.popitem(last=False)
            if not turn.done():
                self._in_flight += 1
                turn.set_result(True)

    def _drop_cancelled(self) -> None:
        """Drop what waited on an event loop that has ended without cancelling it."""
        if self._queue and next(iter(self._queue)).get_loop() is not asyncio.get_running_loop():
            self._queue.clear()

    def _refuse(self) -> None:
        self._refused += 1
        raise QueueFull(
            f"{len(self._queue)} calls wait for their turn already", service=self.service
        )

    def _begin_window(self) -> None:
        # While more are in flight than should be, what comes is not the limit's own throughput.
        if self._settings.concurrency is None and self._in_flight == self._limit:
            self._window_began = self._clock()
            self._tokens = 0
            self._enough_tokens = WINDOW_TOKENS + TOKENS_PER_SLOT * self._limit

    def _evaluate_window(self, began: float) -> None:
        took_s = self._clock() - began
        if took_s < WINDOW_S:
            self._enough_tokens += WINDOW_TOKENS
            return
        self._climb.measured(self._tokens / took_s)
        self._limit = self._climb.limit
        self._window_began = None
        self._wake_next()
        if self._queue:
            self._begin_window()
