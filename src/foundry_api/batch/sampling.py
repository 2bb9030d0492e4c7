"""What a whole comes to, told from a sample of each of its parts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist, fmean, variance
from typing import TYPE_CHECKING

from foundry_api.batch.types import Work
from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from random import Random

    from foundry_api.batch.sources import Source

__all__ = ["CONFIDENCE", "Estimate", "Part", "Sample", "draw", "model_of", "total_of"]


TELL_EVERY = 1000
FEWEST_OF_A_MODEL = 2


@dataclass(slots=True)
class Sample:
    """Lines that were drawn.

    Attributes:
        total: Lines of the input.
        bad: Of these, the ones that cannot be asked.
        sizes: Lines that ask each model; the empty name stands for those that name none.
        works: What was drawn of each model's lines.
    """

    total: int = 0
    bad: int = 0
    sizes: dict[str, int] = field(default_factory=dict[str, int])
    works: dict[str, list[Work]] = field(default_factory=dict[str, list[Work]])


def draw(source: Source, count: int, random: Random, tell: Callable[[int], object]) -> Sample:
    """Read the whole input once, and draw from it. Blocking.

    Memory holds `count` lines of each model at most.

    Args:
        source: The input.
        count: How many lines to draw; each model has two at least, if it has so many.
        random: Draws them.
        tell: Called now and then with how many lines were read.

    Raises:
        BatchInputInvalid: The file cannot be read.
    """
    sample = Sample()
    for line in source.lines():
        sample.total += 1
        if sample.total % TELL_EVERY == 0:
            tell(sample.total)
        try:
            work = Work(line, source.request(line))
        except InvalidRequest:
            sample.bad += 1
            continue
        _offer(sample, work, count, random)
    for model, works in sample.works.items():
        random.shuffle(works)
        del works[_quota(sample, model, count) :]
    return sample


def model_of(work: Work) -> str:
    """The model that a line asks; empty if it names none."""
    return str(work.request.body.get("model") or "")


def _offer(sample: Sample, work: Work, count: int, random: Random) -> None:
    """Keep a line with the chance that all lines of its model have."""
    model = model_of(work)
    seen = sample.sizes[model] = sample.sizes.get(model, 0) + 1
    kept = sample.works.setdefault(model, [])
    if len(kept) < count:
        kept.append(work)
    elif (place := random.randrange(seen)) < count:
        kept[place] = work


def _quota(sample: Sample, model: str, count: int) -> int:
    share = sample.sizes[model] / max(1, sample.total - sample.bad)
    return max(FEWEST_OF_A_MODEL, round(count * share))


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
