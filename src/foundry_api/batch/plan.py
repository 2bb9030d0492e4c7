"""How long a batch will take, how many tokens, and how many machines: told from a sample of it."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING

from foundry_api.batch.progress import BatchProgress, Meter
from foundry_api.batch.sampling import Estimate, Part, Sample, draw, model_of, total_of
from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from random import Random

    from foundry_api.batch.engine import BatchEngine
    from foundry_api.batch.sources import Source
    from foundry_api.batch.types import Finished, Work

__all__ = ["BatchPlan", "ModelPlan", "Trial", "make_plan", "run_trial"]


@dataclass(frozen=True)
class Trial:
    """Lines that were run.

    Attributes:
        finished: Each with its work.
        wall_s: How long all took.
    """

    finished: tuple[tuple[Work, Finished], ...]
    wall_s: float

    @cached_property
    def concurrency(self) -> float:
        """How many lines were being answered at once, on average, while there were enough of them.

        At the end fewer and fewer are left; the time since the last one was begun does not count.
        """
        spans = [_span(finished) for _, finished in self.finished]
        if not spans:
            return 1.0
        begin, last_begun = min(spans)[0], max(spans)[0]
        busy = sum(min(end, last_begun) - start for start, end in spans if start < last_begun)
        return max(1.0, busy / (last_begun - begin)) if last_begun > begin else 1.0

    def seconds_of(self, finished: Finished) -> float:
        """How long a line kept the service busy: its share of the time, where others ran too."""
        return (finished.duration_s - finished.queued_s) / self.concurrency

    def by_model(self) -> dict[str, list[Finished]]:
        """What was finished of each model's lines."""
        answers: dict[str, list[Finished]] = {}
        for work, finished in self.finished:
            answers.setdefault(model_of(work), []).append(finished)
        return answers


def _span(finished: Finished) -> tuple[float, float]:
    """When a line was begun at the service, and when it ended."""
    return finished.at - (finished.duration_s - finished.queued_s), finished.at


async def run_trial(
    works: Sequence[Work],
    engine: BatchEngine,
    tell: Callable[[Finished], object],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Trial:
    """Run lines, as a batch would.

    Raises:
        FoundryError: As of the engine.
    """
    by_index = {work.line.index: work for work in works}
    finished: list[tuple[Work, Finished]] = []
    begun = clock()
    async with aclosing(engine.answers(_each(works))) as answers:
        async for answer in answers:
            finished.append((by_index[answer.index], answer))
            tell(answer)
    return Trial(tuple(finished), clock() - begun)


async def _each(works: Sequence[Work]) -> AsyncGenerator[Work]:
    for work in works:
        yield work


WARM_UP_SHARE = 0.5
"""Of the sample. Models are loaded by it, and the limiter finds most of the way to its limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """What one model will have to do.

    Attributes:
        model: As the lines name it; empty for those that name none.
        lines: Lines that ask it.
        sampled: Of these, the ones that were run and measured.
        seconds_a_line: How long one takes, where others are answered at the same time.
        completion_tokens: Tokens of an answer, on average.
    """

    model: str
    lines: int
    sampled: int
    seconds_a_line: float
    completion_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """What a batch will take.

    Attributes:
        total: Lines of the input.
        bad: Of these, the ones that cannot be asked; they take no time.
        sampled: Lines that were run and measured.
        failed: Of these, the ones that failed.
        warm_up_s: Seconds that the first lines took longer: models are loaded by them.
        concurrency: Lines that were being answered at once, on average.
        seconds: How long the whole takes on what the sample ran on, the warm-up included.
        prompt_tokens: Tokens of all the prompts.
        completion_tokens: Tokens of all the answers.
        models: What each model will have to do, the busiest first.
    """

    total: int
    bad: int
    sampled: int
    failed: int
    warm_up_s: float
    concurrency: float
    seconds: Estimate
    prompt_tokens: Estimate
    completion_tokens: Estimate
    models: tuple[ModelPlan, ...] = field(default_factory=tuple)

    @property
    def lines_per_s(self) -> float:
        """Lines a second that may be expected."""
        steady = self.seconds.likely - self.warm_up_s
        return (self.total - self.bad) / steady if steady > 0 else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Tokens of answers a second that may be expected."""
        steady = self.seconds.likely - self.warm_up_s
        return self.completion_tokens.likely / steady if steady > 0 else 0.0

    def machines(self, within_s: float) -> int | None:
        """So many of what the sample ran on finish it in time, even if the estimate is at its high.

        Each of them warms up for itself. None where that alone takes longer than there is time.
        """
        left_s = within_s - self.warm_up_s
        if left_s <= 0:
            return None
        return max(1, math.ceil((self.seconds.high - self.warm_up_s) / left_s))


async def make_plan(
    source: Source,
    engine: BatchEngine,
    *,
    sample: int,
    random: Random,
    tell: Callable[[BatchProgress], object],
) -> BatchPlan:
    """Run a sample of a batch, and tell what the whole will take. No journal is written.

    The first lines warm the models up and are not measured. Of the others it is seen how long each
    kept the service busy, which is what the estimate is made of.

    Args:
        source: The input; it is read once.
        engine: What the batch would run on.
        sample: How many lines to run.
        random: Draws them.
        tell: Told how far it is.

    Raises:
        InvalidRequest: The input has no line that can be asked.
        FoundryError: As of the source and the engine.
    """
    meter = Meter()
    loop = asyncio.get_running_loop()

    def read(lines: int) -> None:
        now = BatchProgress(phase="checking", total=lines, elapsed_s=meter.elapsed_s)
        loop.call_soon_threadsafe(tell, now)

    drawn = await asyncio.to_thread(draw, source, sample, random, read)
    if not drawn.total:
        raise InvalidRequest(f"{source.name} has no lines", field="input", hint="Give another one.")
    if not drawn.works:
        raise InvalidRequest(
            f"{source.name} has no line that can be asked",
            field="input",
            hint="`foundry-api batch check` tells what is wrong with each.",
        )
    first, measured = _split(drawn, random)
    whole = len(first) + len(measured)

    def count(finished: Finished) -> None:
        meter.count(finished)
        tell(meter.progress("running", total=whole, engine=engine.state()))

    warm_up = await run_trial(first, engine, count)
    trial = await run_trial(measured or first, engine, count)
    return _planned(drawn, warm_up, trial)


def _split(drawn: Sample, random: Random) -> tuple[list[Work], list[Work]]:
    """What warms up, at least one line of each model, and what is measured.

    A model with a single line that was drawn is measured only: it is not loaded before.
    """
    first: list[Work] = []
    measured: list[Work] = []
    for works in drawn.works.values():
        few = min(max(1, round(len(works) * WARM_UP_SHARE)), len(works) - 1)
        first += works[:few]
        measured += works[few:]
    random.shuffle(measured)
    return first, measured


def _planned(drawn: Sample, warm_up: Trial, trial: Trial) -> BatchPlan:
    warm_up_s = max(0.0, warm_up.wall_s - _steady_s(warm_up, trial))

    def total(of: Callable[[Finished], float]) -> Estimate:
        return total_of(
            Part(drawn.sizes[model], [of(finished) for finished in answers])
            for model, answers in trial.by_model().items()
        )

    return BatchPlan(
        total=drawn.total,
        bad=drawn.bad,
        sampled=len(trial.finished),
        failed=sum(finished.failed for _, finished in trial.finished),
        warm_up_s=warm_up_s,
        concurrency=trial.concurrency,
        seconds=total(trial.seconds_of).plus(warm_up_s),
        prompt_tokens=total(lambda finished: finished.prompt_tokens),
        completion_tokens=total(lambda finished: finished.completion_tokens),
        models=_models(drawn, trial),
    )


def _steady_s(warm_up: Trial, trial: Trial) -> float:
    """How long the first lines would have taken later."""
    later = {
        model: fmean(map(trial.seconds_of, answers)) for model, answers in trial.by_model().items()
    }
    return sum(later.get(model_of(work), 0.0) for work, _ in warm_up.finished)


def _models(drawn: Sample, trial: Trial) -> tuple[ModelPlan, ...]:
    plans = [
        ModelPlan(
            model=model,
            lines=drawn.sizes[model],
            sampled=len(answers),
            seconds_a_line=fmean(map(trial.seconds_of, answers)),
            completion_tokens=fmean(finished.completion_tokens for finished in answers),
        )
        for model, answers in trial.by_model().items()
    ]
    return tuple(sorted(plans, key=lambda plan: -plan.lines * plan.seconds_a_line))
