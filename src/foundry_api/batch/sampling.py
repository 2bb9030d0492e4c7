"""Draw a sample of a batch's lines, and estimate totals from it."""

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

REPORT_EVERY = 1000  # lines
MIN_PER_MODEL = 2
MIN_SAMPLE = 2  # a variance needs two values
CONFIDENCE = 0.95


@dataclass(slots=True)
class Sample:
    """The drawn lines, and the numbers of all lines."""

    total: int = 0
    bad: int = 0  # invalid lines of the total
    # Lines by the model that they name.
    sizes: dict[str, int] = field(default_factory=dict[str, int])
    # Drawn lines by model.
    items: dict[str, list[WorkItem]] = field(default_factory=dict[str, list[WorkItem]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An estimated number with a 95 % confidence interval."""

    low: float
    likely: float
    high: float

    def add(self, value: float) -> Estimate:
        return Estimate(low=self.low + value, likely=self.likely + value, high=self.high + value)


@dataclass(frozen=True, slots=True)
class Stratum:
    """The lines of one model: how many there are, and a value for each sampled line."""

    size: int
    sample: Sequence[float]


def draw_sample(
    source: Source, count: int, random: Random, on_progress: Callable[[int], object]
) -> Sample:
    """Read the whole input once and draw from it. Blocks."""
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
        # Reservoir sampling: each line of a model is kept with the same chance, and memory holds
        # at most `count` lines of each model.
        model = get_named_model(item)
        seen = sample.sizes[model] = sample.sizes.get(model, 0) + 1
        reservoir = sample.items.setdefault(model, [])
        if len(reservoir) < count:
            reservoir.append(item)
        elif (place := random.randrange(seen)) < count:
            reservoir[place] = item
    for model, items in sample.items.items():
        share = sample.sizes[model] / max(1, sample.total - sample.bad)
        random.shuffle(items)
        del items[max(MIN_PER_MODEL, round(count * share)) :]
    return sample


def get_named_model(item: WorkItem) -> str:
    """Return the model that a line names, else an empty string."""
    return str(item.request.body.get("model") or "")


def estimate_total(strata: Iterable[Stratum]) -> Estimate:
    """Estimate the sum of a value over all lines."""
    likely = spread = 0.0
    degrees_of_freedom = 0
    for stratum in strata:
        if not stratum.sample:
            continue
        drawn = len(stratum.sample)
        likely += stratum.size * fmean(stratum.sample)
        degrees_of_freedom += drawn - 1
        if MIN_SAMPLE <= drawn < stratum.size:
            # The finite population correction: the drawn lines are known, so they add nothing.
            unknown_share = 1 - drawn / stratum.size
            spread += stratum.size**2 * variance(stratum.sample) / drawn * unknown_share
    margin = _student_quantile(degrees_of_freedom) * math.sqrt(spread) if spread else 0.0
    return Estimate(low=max(0.0, likely - margin), likely=likely, high=likely + margin)


def _student_quantile(degrees_of_freedom: int) -> float:
    """Return the quantile of Student's t: standard errors that a mean is off at most."""
    # The normal quantile, corrected by the terms of Cornish and Fisher: accurate to within 1 % from
    # 3 degrees of freedom on. Fewer count as 3: so small a sample says little either way.
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    n = max(degrees_of_freedom, 3)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3
