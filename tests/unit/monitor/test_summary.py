"""Summaries of samples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api import Canary, HealthSample, HealthSummary, Traffic
from foundry_api.monitor.summary import compute_quantiles, summarise
from support.monitor_factories import make_sample

LETTERS = {
    "h": ("healthy", "healthy"),
    "x": ("down", "down"),
    "b": ("down", "healthy"),  # no answer, but not yet an outage
    "r": ("healthy", "down"),  # an answer, but not yet the end of the outage
}


def samples(letters: str, interval_s: float = 1.0) -> list[HealthSample]:
    return [
        make_sample(
            LETTERS[letter][0],
            1000 + at * interval_s,
            state=LETTERS[letter][1],
            interval_s=interval_s,
        )
        for at, letter in enumerate(letters)
    ]


def test_without_samples_the_summary_is_empty() -> None:
    assert summarise([]) == HealthSummary()
    assert summarise([make_sample("down", state="unknown")]) == HealthSummary(samples=1)


@pytest.mark.parametrize(
    ("letters", "outages", "longest_s", "availability"),
    [
        ("hhhhhhhhhh", 0, 0, 1.0),
        ("hhhbxxrhhh", 1, 3, 0.7),
        ("hhbhhhhhhh", 0, 0, 0.9),
        ("bxrhhhbxxr", 2, 3, 0.5),
        ("hbxrxrhhhh", 1, 3, 0.7),
        ("hhhhhhhbxx", 1, 3, 0.7),
    ],
)
def test_an_outage_lasts_until_the_first_answer(
    letters: str, outages: int, longest_s: float, availability: float
) -> None:
    summary = summarise(samples(letters))
    assert summary.outages == outages
    assert summary.longest_outage_s == pytest.approx(longest_s)
    assert summary.availability == pytest.approx(availability)
    assert summary.observed_s == pytest.approx(10)


def test_time_without_a_monitor_does_not_count() -> None:
    before, after = make_sample("healthy", 1000), make_sample("down", 90_000)
    summary = summarise([before, after])
    assert summary.observed_s == pytest.approx(3)
    assert summary.availability == pytest.approx(2 / 3)


def test_values_of_callers_and_canaries_are_weighted() -> None:
    busy = Traffic(answered=98, first_tokens=98, time_to_first_token_s=0.01, tokens_per_second=50.0)
    idle = Traffic(answered=1, failed=2, first_tokens=1, time_to_first_token_s=3.0)
    canary = Canary(outcome="answered", time_to_first_token_s=2.0, at=5.0)
    summary = summarise(
        [
            make_sample(
                "healthy", 1000, traffic=busy, latency_s=0.001, memory_usage=10, restarts=4
            ),
            make_sample(
                "healthy", 1001, traffic=idle, latency_s=0.003, memory_usage=30, restarts=5
            ),
            make_sample(
                "healthy", 1002, canary=canary, latency_s=0.002, memory_usage=20, restarts=5
            ),
            make_sample("healthy", 1003, canary=canary),
        ]
    )
    first = summary.time_to_first_token_s
    assert first is not None
    assert (first.p50, first.p95, first.p99, first.highest) == (0.01, 0.01, 2.0, 3.0)
    assert (summary.answered, summary.failed, summary.restarts) == (99, 2, 1)
    assert summary.memory_highest == 30
    assert summary.latency_s is not None
    assert (summary.latency_s.p50, summary.latency_s.highest) == (0.002, 0.003)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
def test_quantiles_are_ordered_values_of_the_input(values: list[float]) -> None:
    found = compute_quantiles((value, 1) for value in values)
    assert found is not None
    assert {found.p50, found.p95, found.p99} <= set(values)
    assert found.p50 <= found.p95 <= found.p99 <= found.highest == max(values)
    assert sum(value <= found.p50 for value in values) * 2 >= len(values)


@given(st.text("hxbr", min_size=1, max_size=80))
def test_availability_and_downtime_stay_within_their_limits(letters: str) -> None:
    summary = summarise(samples(letters))
    assert summary.availability is not None
    assert 0 <= summary.availability <= 1
    assert summary.longest_outage_s <= summary.downtime_s <= summary.observed_s + 1e-6
