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

from foundry_api.batch.progress import BatchProgress, ProgressMeter
from foundry_api.batch.sampling import (
    Estimate,
    Sample,
    Stratum,
    draw_sample,
    estimate_total,
    get_named_model,
)
from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from random import Random

    from foundry_api.batch.engine import BatchEngine
    from foundry_api.batch.sources import Source
    from foundry_api.batch.types import BatchLineResult, WorkItem

__all__ = ["BatchPlan", "ModelPlan", "Trial", "make_plan", "run_trial"]


@dataclass(frozen=True)
class Trial:
    """Lines that were run.

    Attributes:
        results: Each with its work.
        wall_s: How long all took.
    """

    results: tuple[tuple[WorkItem, BatchLineResult], ...]
    wall_s: float

    @cached_property
    def concurrency(self) -> float:
        """How many lines were being answered at once, on average, while there were enough of them.

        At the end fewer and fewer are left; the time since the last one was begun does not count.
        """
        spans = [_service_interval(result) for _, result in self.results]
        if not spans:
            return 1.0
        begin, last_begun = min(spans)[0], max(spans)[0]
        busy = sum(min(end, last_begun) - start for start, end in spans if start < last_begun)
        return max(1.0, busy / (last_begun - begin)) if last_begun > begin else 1.0

    def get_busy_seconds(self, result: BatchLineResult) -> float:
        """How long a line kept the service busy: its share of the time, where others ran too."""
        return (result.duration_s - result.queued_s) / self.concurrency

    def group_by_model(self) -> dict[str, list[BatchLineResult]]:
        """What was finished of each model's lines."""
        answers: dict[str, list[BatchLineResult]] = {}
        for item, result in self.results:
            answers.setdefault(get_named_model(item), []).append(result)
        return answers


def _service_interval(result: BatchLineResult) -> tuple[float, float]:
    """When a line was begun at the service, and when it ended."""
    return result.at - (result.duration_s - result.queued_s), result.at


async def run_trial(
    items: Sequence[WorkItem],
    engine: BatchEngine,
    on_result: Callable[[BatchLineResult], object],
    *,
    monotonic: Callable[[], float] = time.monotonic,
) -> Trial:
    """Run lines, as a batch would.

    Raises:
        FoundryError: As of the engine.
    """
    by_index = {item.line.index: item for item in items}
    results: list[tuple[WorkItem, BatchLineResult]] = []
    started_at = monotonic()
    async with aclosing(engine.run(_iter_items(items))) as answers:
        async for result in answers:
            results.append((by_index[result.index], result))
            on_result(result)
    return Trial(tuple(results), monotonic() - started_at)


async def _iter_items(items: Sequence[WorkItem]) -> AsyncGenerator[WorkItem]:
    for item in items:
        yield item


WARMUP_SHARE = 0.5
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
        warmup_s: Seconds that the first lines took longer: models are loaded by them.
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
    warmup_s: float
    concurrency: float
    seconds: Estimate
    prompt_tokens: Estimate
    completion_tokens: Estimate
    models: tuple[ModelPlan, ...] = field(default_factory=tuple)

    @property
    def lines_per_s(self) -> float:
        """Lines a second that may be expected."""
        steady = self.seconds.likely - self.warmup_s
        return (self.total - self.bad) / steady if steady > 0 else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Tokens of answers a second that may be expected."""
        steady = self.seconds.likely - self.warmup_s
        return self.completion_tokens.likely / steady if steady > 0 else 0.0

    def count_machines(self, within_s: float) -> int | None:
        """So many of what the sample ran on finish it in time, even if the estimate is at its high.

        Each of them warms up for itself. None where that alone takes longer than there is time.
        """
        remaining_s = within_s - self.warmup_s
        if remaining_s <= 0:
            return None
        return max(1, math.ceil((self.seconds.high - self.warmup_s) / remaining_s))


async def make_plan(
    source: Source,
    engine: BatchEngine,
    *,
    sample: int,
    random: Random,
    on_progress: Callable[[BatchProgress], object],
) -> BatchPlan:
    """Run a sample of a batch, and tell what the whole will take. No journal is written.

    The first lines warm the models up and are not measured. Of the others it is seen how long each
    kept the service busy, which is what the estimate is made of.

    Args:
        source: The input; it is read once.
        engine: What the batch would run on.
        sample: How many lines to run.
        random: Draws them.
        on_progress: Told how far it is.

    Raises:
        InvalidRequest: The input has no line that can be asked.
        FoundryError: As of the source and the engine.
    """
    meter = ProgressMeter()
    loop = asyncio.get_running_loop()

    def report_read(lines: int) -> None:
        progress = BatchProgress(phase="checking", total=lines, elapsed_s=meter.elapsed_s)
        loop.call_soon_threadsafe(on_progress, progress)

    drawn = await asyncio.to_thread(draw_sample, source, sample, random, report_read)
    if not drawn.total:
        raise InvalidRequest(f"{source.name} has no lines", field="input", hint="Give another one.")
    if not drawn.items:
        raise InvalidRequest(
            f"{source.name} has no line that can be asked",
            field="input",
            hint="`foundry-api batch check` tells what is wrong with each.",
        )
    first, measured = _split_warmup(drawn, random)
    line_count = len(first) + len(measured)

    def record(result: BatchLineResult) -> None:
        meter.count(result)
        on_progress(meter.make_progress("running", total=line_count, engine=engine.state()))

    warmup = await run_trial(first, engine, record)
    trial = await run_trial(measured or first, engine, record)
    return _build_plan(drawn, warmup, trial)


def _split_warmup(drawn: Sample, random: Random) -> tuple[list[WorkItem], list[WorkItem]]:
    """What warms up, at least one line of each model, and what is measured.

    A model with a single line that was drawn is measured only: it is not loaded before.
    """
    first: list[WorkItem] = []
    measured: list[WorkItem] = []
    for items in drawn.items.values():
        few = min(max(1, round(len(items) * WARMUP_SHARE)), len(items) - 1)
        first += items[:few]
        measured += items[few:]
    random.shuffle(measured)
    return first, measured


def _build_plan(drawn: Sample, warmup: Trial, trial: Trial) -> BatchPlan:
    warmup_s = max(0.0, warmup.wall_s - _steady_state_s(warmup, trial))

    def estimate(get_value: Callable[[BatchLineResult], float]) -> Estimate:
        return estimate_total(
            Stratum(drawn.sizes[model], [get_value(result) for result in answers])
            for model, answers in trial.group_by_model().items()
        )

    return BatchPlan(
        total=drawn.total,
        bad=drawn.bad,
        sampled=len(trial.results),
        failed=sum(result.failed for _, result in trial.results),
        warmup_s=warmup_s,
        concurrency=trial.concurrency,
        seconds=estimate(trial.get_busy_seconds).add(warmup_s),
        prompt_tokens=estimate(lambda result: result.prompt_tokens),
        completion_tokens=estimate(lambda result: result.completion_tokens),
        models=_make_model_plans(drawn, trial),
    )


def _steady_state_s(warmup: Trial, trial: Trial) -> float:
    """How long the first lines would have taken later."""
    later = {
        model: fmean(map(trial.get_busy_seconds, answers))
        for model, answers in trial.group_by_model().items()
    }
    return sum(later.get(get_named_model(item), 0.0) for item, _ in warmup.results)


def _make_model_plans(drawn: Sample, trial: Trial) -> tuple[ModelPlan, ...]:
    plans = [
        ModelPlan(
            model=model,
            lines=drawn.sizes[model],
            sampled=len(answers),
            seconds_a_line=fmean(map(trial.get_busy_seconds, answers)),
            completion_tokens=fmean(result.completion_tokens for result in answers),
        )
        for model, answers in trial.group_by_model().items()
    ]
    return tuple(sorted(plans, key=lambda plan: -plan.lines * plan.seconds_a_line))
