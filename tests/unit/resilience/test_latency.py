"""Timeouts for `timeout="auto"`."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from foundry_api.resilience.timeouts import (
    CEILING_S,
    DEFAULT_S,
    FACTOR,
    FLOOR_S,
    MIN_SAMPLES,
    QUANTILE,
    WINDOW,
    Latencies,
    ModelLatency,
)

waits = st.lists(st.floats(0, 500), min_size=MIN_SAMPLES, max_size=2 * WINDOW)


def after(firsts: list[float], gap_s: float = 0.1) -> ModelLatency:
    latency = ModelLatency()
    for first_s in firsts:
        latency.record_success(first_s, gap_s)
    return latency


def test_the_default_applies_until_there_are_samples() -> None:
    assert after([]).bounds_s == (DEFAULT_S, DEFAULT_S)
    assert after([0.1] * (MIN_SAMPLES - 1)).bounds_s == (DEFAULT_S, DEFAULT_S)
    assert after([0.1] * MIN_SAMPLES).bounds_s == (FLOOR_S, FLOOR_S)


@given(waits)
def test_a_timeout_is_a_multiple_of_the_quantile(seen: list[float]) -> None:
    lately = sorted(seen[-WINDOW:])
    quantile = lately[math.ceil(QUANTILE * len(lately)) - 1]
    first_s, _ = after(seen).bounds_s
    assert first_s == min(max(FLOOR_S, FACTOR * quantile), CEILING_S)


def test_first_token_and_gaps_have_separate_timeouts() -> None:
    assert after([10.0] * MIN_SAMPLES, gap_s=1.0).bounds_s == (30.0, 3.0)


def test_a_timeout_is_longer_after_it_expired() -> None:
    """A model that became slower must not time out for ever."""
    latency = after([1.0] * MIN_SAMPLES)
    falls = 0
    while (bound_s := latency.bounds_s[0]) < CEILING_S:
        latency.record_timeout(bound_s, streaming=False)
        assert latency.bounds_s[0] > bound_s
        falls += 1
    assert falls < MIN_SAMPLES
    assert latency.bounds_s[1] == FLOOR_S


def test_a_gap_timeout_does_not_affect_the_first_token() -> None:
    latency = after([1.0] * MIN_SAMPLES)
    latency.record_timeout(50.0, streaming=True)
    assert latency.bounds_s == (3.0, 150.0)


def test_old_samples_are_dropped() -> None:
    assert after([100.0] * MIN_SAMPLES + [1.0] * WINDOW).bounds_s[0] == 3.0


def test_each_model_has_its_own_latency() -> None:
    latencies = Latencies()
    latencies.for_model("slow:1").record_timeout(60.0, streaming=False)
    assert latencies.for_model("slow:1") is latencies.for_model("slow:1")
    assert latencies.for_model("tiny:1").bounds_s == (DEFAULT_S, DEFAULT_S)
