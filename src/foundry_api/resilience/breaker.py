"""The circuit breaker: it keeps calls away from a service that fails, until a probe finds it back.

Closed, it counts: when too many of the last calls failed or were slow, it opens. Open, it refuses
every call for a while. Then it is half-open: one caller, however many come, asks whether the
service is there, makes its call as a trial, and closes the breaker with it or opens it for longer.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, NoReturn

import msgspec

from foundry_api.resilience.backoff import Backoff
from foundry_api.types.errors import CircuitOpen, ConfigurationError, FoundryError
from foundry_api.types.events import (
    BreakerChanged,
    BreakerState,
    EventBus,
)
from foundry_api.types.serialization import Result
from foundry_api.types.values import as_float, as_int, format_value

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from foundry_api.types.events import Listener

__all__ = ["BreakerSettings", "BreakerStatistics", "CallPermit", "CircuitBreaker", "ResultWindow"]


MAX_TIMED_RESULTS = 10_000
"""A time window holds no more than this many, the last: its memory is bounded at any rate."""
LONGEST = 1e9
"""Seconds or calls; beyond it a breaker could as well be left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """When a breaker opens, and for how long.

    Attributes:
        failure_rate: Share of failed calls in the window that opens it.
        slow_rate: Share of slow calls in the window that opens it.
        slow_s: A call is slow if its first token took at least so many seconds.
        window_calls: The window is the last so many results.
        window_s: If given, the window is the results of the last so many seconds instead.
        minimum_calls: Fewer results than this never open it.
        open_s: Seconds that it stays open at first; they double each time a trial fails.
        open_cap_s: Upper bound of the seconds that it stays open. A probe of a local service costs
            next to nothing, so it is short.
    """

    failure_rate: float = 0.5
    slow_rate: float = 1.0
    slow_s: float = 60.0
    window_calls: int = 50
    window_s: float | None = None
    minimum_calls: int = 10
    open_s: float = 1.0
    open_cap_s: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what cannot work, with the name of the setting."""
        bounds = {"failure_rate": 1.0, "slow_rate": 1.0, "minimum_calls": self.most_results}
        for setting in fields(self):
            value, most = getattr(self, setting.name), bounds.get(setting.name, LONGEST)
            if value is setting.default is None:  # the time window
                continue
            is_count = setting.name in {"window_calls", "minimum_calls"}
            number = as_int(value) if is_count else as_float(value)
            if number is None or not 0 < number <= most:
                kind = "whole number" if is_count else "number"
                raise ConfigurationError(
                    f"the circuit breaker's {setting.name} is {format_value(value)}",
                    hint=f"Give a {kind} above 0, at most {most:,.0f}.",
                )
            object.__setattr__(self, setting.name, number)

    @property
    def most_results(self) -> int:
        """The number of results that the window can hold."""
        return self.window_calls if self.window_s is None else MAX_TIMED_RESULTS


@dataclass(frozen=True, slots=True)
class BreakerStatistics(Result):
    """A breaker at one moment.

    Attributes:
        state: Its state.
        calls: Results in the window, which takes them only while closed.
        failures: Failed calls among them.
        slow: Slow calls among them, answered or failed.
        failure_rate: Share of the failed ones; 0 without a result.
        slow_rate: Share of the slow ones; 0 without a result.
        opened: Times that it tripped in its life; a failed trial is no further one.
        rejected: Calls that it refused in its life.
        retry_after_s: Seconds until it lets a call through; 0 unless it is open.
    """

    state: BreakerState
    calls: int
    failures: int
    slow: int
    failure_rate: float
    slow_rate: float
    opened: int
    rejected: int
    retry_after_s: float


class ResultWindow:
    """The last results, and how many of them were bad."""

    def __init__(self, settings: BreakerSettings) -> None:
        self._most = settings.most_results
        self._span_s = math.inf if settings.window_s is None else settings.window_s
        self.results: deque[tuple[float, bool, bool]] = deque()
        self.failures = 0
        self.slow = 0

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        """Take the result of a call."""
        self.results.append((now, failed, slow))
        self.failures += failed
        self.slow += slow
        if len(self.results) > self._most or self._span_s != math.inf:
            self.forget(now)

    def forget(self, now: float) -> None:
        """Drop what is no longer within the window."""
        results, horizon = self.results, now - self._span_s
        while results and (len(results) > self._most or results[0][0] <= horizon):
            _, failed, slow = results.popleft()
            self.failures -= failed
            self.slow -= slow


DEFAULTS = BreakerSettings()

_Outcome = Literal["succeeded", "failed", "released"]
_CONSUMED = -1
"""No breaker's epoch: what a permit tells with it counts nowhere."""


class CallPermit(msgspec.Struct, eq=False):
    """A call's leave to go. Its holder must say how the call ended; what is said first counts.

    A trial whose end nobody tells would leave the breaker half-open for good.

    Attributes:
        epoch: The breaker's when it was given; another one once its end was told.
        is_probe: Whether the breaker waits for this call's result to close or to stay open.
    """

    _record: Callable[[int, _Outcome, float], None]
    epoch: int
    is_probe: bool = False

    def succeeded(self, duration_s: float) -> None:
        """The service answered; its first token took so many seconds."""
        self._record(self.epoch, "succeeded", duration_s)
        self.epoch = _CONSUMED

    def failed(self, duration_s: float) -> None:
        """The service failed after so many seconds."""
        self._record(self.epoch, "failed", duration_s)
        self.epoch = _CONSUMED

    def released(self) -> None:
        """The call says nothing of the service: the caller left, or it was the caller's mistake."""
        self._record(self.epoch, "released", 0.0)
        self.epoch = _CONSUMED


class CircuitBreaker:
    """Guards the calls to one service, on one event loop.

    Args:
        settings: When it opens, and for how long.
        clock: Seconds of a monotonic clock.
        uniform: Draws a number between two bounds.
        listener: Called with a `BreakerChanged` at every change of state.

    Attributes:
        service: The service's name in errors; its owner sets it.
    """

    def __init__(
        self,
        settings: BreakerSettings = DEFAULTS,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
        listener: Listener | None = None,
    ) -> None:
        self.service = ""
        self._settings = settings
        self._clock = clock
        # Many clients must not come back together, nor any of them at once.
        self._backoff = Backoff(
            settings.open_s, settings.open_cap_s, lambda _, bound_s: uniform(bound_s / 2, bound_s)
        )
        self._events = EventBus(*([listener] if listener else []))
        self._state: BreakerState = "closed"
        self._window = ResultWindow(settings)
        self._epoch = 0  # counts the changes of state: permits of before one do not count after it
        self._opens = 0  # in a row, without a trial that succeeded between them
        self._open_s = 0.0
        self._due = 0.0
        self._reason = ""
        self._opened = 0
        self._rejected = 0

    @property
    def state(self) -> BreakerState:
        """`open` until a caller comes to probe, however long its time is over."""
        return self._state

    @property
    def is_probe_due(self) -> bool:
        """Whether its open time is over, so that the next caller finds out how the service is."""
        return self._state == "open" and self._clock() >= self._due

    def current(self, permit: CallPermit) -> bool:
        """Whether a permit is still good, which it is until the state changes."""
        return permit.epoch == self._epoch

    def statistics(self) -> BreakerStatistics:
        """What it has counted so far."""
        now, window = self._clock(), self._window
        window.forget(now)
        calls = len(window.results)
        return BreakerStatistics(
            state=self._state,
            calls=calls,
            failures=window.failures,
            slow=window.slow,
            failure_rate=window.failures / calls if calls else 0.0,
            slow_rate=window.slow / calls if calls else 0.0,
            opened=self._opened,
            rejected=self._rejected,
            retry_after_s=max(0.0, self._due - now) if self._state == "open" else 0.0,
        )

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with a `BreakerChanged` at every change of state.

        The returned function ends that. A listener that fails is logged.
        """
        return self._events.subscribe(listener)

    def try_enter(self) -> CallPermit | None:
        """A permit if the breaker is closed."""
        return CallPermit(self._record, self._epoch) if self._state == "closed" else None

    def check(self) -> None:
        """Refuse a call that `enter` would refuse now.

        Raises:
            CircuitOpen: The breaker is open, or another call is on trial.
        """
        left_s = self._due - self._clock()
        if self._state == "half-open":
            self._reject("one call is finding out whether the service is back", self._open_s)
        elif self._state == "open" and left_s > 0:
            self._reject(f"it lets one through again in {max(left_s, 0.1):.1f} s", left_s)

    async def enter(self, probe: Callable[[], Awaitable[None]]) -> CallPermit:
        """A permit; the one for the trial comes after a look at the service.

        Args:
            probe: Asks the service whether it is there.

        Raises:
            CircuitOpen: The breaker is open, or another call is on trial.
            FoundryError: What the probe raised; the breaker is open for longer.
        """
        permit = self.try_enter()
        if permit is not None:
            return permit
        self.check()
        self._transition("half-open")
        trial = CallPermit(self._record, self._epoch, is_probe=True)
        try:
            await probe()
        except FoundryError:
            trial.failed(0.0)
            raise
        except BaseException:
            trial.released()
            raise
        return trial

    def end_trial(self) -> None:
        """Give up a trial whose call will never tell how it went: its event loop has ended."""
        if self._state == "half-open":
            self._end_probe("released")

    def reset(self) -> None:
        """Begin anew, closed, as for a service that was replaced by a new one."""
        self._window = ResultWindow(self._settings)
        self._opens = 0
        self._transition("closed")

    def _record(self, epoch: int, outcome: _Outcome, duration_s: float) -> None:
        if epoch != self._epoch:
            return
        if self._state == "half-open":
            self._end_probe(outcome)
        elif outcome != "released":
            slow = duration_s >= self._settings.slow_s
            window = self._window
            window.add(self._clock(), failed=outcome == "failed", slow=slow)
            if window.failures or window.slow:
                self._trip_if_unhealthy()

    def _end_probe(self, outcome: _Outcome) -> None:
        if outcome == "succeeded":
            self.reset()
        elif outcome == "failed":
            self._open()
        else:
            self._transition("open")  # its time is over already: the next caller may probe

    def _trip_if_unhealthy(self) -> None:
        window, settings = self._window, self._settings
        calls = len(window.results)
        if calls < settings.minimum_calls:
            return
        if window.failures / calls >= settings.failure_rate:
            self._trip(f"{window.failures} of the {self._recent_summary(calls)} failed")
        elif window.slow / calls >= settings.slow_rate:
            bound = f"{settings.slow_s:g} s or longer to their first token"
            self._trip(f"{window.slow} of the {self._recent_summary(calls)} took {bound}")

    def _recent_summary(self, calls: int) -> str:
        if self._settings.window_s is None:
            return f"last {calls} calls"
        return f"{calls} calls in the last {self._settings.window_s:g} s"

    def _trip(self, reason: str) -> None:
        self._reason = reason
        self._opened += 1
        self._open()

    def _open(self) -> None:
        self._opens += 1
        self._open_s = self._backoff.delay_s(self._opens)
        self._due = self._clock() + self._open_s
        self._transition("open", self._open_s)

    def _transition(self, new: BreakerState, retry_after_s: float = 0.0) -> None:
        old, self._state = self._state, new
        self._epoch += 1
        if old != new:
            self._events.emit(
                BreakerChanged(service=self.service, old=old, new=new, retry_after_s=retry_after_s)
            )

    def _reject(self, outlook: str, retry_after_s: float) -> NoReturn:
        self._rejected += 1
        raise CircuitOpen(
            f"the circuit breaker is {self._state}: {self._reason}; {outlook}",
            retry_after_s=retry_after_s,
            service=self.service,
        )
