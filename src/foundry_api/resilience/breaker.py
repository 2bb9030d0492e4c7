"""The circuit breaker: it rejects calls to a failing service until a trial call succeeds.

A closed breaker opens when too many recent calls failed or were slow. An open one rejects every
call for a while. Then exactly one caller probes the service and makes its call as the trial, while
the breaker is half-open: success closes it, failure opens it for longer.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, NoReturn

import msgspec

from foundry_api.resilience.backoff import Backoff
from foundry_api.types.errors import CircuitOpen, ConfigurationError, FoundryError
from foundry_api.types.events import BreakerChanged, BreakerState, EventBus
from foundry_api.types.serialization import Result
from foundry_api.types.values import as_float, as_int, format_value

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from foundry_api.types.events import Listener

__all__ = ["BreakerSettings", "BreakerStatistics", "CallPermit", "CircuitBreaker", "ResultWindow"]

# A time window stores at most this many results, so that its memory is bounded at any call rate.
MAX_TIMED_RESULTS = 10_000
# In seconds or calls. With a larger value the breaker would never open or never close.
MAX_SETTING = 1e9

_Outcome = Literal["succeeded", "failed", "released"]
# The epoch of a permit that has reported its outcome. No breaker ever has it.
_CONSUMED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """When a circuit breaker opens, and for how long.

    Attributes:
        failure_rate: Share of failed calls in the window that opens the breaker, above 0 to 1.
        slow_rate: Share of slow calls in the window that opens the breaker, above 0 to 1.
        slow_s: A call is slow if its first token takes at least this many seconds.
        window_calls: Number of recent results in the window.
        window_s: If set, the window is the results of this many seconds instead.
        minimum_calls: With fewer results in the window, the breaker never opens.
        open_s: Seconds that the breaker stays open at first; doubles with each failed trial.
        open_cap_s: Maximum seconds that the breaker stays open. The default is short because a
            probe of a local service costs next to nothing.
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
        """Validate each setting and convert it to int or float."""
        limits = {"failure_rate": 1.0, "slow_rate": 1.0, "minimum_calls": self.most_results}
        for setting in fields(self):
            value, limit = getattr(self, setting.name), limits.get(setting.name, MAX_SETTING)
            if value is setting.default is None:  # window_s
                continue
            is_count = setting.name in {"window_calls", "minimum_calls"}
            number = as_int(value) if is_count else as_float(value)
            if number is None or not 0 < number <= limit:
                kind = "whole number" if is_count else "number"
                raise ConfigurationError(
                    f"the circuit breaker's {setting.name} is {format_value(value)}",
                    hint=f"Give a {kind} above 0, at most {limit:,.0f}.",
                )
            object.__setattr__(self, setting.name, number)

    @property
    def most_results(self) -> int:
        """The maximum number of results in the window."""
        return self.window_calls if self.window_s is None else MAX_TIMED_RESULTS


@dataclass(frozen=True, slots=True)
class BreakerStatistics(Result):
    """A snapshot of a circuit breaker.

    Attributes:
        state: `closed`, `open` or `half-open`.
        calls: Results in the window. Results are added only while the breaker is closed.
        failures: Failed calls in the window.
        slow: Slow calls in the window, successful or failed.
        failure_rate: Share of failed calls; 0 for an empty window.
        slow_rate: Share of slow calls; 0 for an empty window.
        opened: How often the breaker tripped in its lifetime, not counting failed trials.
        rejected: Calls rejected in its lifetime.
        retry_after_s: Seconds until the breaker allows a trial call; 0 unless it is open.
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
    """The recent results, with counts of the failed and the slow ones."""

    def __init__(self, settings: BreakerSettings) -> None:
        self._max_results = settings.most_results
        self._span_s = settings.window_s
        self.results: deque[tuple[float, bool, bool]] = deque()
        self.failures = 0
        self.slow = 0

    def add(self, at: float, *, failed: bool, slow: bool) -> None:
        # Every call passes here.
        if len(self.results) == self._max_results:
            self._remove_oldest()
        self.results.append((at, failed, slow))
        if failed or slow:
            self.failures += failed
            self.slow += slow
        if self._span_s is not None:
            self.prune(at)

    def prune(self, at: float) -> None:
        """Remove the results that have left the window."""
        if self._span_s is not None:
            while self.results and self.results[0][0] <= at - self._span_s:
                self._remove_oldest()

    def _remove_oldest(self) -> None:
        _, failed, slow = self.results.popleft()
        if failed or slow:
            self.failures -= failed
            self.slow -= slow


class CallPermit(msgspec.Struct, eq=False):
    """Permission for one call. Its holder must report the outcome; the first report counts.

    Attributes:
        epoch: The breaker's epoch when the permit was issued; changes once it is used.
        is_probe: Whether this call is the trial of a half-open breaker.
    """

    # A trial without a report would leave the breaker half-open for good.
    _record: Callable[[int, _Outcome, float], None]
    epoch: int
    is_probe: bool = False

    def record_success(self, duration_s: float) -> None:
        """Report an answer whose first token took `duration_s`."""
        self._record(self.epoch, "succeeded", duration_s)
        self.epoch = _CONSUMED

    def record_failure(self, duration_s: float) -> None:
        """Report a failure of the service after `duration_s`."""
        self._record(self.epoch, "failed", duration_s)
        self.epoch = _CONSUMED

    def release(self) -> None:
        """Report that the call says nothing about the service: cancelled, or an invalid request."""
        self._record(self.epoch, "released", 0.0)
        self.epoch = _CONSUMED


DEFAULTS = BreakerSettings()


class CircuitBreaker:
    """Guards the calls to one service, on one event loop.

    Attributes:
        service: The service's name in errors; set by the owner.
    """

    def __init__(
        self,
        settings: BreakerSettings = DEFAULTS,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
        listener: Listener | None = None,
    ) -> None:
        self.service = ""
        self._settings = settings
        self._monotonic = monotonic
        # Random, so that many clients do not return at the same moment; at least half of the
        # bound, so that none returns at once.
        self._backoff = Backoff(
            settings.open_s, settings.open_cap_s, lambda _, bound_s: uniform(bound_s / 2, bound_s)
        )
        self._events = EventBus(*([listener] if listener else []))
        self._state: BreakerState = "closed"
        self._window = ResultWindow(settings)
        self._epoch = 0  # incremented with each state change, which invalidates older permits
        self._consecutive_opens = 0
        self._open_s = 0.0
        self._due_at = 0.0
        self._reason = ""
        self._opened = 0
        self._rejected = 0

    @property
    def state(self) -> BreakerState:
        """The state; `open` until a caller probes, even after the open time has passed."""
        return self._state

    @property
    def is_probe_due(self) -> bool:
        """Whether the open time has passed, so that the next caller probes the service."""
        return self._state == "open" and self._monotonic() >= self._due_at

    def is_current(self, permit: CallPermit) -> bool:
        """Whether the state has not changed since the permit was issued."""
        return permit.epoch == self._epoch

    def statistics(self) -> BreakerStatistics:
        """Return a snapshot of the breaker."""
        now, window = self._monotonic(), self._window
        window.prune(now)
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
            retry_after_s=max(0.0, self._due_at - now) if self._state == "open" else 0.0,
        )

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with a `BreakerChanged` at each state change; return the unsubscriber.

        A failing listener is logged.
        """
        return self._events.subscribe(listener)

    def try_enter(self) -> CallPermit | None:
        """Return a permit if the breaker is closed."""
        return CallPermit(self._record, self._epoch) if self._state == "closed" else None

    def check(self) -> None:
        """Raise CircuitOpen if `enter` would raise it now."""
        remaining_s = self._due_at - self._monotonic()
        if self._state == "half-open":
            self._reject("one call is finding out whether the service is back", self._open_s)
        elif self._state == "open" and remaining_s > 0:
            self._reject(f"it lets one through again in {max(remaining_s, 0.1):.1f} s", remaining_s)

    async def enter(self, probe: Callable[[], Awaitable[None]]) -> CallPermit:
        """Return a permit, or raise CircuitOpen. Before a trial, probe the service.

        A FoundryError of the probe is raised, after the breaker opened for longer.
        """
        permit = self.try_enter()
        if permit is not None:
            return permit
        self.check()
        # No await between check() and here: of many callers, only one gets the trial.
        self._transition("half-open")
        trial = CallPermit(self._record, self._epoch, is_probe=True)
        try:
            await probe()
        except FoundryError:
            trial.record_failure(0.0)
            raise
        except BaseException:
            trial.release()
            raise
        return trial

    def end_trial(self) -> None:
        """End a trial that will never report, because its event loop has ended."""
        if self._state == "half-open":
            self._end_probe("released")

    def reset(self) -> None:
        """Close and clear the breaker, as for a restarted service."""
        self._window = ResultWindow(self._settings)
        self._consecutive_opens = 0
        self._transition("closed")

    def _record(self, epoch: int, outcome: _Outcome, duration_s: float) -> None:
        if epoch != self._epoch:
            return
        if self._state == "half-open":
            self._end_probe(outcome)
        elif outcome != "released":
            slow = duration_s >= self._settings.slow_s
            window = self._window
            window.add(self._monotonic(), failed=outcome == "failed", slow=slow)
            if window.failures or window.slow:
                self._trip_if_unhealthy()

    def _end_probe(self, outcome: _Outcome) -> None:
        if outcome == "succeeded":
            self.reset()
        elif outcome == "failed":
            self._open()
        else:
            self._transition("open")  # the open time has passed, so the next caller may probe

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
        self._consecutive_opens += 1
        self._open_s = self._backoff.delay_s(self._consecutive_opens)
        self._due_at = self._monotonic() + self._open_s
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
