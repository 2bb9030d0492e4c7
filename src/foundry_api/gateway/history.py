"""The recent past of the gateway for the plots of its page, bounded.

A point is made of each second, of each 20 s and of each 10 min; points of these are kept for 15
minutes, 6 hours and 7 days. Prometheus keeps what `/metrics` has for longer.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from foundry_api.observe.histogram import SECONDS, Histogram

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["WINDOWS", "Gauges", "History", "Point"]

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
# By name: seconds of a point, and of all points.
WINDOWS = {
    "15m": (1, 15 * MINUTE_S),
    "6h": (20, 6 * HOUR_S),
    "7d": (10 * MINUTE_S, 7 * DAY_S),
}


class Point(msgspec.Struct, frozen=True, array_like=True):
    """What happened in a step of time.

    Attributes:
        time: Its end, in seconds since the epoch.
        requests: Requests to routes of models that ended, per second.
        errors: Those of them that failed, per second.
        tokens: Tokens that were generated, per second.
        first_token_p50_s: Median time to the first token of streams; None without streams.
        first_token_p95_s: The 95th percentile of it.
        running: Calls that had a slot, at the end.
        waiting: Calls that waited for one, at the end.
        memory_bytes: Memory of the engine, at the end; None if it is not known.
    """

    time: float
    requests: float
    errors: float
    tokens: float
    first_token_p50_s: float | None
    first_token_p95_s: float | None
    running: int
    waiting: int
    memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """What the gateway knows at one moment; see `Point`. `tokens` are all since its start."""

    tokens: int
    running: int
    waiting: int
    memory_bytes: int | None


class _Counts:
    """What has happened since a point was made."""

    __slots__ = ("errors", "first_token_s", "requests", "seconds", "tokens")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.requests = self.errors = self.tokens = 0
        self.first_token_s = Histogram(SECONDS)

    def make_point(self, now: float, gauges: Gauges) -> Point:
        first_token_s = self.first_token_s.snapshot()
        return Point(
            time=round(now, 3),
            requests=round(self.requests / self.seconds, 3),
            errors=round(self.errors / self.seconds, 3),
            tokens=round(self.tokens / self.seconds, 3),
            first_token_p50_s=first_token_s.quantile(0.5) if first_token_s.count else None,
            first_token_p95_s=first_token_s.quantile(0.95) if first_token_s.count else None,
            running=gauges.running,
            waiting=gauges.waiting,
            memory_bytes=gauges.memory_bytes,
        )


class _Window:
    """The points of a window of time, and the counts of the next one."""

    __slots__ = ("counts", "length_s", "points", "step_s")

    def __init__(self, step_s: int, length_s: int) -> None:
        self.step_s = step_s
        self.length_s = length_s
        self.points: deque[Point] = deque(maxlen=length_s // step_s)
        self.counts = _Counts()


class History:
    """Counts what ends, and makes points of it."""

    def __init__(self) -> None:
        self._windows = {name: _Window(*lengths) for name, lengths in WINDOWS.items()}
        # Since the last call of `advance`, so that counting costs little.
        self._requests = self._errors = 0
        self._first_token_s: list[float] = []
        self._tokens = 0

    def count_request(self, *, has_failed: bool) -> None:
        """Count a request to a route of models that has ended."""
        self._requests += 1
        self._errors += has_failed

    def add_first_token(self, seconds: float) -> None:
        """Count the time to the first token of a stream."""
        self._first_token_s.append(seconds)

    def advance(self, elapsed_s: float, now: float, gauges: Gauges) -> dict[str, Point]:
        """End a second or so; return the points that it completes, by the name of their window."""
        # Where an estimate was replaced by the count of the engine, the sum may be smaller.
        tokens = max(0, gauges.tokens - self._tokens)
        self._tokens = max(self._tokens, gauges.tokens)
        completed: dict[str, Point] = {}
        for name, window in self._windows.items():
            counts = window.counts
            counts.seconds += elapsed_s
            counts.requests += self._requests
            counts.errors += self._errors
            counts.tokens += tokens
            counts.first_token_s.add_all(self._first_token_s)
            # Timers are a little late; half a second decides between two steps.
            if counts.seconds >= window.step_s - 0.5:
                completed[name] = counts.make_point(now, gauges)
                window.points.append(completed[name])
                # After a time in which no gateway ran, fewer points reach as far back.
                while window.points[0].time < now - window.length_s:
                    window.points.popleft()
                window.counts = _Counts()
        self._requests = self._errors = 0
        self._first_token_s = []
        return completed

    def get_points(self) -> dict[str, tuple[Point, ...]]:
        """Return the points of each window, the oldest first."""
        return {name: tuple(window.points) for name, window in self._windows.items()}

    def restore(self, points: Mapping[str, Sequence[Point]], now: float) -> None:
        """Continue with the points of an earlier gateway, as far as they are not too old."""
        for name, window in self._windows.items():
            earliest = now - window.length_s
            window.points.extend(
                point for point in points.get(name, ()) if earliest <= point.time <= now
            )
