"""What a whole comes to, told from a sample of each of its parts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist, fmean, variance
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["CONFIDENCE", "Estimate", "Part", "total_of"]

CONFIDENCE = 0.95
FEWEST = 2
"""Values of which a spread can be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number that is not known exactly.

    Attributes:
        low: It is hardly less.
        likely: It is most likely.
        high: It is hardly more; of 100 estimates 95 are right about both ends.
    """

    low: float
    likely: float
    high: float

    def times(self, factor: float) -> Estimate:
        """As much, so many times."""
        return Estimate(low=self.low * factor, likely=self.likely * factor, high=self.high * factor)

    def plus(self, more: float) -> Estimate:
        """So much more."""
        return Estimate(low=self.low + more, likely=self.likely + more, high=self.high + more)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a whole, whose members resemble each other more than those of other parts do.

    Attributes:
        size: How many members it has.
        sample: A number of each of some members that were drawn at random.
    """

    size: int
    sample: Sequence[float]


def total_of(parts: Iterable[Part]) -> Estimate:
    """The sum of a number over all members of all parts.

    Each part's mean is taken for all its members. How far off that may be follows from how much
    the sample's values differ; the members that were drawn are known, so they add nothing.
    """
    likely = spread = 0.0
    freedom = 0
    for part in parts:
        if not part.sample:
            continue
        likely += part.size * fmean(part.sample)
        spread += _uncertainty(part)
        freedom += max(len(part.sample) - 1, 0)
    off = _student(freedom) * math.sqrt(spread) if spread else 0.0
    return Estimate(low=max(0.0, likely - off), likely=likely, high=likely + off)


def _uncertainty(part: Part) -> float:
    """The variance of a part's estimated sum."""
    drawn = len(part.sample)
    if drawn < FEWEST or drawn >= part.size:
        return 0.0
    return part.size**2 * variance(part.sample) / drawn * (1 - drawn / part.size)


def _student(freedom: int) -> float:
    """How many standard errors a mean is off at most: the quantile of Student's t.

    The normal quantile, corrected by the terms of Cornish and Fisher; from 3 degrees of freedom on
    it is right to within 1 %. Fewer count as 3: such a sample tells little either way.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    n = max(freedom, 3)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3
