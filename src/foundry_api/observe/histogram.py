"""Histograms with fixed buckets."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate, repeat
from typing import TYPE_CHECKING

import msgspec

from foundry_api.types.serialization import Result

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RATES", "SECONDS", "Distribution", "Histogram"]

# Bucket bounds for times, 0.1 ms to 650 s. Each is at most two thirds above the one before, which
# limits the error of a quantile.
SECONDS = tuple(
    round(base * 10.0**power, 9) for power in range(-4, 3) for base in (1.0, 1.5, 2.5, 4.0, 6.5)
)
# Bucket bounds for tokens per second, 1 to 65,000.
RATES = tuple(base * 10.0**power for power in range(5) for base in (1.0, 1.5, 2.5, 4.0, 6.5))


class Distribution(Result, msgspec.Struct, frozen=True, kw_only=True):
    """The values of a histogram, counted in buckets.

    Attributes:
        bounds: Inclusive upper bounds of the buckets. The last bucket has none.
        counts: Number of values in each bucket; one more than `bounds`.
        count: Number of values.
        sum: Sum of the values.
        lowest: The lowest value; 0 without values.
        highest: The highest value; 0 without values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    count: int
    sum: float
    lowest: float
    highest: float

    @property
    def mean(self) -> float:
        """The mean of the values; 0 without values."""
        return self.sum / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """Estimate a quantile by interpolation within its bucket.

        Args:
            share: 0 to 1, such as 0.95.

        Returns:
            The quantile, exact to the width of its bucket; 0 without values.
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
    """Counts values of 0 or more in buckets with ascending upper bounds."""

    __slots__ = ("_bounds", "_counts", "_highest", "_lowest", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self._lowest = float("inf")
        self._highest = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value
        # `min` and `max` would take most of the time.
        if value < self._lowest:
            self._lowest = value
        if value > self._highest:
            self._highest = value

    def add_all(self, values: Sequence[float]) -> None:
        """Add several values; takes half the time of `add` for each."""
        if not values:
            return
        counts = self._counts
        for index in map(bisect_left, repeat(self._bounds), values):
            counts[index] += 1
        self._sum += sum(values)
        self._lowest = min(self._lowest, *values)
        self._highest = max(self._highest, *values)

    def snapshot(self) -> Distribution:
        count = sum(self._counts)
        return Distribution(
            bounds=self._bounds,
            counts=tuple(self._counts),
            count=count,
            sum=self._sum,
            lowest=self._lowest if count else 0.0,
            highest=self._highest,
        )
