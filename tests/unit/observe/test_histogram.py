"""Histograms count exactly, and know quantiles to within a bucket."""

from __future__ import annotations

import math
from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from foundry_api.observe.histogram import RATES, SECONDS, Distribution, Histogram

values = st.lists(st.floats(0, 1e4, allow_nan=False), min_size=1, max_size=200)


def of(numbers: list[float]) -> Distribution:
    histogram = Histogram(SECONDS)
    for number in numbers:
        histogram.add(number)
    return histogram.snapshot()


def bucket(number: float) -> int:
    return bisect_left(SECONDS, number)


@given(values)
def test_nothing_is_lost_in_the_buckets(numbers: list[float]) -> None:
    told = of(numbers)
    assert told.count == sum(told.counts) == len(numbers)
    assert (told.lowest, told.highest) == (min(numbers), max(numbers))
    assert math.isclose(told.sum, math.fsum(numbers), abs_tol=1e-9)
    assert math.isclose(told.mean, math.fsum(numbers) / len(numbers), abs_tol=1e-9)
    for index, count in enumerate(told.counts):
        assert count == sum(bucket(number) == index for number in numbers)


@given(values, st.floats(0, 1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(numbers: list[float], share: float) -> None:
    true = sorted(numbers)[max(0, math.ceil(share * len(numbers)) - 1)]
    told = of(numbers)
    low = SECONDS[bucket(true) - 1] if bucket(true) else 0.0
    high = SECONDS[bucket(true)] if bucket(true) < len(SECONDS) else told.highest
    assert low - 1e-9 <= told.quantile(share) <= high + 1e-9
    assert told.lowest <= told.quantile(share) <= told.highest


def test_without_any_value_everything_is_zero() -> None:
    told = of([])
    assert (told.count, told.sum, told.lowest, told.highest, told.mean) == (0, 0, 0, 0, 0)
    assert told.quantile(0.5) == 0


def test_the_bounds_ascend_and_cover_what_a_call_may_take() -> None:
    for bounds in (SECONDS, RATES):
        assert list(bounds) == sorted(set(bounds))
    assert SECONDS[0] == 0.0001
    assert SECONDS[-1] > 600
