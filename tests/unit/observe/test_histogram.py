"""Histograms: exact counts, and quantiles within a bucket."""

from __future__ import annotations

import math
from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from foundry_api.observe.histogram import RATES, SECONDS, Distribution, Histogram

values = st.lists(st.floats(0, 1e4, allow_nan=False), min_size=1, max_size=200)


def make_distribution(numbers: list[float]) -> Distribution:
    histogram = Histogram(SECONDS)
    for number in numbers:
        histogram.add(number)
    return histogram.snapshot()


def bucket(number: float) -> int:
    return bisect_left(SECONDS, number)


@given(values)
def test_all_values_are_counted(numbers: list[float]) -> None:
    shown = make_distribution(numbers)
    assert shown.count == sum(shown.counts) == len(numbers)
    assert (shown.lowest, shown.highest) == (min(numbers), max(numbers))
    assert math.isclose(shown.sum, math.fsum(numbers), abs_tol=1e-9)
    assert math.isclose(shown.mean, math.fsum(numbers) / len(numbers), abs_tol=1e-9)
    for index, count in enumerate(shown.counts):
        assert count == sum(bucket(number) == index for number in numbers)


@given(values, st.floats(0, 1))
def test_quantile_is_in_the_bucket_of_the_exact_one(numbers: list[float], share: float) -> None:
    true = sorted(numbers)[max(0, math.ceil(share * len(numbers)) - 1)]
    shown = make_distribution(numbers)
    low = SECONDS[bucket(true) - 1] if bucket(true) else 0.0
    high = SECONDS[bucket(true)] if bucket(true) < len(SECONDS) else shown.highest
    assert low - 1e-9 <= shown.quantile(share) <= high + 1e-9
    assert shown.lowest <= shown.quantile(share) <= shown.highest


def test_everything_is_zero_without_values() -> None:
    shown = make_distribution([])
    assert (shown.count, shown.sum, shown.lowest, shown.highest, shown.mean) == (0, 0, 0, 0, 0)
    assert shown.quantile(0.5) == 0


def test_bounds_ascend() -> None:
    for bounds in (SECONDS, RATES):
        assert list(bounds) == sorted(set(bounds))
    assert SECONDS[0] == 0.0001
    assert SECONDS[-1] > 600
