"""Histograms with fixed buckets: cheap to fill, and good enough for quantiles."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

import msgspec

from foundry_api.types.serialization import Result

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RATES", "SECONDS", "Distribution", "Histogram"]

SECONDS = tuple(
    round(base * 10.0**power, 9) for power in range(-4, 3) for base in (1.0, 1.5, 2.5, 4.0, 6.5)
)
"""Bounds of buckets for times: 0.1 ms to 650 s, none more than two thirds above the one below."""

RATES = tuple(base * 10.0**power for power in range(5) for base in (1.0, 1.5, 2.5, 4.0, 6.5))
"""Bounds of buckets for tokens a second: 1 to 65,000."""


class Distribution(Result, msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, in buckets.

    Attributes:
        bounds: Upper bounds of the buckets, each belonging to its bucket; one more is above all.
        counts: How many values fell into each bucket.
        count: How many values there were.
        sum: Their sum.
        lowest: The lowest value; 0 without any.
        highest: The highest value; 0 without any.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    count: int
    sum: float
    lowest: float
    highest: float

    @property
    def mean(self) -> float:
        """The mean; 0 without any value."""
        return self.sum / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """The value below which a share of all lies, to within the width of its bucket.

        Args:
            share: 0 to 1, such as 0.95.
        """
        if not self.count:
            return 0.0
        rank = share * self.count
        cumulated = list(accumulate(self.counts))
        index = bisect_left(cumulated, rank)
        low = self.bounds[index - 1] if index else 0.0
        high = self.bounds[index] if index < len(self.bounds) else self.highest
        before = cumulated[index - 1] if index else 0
        inside = (rank - before) / self.counts[index] if self.counts[index] else 0.0
        return min(max(low + inside * (high - low), self.lowest), self.highest)


class Histogram:
    """Counts values.

    Args:
        bounds: Upper bounds of the buckets, ascending.
    """

    __slots__ = ("_bounds", "_counts", "_highest", "_lowest", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self._lowest = float("inf")
        self._highest = 0.0

    def add(self, value: float) -> None:
        """Count a value, 0 or more."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value
        self._lowest = min(self._lowest, value)
        self._highest = max(self._highest, value)

    def add_all(self, values: Sequence[float]) -> None:
        """Count several values at once."""
        if not values:
            return
        counts, bounds = self._counts, self._bounds
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        self._sum += sum(values)
        self._lowest = min(self._lowest, *values)
        self._highest = max(self._highest, *values)

    def snapshot(self) -> Distribution:
        """What was counted so far."""
        count = sum(self._counts)
        return Distribution(
            bounds=self._bounds,
            counts=tuple(self._counts),
            count=count,
            sum=self._sum,
            lowest=self._lowest if count else 0.0,
            highest=self._highest,
        )
