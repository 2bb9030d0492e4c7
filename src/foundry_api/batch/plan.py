"""Estimate how long a batch takes, its tokens, and how many machines it needs, from a sample."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING

import msgspec

from foundry_api.batch.progress import BatchProgress, ProgressMeter
from foundry_api.batch.sampling import (
    Estimate,
    Sample,
    Stratum,
    draw_sample,
    estimate_total,
    get_named_model,
)
from foundry_api.types.errors import BatchError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from random import Random

    from foundry_api.batch.engine import BatchEngine
    from foundry_api.batch.sources import Source
    from foundry_api.batch.types import BatchLineResult, WorkItem

__all__ = ["BatchPlan", "ModelPlan", "make_plan"]

# Share of the sample that warms up: it loads the models, and lets the limiter find most of its
# limit.
WARMUP_SHARE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """The part of a batch that one model has."""

    model: str  # the name in the lines; empty for lines that name none
    lines: int
    sampled: int
    seconds_per_line: float  # of the service, which answers other lines at the same time
    completion_tokens: float  # the mean per answer


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """The estimate for a batch."""

    total: int
    bad: int  # invalid lines of the total; they take no time
    sampled: int
    failed: int  # sampled lines that failed
    warmup_s: float  # how much longer the first lines took, because they loaded the models
    concurrency: float  # the mean number of lines in flight
    seconds: Estimate  # duration on the machines that ran the sample, warm-up included
    prompt_tokens: Estimate
    completion_tokens: Estimate
    models: tuple[ModelPlan, ...] = field(default_factory=tuple)  # busiest first

    @property
    def lines_per_s(self) -> float:
        steady = self.seconds.likely - self.warmup_s
        return (self.total - self.bad) / steady if steady > 0 else 0.0

    @property
    def tokens_per_s(self) -> float:
        steady = self.seconds.likely - self.warmup_s
        return self.completion_tokens.likely / steady if steady > 0 else 0.0

    def count_machines(self, within_s: float) -> int | None:
        """Return how many machines finish in time; None if no number of them can."""
        # Each machine warms up for itself, so that time is not shared. The estimate's high end
        # makes the answer hold even if the sample was quick.
        remaining_s = within_s - self.warmup_s
        if remaining_s <= 0:
            return None
        return max(1, math.ceil((self.seconds.high - self.warmup_s) / remaining_s))


@dataclass(frozen=True)
class _Trial:
    """Lines that were run, with their results."""

    results: tuple[tuple[WorkItem, BatchLineResult], ...]
    wall_s: float

    @cached_property
    def concurrency(self) -> float:
        """The mean number of lines in flight, without the end, where they run out."""
        spans = [
            (result.at - (result.duration_s - result.queued_s), result.at)
            for _, result in self.results
        ]
        if not spans:
            return 1.0
        # Time after the last line started does not count: from then on fewer and fewer are left.
        first_start, last_start = min(spans)[0], max(spans)[0]
        if last_start <= first_start:
            return 1.0
        busy_s = sum(min(end, last_start) - start for start, end in spans if start < last_start)
        return max(1.0, busy_s / (last_start - first_start))

    def get_busy_seconds(self, result: BatchLineResult) -> float:
        """Return a line's share of the service's time."""
        return (result.duration_s - result.queued_s) / self.concurrency

    def group_by_model(self) -> dict[str, list[BatchLineResult]]:
        answers: dict[str, list[BatchLineResult]] = {}
        for item, result in self.results:
            answers.setdefault(get_named_model(item), []).append(result)
        return answers


async def make_plan(
    source: Source,
    engine: BatchEngine,
    *,
    sample: int,
    random: Random,
    on_progress: Callable[[BatchProgress], object],
) -> BatchPlan:
    """Run a sample of a batch and estimate the rest. No journal is written.

    Raises:
        InvalidRequest: The batch has no valid line.
        BatchError: Each line of the sample failed: their times say nothing about the others.
    """
    meter = ProgressMeter()
    loop = asyncio.get_running_loop()

    def report_read(lines: int) -> None:  # called in the thread that reads
        progress = BatchProgress(phase="checking", total=lines, elapsed_s=meter.elapsed_s)
        loop.call_soon_threadsafe(on_progress, progress)

    drawn = await asyncio.to_thread(draw_sample, source, sample, random, report_read)
    if not drawn.total:
        raise InvalidRequest(f"{source.name} has no lines", field="input", hint="Give another one.")
    if not drawn.items:
        raise InvalidRequest(
            f"{source.name} has no valid line",
            field="input",
            hint="`foundry-api batch check` reports what is wrong with each.",
        )
    warmup_items, measured_items = _split_warmup(drawn, random)
    line_count = len(warmup_items) + len(measured_items)

    def record(result: BatchLineResult) -> None:
        meter.count(result)
        on_progress(meter.make_progress("running", total=line_count, engine=engine.get_state()))

    warmup = await _run_trial(warmup_items, engine, record)
    trial = await _run_trial(measured_items or warmup_items, engine, record)
    if trial.results and all(result.failed for _, result in trial.results):
        raise _make_failure(trial.results[0][1])
    return _build_plan(drawn, warmup, trial)


def _split_warmup(drawn: Sample, random: Random) -> tuple[list[WorkItem], list[WorkItem]]:
    """Split the sample into lines that warm up, and lines that are measured."""
    warmup_items: list[WorkItem] = []
    measured_items: list[WorkItem] = []
    for items in drawn.items.values():
        # At least one line loads the model. A single line is measured, though the model is not
        # loaded before it: otherwise there would be no estimate for its model.
        warmup_count = min(max(1, round(len(items) * WARMUP_SHARE)), len(items) - 1)
        warmup_items += items[:warmup_count]
        measured_items += items[warmup_count:]
    random.shuffle(measured_items)
    return warmup_items, measured_items


async def _run_trial(
    items: Sequence[WorkItem], engine: BatchEngine, on_result: Callable[[BatchLineResult], object]
) -> _Trial:
    by_index = {item.line.index: item for item in items}
    results: list[tuple[WorkItem, BatchLineResult]] = []
    started_at = time.monotonic()
    async with aclosing(engine.run(_iter_items(items))) as answers:
        async for result in answers:
            results.append((by_index[result.index], result))
            on_result(result)
    return _Trial(tuple(results), time.monotonic() - started_at)


class _Failure(msgspec.Struct):
    code: str
    message: str
    hint: str | None = None


class _ErrorLine(msgspec.Struct):
    error: _Failure


def _make_failure(result: BatchLineResult) -> BatchError:
    failure = msgspec.json.decode(result.output, type=_ErrorLine).error
    return BatchError(
        f"each line of the sample failed, one with {failure.code}: {failure.message}",
        hint=failure.hint or "",
    )


async def _iter_items(items: Sequence[WorkItem]) -> AsyncGenerator[WorkItem]:
    for item in items:
        yield item


def _build_plan(drawn: Sample, warmup: _Trial, trial: _Trial) -> BatchPlan:
    answers_by_model = trial.group_by_model()
    busy_s = {
        model: fmean(map(trial.get_busy_seconds, answers))
        for model, answers in answers_by_model.items()
    }
    # What the warm-up lines took longer than they would have taken once the models were loaded.
    steady_s = sum(busy_s.get(get_named_model(item), 0.0) for item, _ in warmup.results)
    warmup_s = max(0.0, warmup.wall_s - steady_s)

    def estimate(get_value: Callable[[BatchLineResult], float]) -> Estimate:
        return estimate_total(
            Stratum(drawn.sizes[model], [get_value(result) for result in answers])
            for model, answers in answers_by_model.items()
        )

    models = [
        ModelPlan(
            model=model,
            lines=drawn.sizes[model],
            sampled=len(answers),
            seconds_per_line=busy_s[model],
            completion_tokens=fmean(result.completion_tokens for result in answers),
        )
        for model, answers in answers_by_model.items()
    ]
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
        models=tuple(sorted(models, key=lambda plan: -plan.lines * plan.seconds_per_line)),
    )
