"""What a circuit breaker counts, and the settings by which it judges."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, fields

from foundry_api.errors import ConfigurationError
from foundry_api.events import BreakerState  # noqa: TC001 - msgspec reads it in BreakerStatistics
from foundry_api.results import Result
from foundry_api.values import as_float, as_int, shown

__all__ = ["BreakerSettings", "BreakerStatistics", "ResultWindow"]

MOST_TIMED_RESULTS = 10_000
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
                    f"the circuit breaker's {setting.name} is {shown(value)}",
                    hint=f"Give a {kind} above 0, at most {most:,.0f}.",
                )
            object.__setattr__(self, setting.name, number)

    @property
    def most_results(self) -> int:
        """The number of results that the window can hold."""
        return self.window_calls if self.window_s is None else MOST_TIMED_RESULTS


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
        self.forget(now)

    def forget(self, now: float) -> None:
        """Drop what is no longer within the window."""
        results, horizon = self.results, now - self._span_s
        while results and (len(results) > self._most or results[0][0] <= horizon):
            _, failed, slow = results.popleft()
            self.failures -= failed
            self.slow -= slow
