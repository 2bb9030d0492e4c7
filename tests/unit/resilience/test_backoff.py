"""Delays grow up to a cap, and vary there."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.resilience.backoff import Backoff


def longest(failures: int, base_s: float = 0.1, cap_s: float = 5.0) -> float:
    return Backoff(base_s, cap_s, uniform=lambda _, high: high).delay_s(failures)


def test_the_maximum_doubles_up_to_the_cap() -> None:
    bounds = [longest(failures, base_s=0.1, cap_s=1.0) for failures in range(1, 7)]
    assert bounds == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_without_failures_there_is_no_delay() -> None:
    assert longest(0) == 0.0


def test_a_delay_may_be_zero() -> None:
    assert Backoff(0.1, 5.0, uniform=lambda low, _: low).delay_s(3) == 0.0


@given(
    failures=st.integers(1, 10**9),
    base_s=st.floats(0, 1e3),
    cap_s=st.floats(0, 1e3),
    seed=st.integers(),
)
def test_no_delay_exceeds_the_cap(failures: int, base_s: float, cap_s: float, seed: int) -> None:
    draw = random.Random(seed).uniform  # noqa: S311 - a test's dice
    delay_s = Backoff(base_s=base_s, cap_s=cap_s, uniform=draw).delay_s(failures)
    assert 0 <= delay_s <= min(cap_s, base_s * 2.0 ** min(failures - 1, 60))


@pytest.mark.parametrize("failures", [1, 3, 10, 1000])
def test_the_jitter_covers_the_full_range_at_the_cap(failures: int) -> None:
    """Clients that failed together must not retry together."""
    draw = random.Random(7).uniform  # noqa: S311 - a test's dice
    backoff = Backoff(0.1, 5.0, uniform=draw)
    bound = longest(failures)
    delays = [backoff.delay_s(failures) / bound for _ in range(2000)]
    assert len(set(delays)) == 2000
    assert statistics.mean(delays) == pytest.approx(0.5, abs=0.02)
    assert statistics.stdev(delays) == pytest.approx(12**-0.5, abs=0.01)
    assert min(delays) < 0.01
    assert max(delays) > 0.99


def test_two_clients_have_different_delays() -> None:
    assert Backoff(0.1, 5.0).delay_s(9) != Backoff(0.1, 5.0).delay_s(9)
