"""Drawing some lines of an input at random, from each model's lines as many as is their share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from foundry_api.batch.lines import Work
from foundry_api.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from foundry_api.batch.sources import Source

__all__ = ["Sample", "draw", "model_of"]

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
