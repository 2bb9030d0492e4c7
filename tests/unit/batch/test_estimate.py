"""Estimates from a sample, and their intervals."""

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


def test_equal_values_give_an_exact_estimate() -> None:
    assert estimate_total([Stratum(1_000, [2.0] * 10)]) == Estimate(
        low=2_000, likely=2_000, high=2_000
    )


def test_sample_of_all_lines_gives_an_exact_estimate() -> None:
    assert estimate_total([Stratum(3, [1.0, 5.0, 9.0])]) == Estimate(low=15, likely=15, high=15)


def test_equal_values_within_each_stratum_are_exact() -> None:
    estimate = estimate_total([Stratum(100, [1.0, 1.0]), Stratum(10, [50.0, 50.0])])
    assert (estimate.low, estimate.likely, estimate.high) == (600, 600, 600)


def test_larger_sample_narrows_the_interval() -> None:
    few = estimate_total([Stratum(10_000, [1.0, 3.0] * 5)])
    many = estimate_total([Stratum(10_000, [1.0, 3.0] * 50)])
    assert few.likely == many.likely == 20_000
    assert few.high - few.low > 2.5 * (many.high - many.low)


def test_interval_contains_the_total_in_95_percent() -> None:
    """Of 400 estimates of the same total, about 95 % are right."""
    random = Random(7)  # noqa: S311 - the same draws each time
    values = [random.uniform(0.5, 4.0) for _ in range(2_000)]
    right = 0
    for _ in range(400):
        estimate = estimate_total([Stratum(len(values), random.sample(values, 20))])
        right += estimate.low <= sum(values) <= estimate.high
    assert 0.92 <= right / 400 <= 0.98


def test_machine_count_uses_the_upper_end_of_the_estimate() -> None:
    batch_plan = plan(Estimate(low=800, likely=1_010, high=1_210))
    assert batch_plan.count_machines(1_210) == 1
    assert batch_plan.count_machines(1_209) == 2
    assert batch_plan.count_machines(110) == 12, "each of them warms up for itself"
    assert batch_plan.count_machines(10) is None, "the warm-up alone takes as long"
    assert batch_plan.lines_per_s == pytest.approx(1.0)
    assert batch_plan.tokens_per_s == pytest.approx(2.0)


def test_empty_strata_give_zero() -> None:
    assert estimate_total([]) == Estimate(low=0, likely=0, high=0)
