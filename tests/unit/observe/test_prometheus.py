"""Metrics in Prometheus' text format, parsed with Prometheus' own parser."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from foundry_api.observe.metrics import Metrics
from foundry_api.observe.prometheus import CONTENT_TYPE
from foundry_api.types import errors
from foundry_api.types.events import (
    BreakerChanged,
    CacheHit,
    CacheMiss,
    CacheSource,
    CacheStored,
    CallEnded,
    RetryScheduled,
)
from foundry_api.types.messages import AttemptRecord, Timings, Usage

if TYPE_CHECKING:
    from prometheus_client import Metric

SERVICE = "http://127.0.0.1:5273"


def counted(model: str = "tiny:1") -> Metrics:
    """Metrics of two calls, one of which failed after a retry."""
    metrics = Metrics()
    answered = CallEnded(
        call=1,
        outcome="answered",
        model=model,
        service=SERVICE,
        attempts=(AttemptRecord(0.3),),
        timings=Timings(0.2, 0.3, 50.0),
        usage=Usage(7, 5, 12),
    )
    error = errors.ServerError("x")
    metrics(answered)
    metrics(
        RetryScheduled(call=2, attempt=1, model=model, service=SERVICE, error=error, delay_s=0.1)
    )
    failed = CallEnded(
        call=2,
        outcome="failed",
        model=model,
        service=SERVICE,
        attempts=(AttemptRecord(0.3, error),) * 2,
        timings=Timings(None, 0.7, None, 0.05),
        error=error,
    )
    metrics(failed)
    metrics(BreakerChanged(service=SERVICE, old="closed", new="open"))
    return metrics


def parsed(metrics: Metrics) -> dict[str, Metric]:
    text = metrics.to_prometheus()
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(family: Metric) -> dict[tuple[tuple[str, str], ...], float]:
    shared = ("model", "service")
    return {
        tuple(pair for pair in sample.labels.items() if pair[0] not in shared): sample.value
        for sample in family.samples
    }


def test_counters() -> None:
    families = parsed(counted())
    assert values(families["foundry_calls"]) == {
        (("outcome", "answered"),): 1,
        (("outcome", "failed"),): 1,
        (("outcome", "cancelled"),): 0,
    }
    assert values(families["foundry_call_errors"]) == {(("type", "ServerError"),): 1}
    assert values(families["foundry_attempts"]) == {(): 3}
    assert values(families["foundry_retries"]) == {(): 1}
    tokens = {(("kind", "prompt"),): 7, (("kind", "completion"),): 5}
    assert values(families["foundry_tokens"]) == tokens
    states = {(("state", name),): float(name == "open") for name in ("closed", "open", "half-open")}
    assert values(families["foundry_breaker_state"]) == states


def test_samples_have_the_model_and_the_service() -> None:
    families = parsed(counted())
    del families["foundry_breaker_state"]
    for family in families.values():
        for sample in family.samples:
            assert (sample.labels["model"], sample.labels["service"]) == ("tiny:1", SERVICE)


def test_histogram_buckets_are_cumulative() -> None:
    histograms = [family for family in parsed(counted()).values() if family.type == "histogram"]
    assert len(histograms) == 4
    for family in histograms:
        by_suffix = {
            suffix: [s for s in family.samples if s.name.endswith(suffix)] for suffix in SUFFIXES
        }
        buckets = by_suffix["_bucket"]
        assert all(low.value <= high.value for low, high in pairwise(buckets))
        assert buckets[-1].labels["le"] == "+Inf"
        assert buckets[-1].value == by_suffix["_count"][0].value


SUFFIXES = ("_bucket", "_sum", "_count")


def test_histogram_sum_and_count() -> None:
    durations = parsed(counted())["foundry_call_duration_seconds"]
    shown = {s.name: s.value for s in durations.samples if not s.name.endswith("_bucket")}
    assert shown == {
        "foundry_call_duration_seconds_sum": 1.0,
        "foundry_call_duration_seconds_count": 2,
    }


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x85\u2028\u2029")))
def test_model_names_are_escaped(name: str) -> None:
    calls = parsed(counted(name))["foundry_calls"]
    assert {sample.labels["model"] for sample in calls.samples} == {name}


def test_no_samples_without_calls() -> None:
    assert all(not family.samples for family in parsed(Metrics()).values())


def test_content_type() -> None:
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")


def test_cache_counters() -> None:
    metrics = counted()
    assert parsed(metrics)["foundry_cache_lookups"].samples == []
    names = {"model": "tiny:1", "service": SERVICE}
    metrics(CacheMiss(**names))
    metrics(CacheStored(**names, bytes=9))
    sources: tuple[CacheSource, ...] = ("cache", "cache", "flight")
    for source in sources:
        metrics(CacheHit(call=1, source=source, **names))
    families = parsed(metrics)
    assert values(families["foundry_cache_lookups"]) == {
        (("result", "hit"),): 2,
        (("result", "shared"),): 1,
        (("result", "miss"),): 1,
    }
    assert values(families["foundry_cache_stores"]) == {(): 1}
