"""Count the calls of a client by model and service."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from foundry_api.observe.histogram import RATES, SECONDS, Histogram
from foundry_api.observe.snapshot import MetricsSnapshot, SeriesSnapshot
from foundry_api.types.events import (
    BreakerChanged,
    CacheHit,
    CacheMiss,
    CacheStored,
    CallEnded,
    RetryScheduled,
)

if TYPE_CHECKING:
    from foundry_api.types.events import BreakerState, Event
    from foundry_api.types.messages import Timings

__all__ = ["Metrics"]

# Pairs of model and service. More are counted together as "other", so that a program that calls
# with ever new names does not fill the memory.
MAX_SERIES = 200
OVERFLOW_LABEL = "other"
# Timings are added to the histograms in batches, which takes a third of the time.
MAX_PENDING = 64
NO_SERVICE = "none"


class _Series:
    """The counts of one pair of model and service."""

    def __init__(self) -> None:
        self.outcomes = defaultdict[str, int](int)  # faster than `Counter`, for every call
        self.errors: Counter[str] = Counter()
        self.attempts = 0
        self.retries = 0
        self.cache: Counter[str] = Counter()
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.queue_s = Histogram(SECONDS)
        self.first_token_s = Histogram(SECONDS)
        self.duration_s = Histogram(SECONDS)
        self.rate = Histogram(RATES)
        self._pending: deque[Timings] = deque()

    def record(self, event: CallEnded) -> None:
        self.outcomes[event.outcome] += 1
        self.attempts += len(event.attempts)
        self._pending.append(event.timings)
        if len(self._pending) >= MAX_PENDING:
            self._count_pending()
        if event.usage is not None and not event.cached:
            self.prompt_tokens += event.usage.prompt_tokens
            self.completion_tokens += event.usage.completion_tokens
        if event.error is not None:
            self.errors[type(event.error).__name__] += 1

    def _count_pending(self) -> None:
        pending = self._pending
        timings: list[Timings] = []
        with suppress(IndexError):  # another thread may take a snapshot at the same time
            while True:
                timings.append(pending.popleft())
        first_token_s = [item.time_to_first_token_s for item in timings]
        rates = [item.tokens_per_second for item in timings]
        self.queue_s.add_all([item.queued_s for item in timings])
        self.duration_s.add_all([item.total_s for item in timings])
        self.first_token_s.add_all([value for value in first_token_s if value is not None])
        self.rate.add_all([value for value in rates if value is not None])

    def snapshot(self, model: str, service: str) -> SeriesSnapshot:
        self._count_pending()
        return SeriesSnapshot(
            model=model,
            service=service,
            answered=self.outcomes["answered"],
            failed=self.outcomes["failed"],
            cancelled=self.outcomes["cancelled"],
            errors=dict(self.errors),
            attempts=self.attempts,
            retries=self.retries,
            cached=self.cache["cache"],
            shared=self.cache["flight"],
            cache_misses=self.cache["misses"],
            cache_stores=self.cache["stores"],
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            queue_s=self.queue_s.snapshot(),
            time_to_first_token_s=self.first_token_s.snapshot(),
            duration_s=self.duration_s.snapshot(),
            tokens_per_second=self.rate.snapshot(),
        )


class Metrics:
    """A listener that counts calls. It takes microseconds per call, and no time per chunk."""

    EVENT_TYPES: ClassVar[tuple[type[Event], ...]] = (
        CallEnded,
        RetryScheduled,
        BreakerChanged,
        CacheHit,
        CacheMiss,
        CacheStored,
    )
    """The types of events that are counted."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str], _Series] = {}
        self._breakers: dict[str, BreakerState] = {}

    def __call__(self, event: Event) -> None:
        """Count an event."""
        if isinstance(event, CallEnded):
            self._get_series(event.model, event.service).record(event)
        elif isinstance(event, RetryScheduled):
            self._get_series(event.model, event.service).retries += 1
        elif isinstance(event, BreakerChanged):
            self._breakers[event.service] = event.new
        elif isinstance(event, CacheHit):
            self._get_series(event.model, event.service).cache[event.source] += 1
        elif isinstance(event, CacheMiss):
            self._get_series(event.model, event.service).cache["misses"] += 1
        elif isinstance(event, CacheStored):
            self._get_series(event.model, event.service).cache["stores"] += 1

    def snapshot(self) -> MetricsSnapshot:
        """Return the metrics so far."""
        return MetricsSnapshot(
            series=tuple(series.snapshot(*names) for names, series in self._series.items()),
            breakers=dict(self._breakers),
        )

    def to_prometheus(self) -> str:
        """Return the metrics in Prometheus' text format.

        Serve it at a `/metrics` route, or write it to a file for the textfile collector.
        """
        # Few programs need it, and importing it takes longer than a call.
        from foundry_api.observe import prometheus  # noqa: PLC0415

        return prometheus.render(self.snapshot())

    def _get_series(self, model: str, service: str | None) -> _Series:
        names = (model, service or NO_SERVICE)
        series = self._series.get(names)
        if series is None:
            names = names if len(self._series) < MAX_SERIES else (OVERFLOW_LABEL, OVERFLOW_LABEL)
            series = self._series.setdefault(names, _Series())
        return series
