"""What a whole comes to, told from a sample, and how sure that is."""

from __future__ import annotations

from random import Random

import pytest

from foundry_api.batch.plan import BatchPlan
from foundry_api.batch.sampling import Estimate, Stratum, estimate_total


def plan(seconds: Estimate, warm_up_s: float = 10.0) -> BatchPlan:
    return BatchPlan(
        total=1_000,
        bad=0,
        sampled=50,
        failed=0,
        warmup_s=warm_up_s,
        concurrency=2.0,
        seconds=seconds,
        prompt_tokens=Estimate(low=1, likely=2, high=3),
        completion_tokens=Estimate(low=1, likely=2_000, high=3),
    )


def test_a_sample_of_equal_values_is_sure() -> None:
    assert estimate_total([Stratum(1_000, [2.0] * 10)]) == Estimate(
        low=2_000, likely=2_000, high=2_000
    )


def test_a_sample_that_is_the_whole_is_sure() -> None:
    assert estimate_total([Stratum(3, [1.0, 5.0, 9.0])]) == Estimate(low=15, likely=15, high=15)


def test_parts_that_differ_only_from_each_other_are_sure() -> None:
    told = estimate_total([Stratum(100, [1.0, 1.0]), Stratum(10, [50.0, 50.0])])
    assert (told.low, told.likely, told.high) == (600, 600, 600)


def test_more_of_a_sample_tells_more() -> None:
    few = estimate_total([Stratum(10_000, [1.0, 3.0] * 5)])
    many = estimate_total([Stratum(10_000, [1.0, 3.0] * 50)])
    assert few.likely == many.likely == 20_000
    assert few.high - few.low > 2.5 * (many.high - many.low)


def test_the_interval_is_right_as_often_as_it_says() -> None:
    """Of 400 estimates of the same whole, some 95 in 100 are right."""
    random = Random(7)  # noqa: S311 - the same draws each time
    whole = [random.uniform(0.5, 4.0) for _ in range(2_000)]
    right = 0
    for _ in range(400):
        told = estimate_total([Stratum(len(whole), random.sample(whole, 20))])
        right += told.low <= sum(whole) <= told.high
    assert 0.92 <= right / 400 <= 0.98


def test_so_many_machines_do_it_in_time_even_at_the_upper_end() -> None:
    told = plan(Estimate(low=800, likely=1_010, high=1_210))
    assert told.count_machines(1_210) == 1
    assert told.count_machines(1_209) == 2
    assert told.count_machines(110) == 12, "each of them warms up for itself"
    assert told.count_machines(10) is None, "the warm-up alone takes as long"
    assert told.lines_per_s == pytest.approx(1.0)
    assert told.tokens_per_s == pytest.approx(2.0)


def test_nothing_at_all_is_nothing() -> None:
    assert estimate_total([]) == Estimate(low=0, likely=0, high=0)
