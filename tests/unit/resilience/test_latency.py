"""What `timeout="auto"` means for a model, from what it was seen to do."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from foundry_api.resilience.latency import (
    CEILING_S,
    COLD_S,
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


def test_the_default_holds_until_enough_was_seen() -> None:
    assert after([]).bounds_s == (COLD_S, COLD_S)
    assert after([0.1] * (MIN_SAMPLES - 1)).bounds_s == (COLD_S, COLD_S)
    assert after([0.1] * MIN_SAMPLES).bounds_s == (FLOOR_S, FLOOR_S)


@given(waits)
def test_a_bound_is_a_multiple_of_the_quantile_of_what_was_seen_lately(seen: list[float]) -> None:
    lately = sorted(seen[-WINDOW:])
    quantile = lately[math.ceil(QUANTILE * len(lately)) - 1]
    first_s, _ = after(seen).bounds_s
    assert first_s == min(max(FLOOR_S, FACTOR * quantile), CEILING_S)


def test_the_first_token_and_the_gaps_have_bounds_of_their_own() -> None:
    assert after([10.0] * MIN_SAMPLES, gap_s=1.0).bounds_s == (30.0, 3.0)


def test_a_bound_that_fell_is_longer_the_next_time() -> None:
    """A model that became slower must not be cut off for ever."""
    latency = after([1.0] * MIN_SAMPLES)
    falls = 0
    while (bound_s := latency.bounds_s[0]) < CEILING_S:
        latency.record_timeout(bound_s, streaming=False)
        assert latency.bounds_s[0] > bound_s
        falls += 1
    assert falls < MIN_SAMPLES
    assert latency.bounds_s[1] == FLOOR_S


def test_a_gap_that_fell_leaves_the_first_token_alone() -> None:
    latency = after([1.0] * MIN_SAMPLES)
    latency.record_timeout(50.0, streaming=True)
    assert latency.bounds_s == (3.0, 150.0)


def test_what_is_long_ago_is_forgotten() -> None:
    assert after([100.0] * MIN_SAMPLES + [1.0] * WINDOW).bounds_s[0] == 3.0


def test_each_model_is_known_for_itself() -> None:
    latencies = Latencies()
    latencies.for_model("slow:1").record_timeout(60.0, streaming=False)
    assert latencies.for_model("slow:1") is latencies.for_model("slow:1")
    assert latencies.for_model("tiny:1").bounds_s == (COLD_S, COLD_S)
