"""What a whole comes to, told from a sample of each of its parts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist, fmean, variance
from typing import TYPE_CHECKING

from foundry_api.batch.types import WorkItem
from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from random import Random

    from foundry_api.batch.sources import Source

__all__ = [
    "CONFIDENCE",
    "Estimate",
    "Sample",
    "Stratum",
    "draw_sample",
    "estimate_total",
    "get_named_model",
]


REPORT_EVERY = 1000
MIN_PER_MODEL = 2


@dataclass(slots=True)
class Sample:
    """Lines that were drawn.

    Attributes:
        total: Lines of the input.
        bad: Of these, the ones that cannot be asked.
        sizes: Lines that ask each model; the empty name stands for those that name none.
        items: What was drawn of each model's lines.
    """

    total: int = 0
    bad: int = 0
    sizes: dict[str, int] = field(default_factory=dict[str, int])
    items: dict[str, list[WorkItem]] = field(default_factory=dict[str, list[WorkItem]])


def draw_sample(
    source: Source, count: int, random: Random, on_progress: Callable[[int], object]
) -> Sample:
    """Read the whole input once, and draw from it. Blocking.

    Memory holds `count` lines of each model at most.

    Args:
        source: The input.
        count: How many lines to draw; each model has two at least, if it has so many.
        random: Draws them.
        on_progress: Called now and then with how many lines were read.

    Raises:
        BatchInputInvalid: The file cannot be read.
    """
    sample = Sample()
    for line in source.iter_lines():
        sample.total += 1
        if sample.total % REPORT_EVERY == 0:
            on_progress(sample.total)
        try:
            item = WorkItem(line, source.parse_request(line))
        except InvalidRequest:
            sample.bad += 1
            continue
        _reservoir_offer(sample, item, count, random)
    for model, items in sample.items.items():
        random.shuffle(items)
        del items[_stratum_size(sample, model, count) :]
    return sample


def get_named_model(item: WorkItem) -> str:
    """The model that a line asks; empty if it names none."""
    return str(item.request.body.get("model") or "")


def _reservoir_offer(sample: Sample, item: WorkItem, count: int, random: Random) -> None:
    """Keep a line with the chance that all lines of its model have."""
    model = get_named_model(item)
    seen = sample.sizes[model] = sample.sizes.get(model, 0) + 1
    reservoir = sample.items.setdefault(model, [])
    if len(reservoir) < count:
        reservoir.append(item)
    elif (place := random.randrange(seen)) < count:
        reservoir[place] = item


def _stratum_size(sample: Sample, model: str, count: int) -> int:
    share = sample.sizes[model] / max(1, sample.total - sample.bad)
    return max(MIN_PER_MODEL, round(count * share))


CONFIDENCE = 0.95
MIN_SAMPLE = 2
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

    def scale(self, factor: float) -> Estimate:
        """As much, so many times."""
        return Estimate(low=self.low * factor, likely=self.likely * factor, high=self.high * factor)

    def add(self, value: float) -> Estimate:
        """So much more."""
        return Estimate(low=self.low + value, likely=self.likely + value, high=self.high + value)


@dataclass(frozen=True, slots=True)
class Stratum:
    """A part of a whole, whose members resemble each other more than those of other parts do.

    Attributes:
        size: How many members it has.
        sample: A number of each of some members that were drawn at random.
    """

    size: int
    sample: Sequence[float]


def estimate_total(strata: Iterable[Stratum]) -> Estimate:
    """The sum of a number over all members of all parts.

    Each part's mean is taken for all its members. How far off that may be follows from how much
    the sample's values differ; the members that were drawn are known, so they add nothing.
    """
    likely = spread = 0.0
    degrees_of_freedom = 0
    for stratum in strata:
        if not stratum.sample:
            continue
        likely += stratum.size * fmean(stratum.sample)
        spread += _estimate_variance(stratum)
        degrees_of_freedom += max(len(stratum.sample) - 1, 0)
    margin = _student_quantile(degrees_of_freedom) * math.sqrt(spread) if spread else 0.0
    return Estimate(low=max(0.0, likely - margin), likely=likely, high=likely + margin)


def _estimate_variance(stratum: Stratum) -> float:
    """The variance of a part's estimated sum."""
    drawn = len(stratum.sample)
    if drawn < MIN_SAMPLE or drawn >= stratum.size:
        return 0.0
    return stratum.size**2 * variance(stratum.sample) / drawn * (1 - drawn / stratum.size)


def _student_quantile(degrees_of_freedom: int) -> float:
    """How many standard errors a mean is off at most: the quantile of Student's t.

    The normal quantile, corrected by the terms of Cornish and Fisher; from 3 degrees of freedom on
    it is right to within 1 %. Fewer count as 3: such a sample tells little either way.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    n = max(degrees_of_freedom, 3)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3
