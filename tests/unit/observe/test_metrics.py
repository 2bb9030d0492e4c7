"""Metrics of events."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.observe.metrics import MAX_SERIES, OVERFLOW_LABEL, Metrics
from foundry_api.types import errors
from foundry_api.types.events import (
    BreakerChanged,
    CacheHit,
    CacheMiss,
    CacheStored,
    CallEnded,
    Event,
    RetryScheduled,
)
from foundry_api.types.messages import AttemptRecord, Timings, Usage

if TYPE_CHECKING:
    from foundry_api.observe.snapshot import SeriesSnapshot

seconds = st.floats(0, 100)
models = st.sampled_from(["tiny:1", "big:2"])
services = st.sampled_from(["http://127.0.0.1:1", "http://127.0.0.1:2", None])
failures = st.sampled_from([errors.ServerError("x"), errors.ReadTimeout("x", limit_s=1)])
endings = st.builds(
    CallEnded,
    call=st.integers(1),
    outcome=st.sampled_from(["answered", "failed", "cancelled"]),
    model=models,
    service=services,
    attempts=st.integers(0, 4).map(lambda n: (AttemptRecord(0.1),) * n),
    timings=st.builds(Timings, st.none() | seconds, seconds, st.none() | seconds, seconds),
    usage=st.none() | st.builds(Usage, st.integers(0, 99), st.integers(0, 99)),
    error=st.none() | failures,
)
retries = st.builds(
    RetryScheduled,
    call=st.integers(1),
    attempt=st.integers(1),
    model=models,
    service=services,
    error=failures,
    delay_s=seconds,
)


def ended(model: str) -> CallEnded:
    return CallEnded(
        call=1, outcome="answered", model=model, service="x", attempts=(), timings=Timings(1, 2, 3)
    )


def count_events(events: list[Event]) -> dict[tuple[str, str], SeriesSnapshot]:
    metrics = Metrics()
    for event in events:
        metrics(event)
    return {(series.model, series.service): series for series in metrics.snapshot().series}


@given(st.lists(endings | retries, max_size=30))
def test_calls_are_counted_by_model_and_service(
    events: list[CallEnded | RetryScheduled],
) -> None:
    series = count_events(list(events))
    assert set(series) == {(event.model, event.service or "none") for event in events}
    for (model, service), one in series.items():
        own_events = [e for e in events if (e.model, e.service or "none") == (model, service)]
        calls = [event for event in own_events if isinstance(event, CallEnded)]
        usages = [call.usage for call in calls if call.usage]
        firsts = [call.timings.time_to_first_token_s for call in calls]
        rates = [call.timings.tokens_per_second for call in calls]
        outcomes = Counter(call.outcome for call in calls)
        assert (one.calls, one.retries) == (len(calls), len(own_events) - len(calls))
        assert one.answered == outcomes["answered"]
        assert one.failed == outcomes["failed"]
        assert one.cancelled == outcomes["cancelled"]
        assert one.errors == Counter(type(call.error).__name__ for call in calls if call.error)
        assert one.attempts == sum(len(call.attempts) for call in calls)
        assert one.prompt_tokens == sum(usage.prompt_tokens for usage in usages)
        assert one.completion_tokens == sum(usage.completion_tokens for usage in usages)
        assert one.duration_s.count == one.queue_s.count == len(calls)
        assert one.time_to_first_token_s.count == sum(first is not None for first in firsts)
        assert one.tokens_per_second.count == sum(rate is not None for rate in rates)


def test_number_of_series_is_bounded() -> None:
    """A program that calls with ever new model names must not fill the memory."""
    series = count_events([ended(f"model-{number}") for number in range(MAX_SERIES + 50)])
    assert len(series) == MAX_SERIES + 1
    assert series[OVERFLOW_LABEL, OVERFLOW_LABEL].answered == 50


def test_snapshot_has_the_current_state_of_breakers() -> None:
    metrics = Metrics()
    metrics(BreakerChanged(service="x", old="closed", new="open"))
    metrics(BreakerChanged(service="y", old="closed", new="open"))
    metrics(BreakerChanged(service="x", old="open", new="half-open"))
    assert metrics.snapshot().breakers == {"x": "half-open", "y": "open"}


def test_snapshot_does_not_change() -> None:
    metrics = Metrics()
    metrics(ended("tiny:1"))
    before = metrics.snapshot()
    metrics(ended("tiny:1"))
    assert before.series[0].answered == 1
    assert metrics.snapshot().series[0].answered == 2


def test_cached_answers_are_counted_without_tokens() -> None:
    names = {"model": "a", "service": "x"}
    again = msgspec.structs.replace(ended("a"), usage=Usage(3, 5, 8), cached=True)
    events: list[Event] = [
        CacheMiss(**names),
        msgspec.structs.replace(ended("a"), usage=Usage(3, 5, 8)),
        CacheStored(**names, bytes=9),
        CacheHit(call=2, source="cache", **names),
        again,
        CacheHit(call=3, source="flight", **names),
        again,
    ]
    one = count_events(events)["a", "x"]
    assert (one.answered, one.cached, one.shared) == (3, 1, 1)
    assert (one.cache_misses, one.cache_stores) == (1, 1)
    assert (one.prompt_tokens, one.completion_tokens) == (3, 5)
