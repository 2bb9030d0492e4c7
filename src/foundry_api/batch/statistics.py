"""What a batch came to: the figures of its summary and of its report."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from foundry_api.observe.histogram import Distribution, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "LATENCY_BUCKETS",
    "BatchStatistics",
    "ErrorStatistics",
    "ModelStatistics",
    "RunStatistics",
    "SecondStatistics",
    "Timeline",
    "TimelineBucket",
]


BUCKETS_PER_DECADE = 24

LATENCY_BUCKETS = tuple(
    round(10.0 ** (step / BUCKETS_PER_DECADE), 9)
    for step in range(-3 * BUCKETS_PER_DECADE, 4 * BUCKETS_PER_DECADE + 1)
)
"""Bounds of buckets for times: 1 ms to 10,000 s, each a tenth above the one below, so that a
quantile is told to within some percent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatistics:
    """One run of the batch's command, or of one of several that share it.

    Attributes:
        begun_at: When it began, in seconds since the epoch.
        ended_at: When it ended, or was heard of last.
        lines: Lines that it finished, failed ones included.
    """

    begun_at: float
    ended_at: float
    lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineBucket:
    """What was finished in a stretch of time.

    Attributes:
        at_s: Its begin, in seconds of work: the time between two runs does not count.
        span_s: Its length.
        lines: Lines finished, failed ones included.
        failed: Of these, the failed ones.
        prompt_tokens: Of the lines that an engine answered.
        completion_tokens: Of the lines that an engine answered.
    """

    at_s: float
    span_s: float
    lines: int
    failed: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorStatistics:
    """One kind of failure.

    Attributes:
        code: Name of the error's type.
        count: Lines that failed so.
        custom_id: The first of them.
        message: What that one was told.
        hint: What it was told to do about it.
    """

    code: str
    count: int
    custom_id: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatistics:
    """What one model did.

    Attributes:
        model: Its id, or the name that was asked for; empty for lines that name none.
        lines: Lines finished, failed ones included.
        failed: Of these, the failed ones.
        prompt_tokens: As the service counted them.
        completion_tokens: As the service counted them.
    """

    model: str
    lines: int
    failed: int
    prompt_tokens: int
    completion_tokens: int


def _empty_histogram() -> Distribution:
    return Histogram(LATENCY_BUCKETS).snapshot()


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatistics:
    """What a batch came to, over all its runs.

    Attributes:
        done: Lines answered.
        failed: Lines that failed for good.
        shared: Of those answered, the ones that took another's answer.
        prompt_tokens: As the service counted them.
        completion_tokens: As the service counted them.
        elapsed_s: Seconds of work: the time between two runs does not count, and that of two at
            once counts once.
        runs: Each run, the oldest first.
        latency: Of the lines that an engine answered: from the first attempt to the end.
        time_to_first_token: Of those that had any text.
        throughput: What was finished when; some hundred stretches at most.
        errors: The kinds of failures, the commonest first.
        models: What each model did, the busiest first.
    """

    done: int = 0
    failed: int = 0
    shared: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    elapsed_s: float = 0.0
    runs: tuple[RunStatistics, ...] = ()
    latency: Distribution = field(default_factory=_empty_histogram)
    time_to_first_token: Distribution = field(default_factory=_empty_histogram)
    throughput: tuple[TimelineBucket, ...] = ()
    errors: tuple[ErrorStatistics, ...] = ()
    models: tuple[ModelStatistics, ...] = ()

    @property
    def lines_per_s(self) -> float:
        """Lines finished in each second of work; 0 without any."""
        return (self.done + self.failed) / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Tokens that the models wrote in each second of work; 0 without any."""
        return self.completion_tokens / self.elapsed_s if self.elapsed_s else 0.0


MAX_BUCKETS = 240
SPANS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400)


@dataclass(frozen=True, slots=True)
class SecondStatistics:
    """What was finished in one second.

    Attributes:
        at: The second, since the epoch.
        lines: Lines finished, failed ones included.
        failed: Of these, the failed ones.
        prompt_tokens: Of the lines that an engine answered.
        completion_tokens: Of the lines that an engine answered.
    """

    at: int
    lines: int
    failed: int
    prompt_tokens: int
    completion_tokens: int


class Timeline:
    """The time in which a batch ran, without the gaps between its runs.

    Args:
        runs: In any order; they may overlap.
    """

    def __init__(self, runs: Iterable[RunStatistics]) -> None:
        self._intervals = _merge_intervals(runs)
        lengths = [end - begin for begin, end in self._intervals]
        self._elapsed_before = [0.0, *accumulate(lengths)]

    @property
    def elapsed_s(self) -> float:
        """Seconds of work."""
        return self._elapsed_before[-1]

    @property
    def span_s(self) -> int:
        """How long a stretch is so that there are not too many."""
        fitting = (span for span in SPANS_S if self.elapsed_s <= span * MAX_BUCKETS)
        return next(fitting, int(self.elapsed_s / MAX_BUCKETS) + 1)

    def make_buckets(self, seconds: Iterable[SecondStatistics]) -> tuple[TimelineBucket, ...]:
        """What was finished when. Stretches without anything are told, too.

        Args:
            seconds: Ascending; those in which nothing was finished may be left out.
        """
        span = self.span_s
        count = max(1, int(-(-self.elapsed_s // span)))
        sums = [[0, 0, 0, 0] for _ in range(count)]
        for second in seconds:
            place = min(count - 1, int(self.active_time_at(second.at + 0.5) / span))
            values = (second.lines, second.failed, second.prompt_tokens, second.completion_tokens)
            sums[place] = [old + new for old, new in zip(sums[place], values, strict=True)]
        return tuple(
            self._make_bucket(place * span, *bucket_sums) for place, bucket_sums in enumerate(sums)
        )

    def _make_bucket(
        self, at_s: float, lines: int, failed: int, prompt_tokens: int, completion_tokens: int
    ) -> TimelineBucket:
        return TimelineBucket(
            at_s=at_s,
            span_s=max(0.001, min(self.span_s, self.elapsed_s - at_s)),
            lines=lines,
            failed=failed,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
        )

    def active_time_at(self, at: float) -> float:
        """The seconds of work before a moment; one between two runs counts to the one before."""
        for (begin, end), before in zip(self._intervals, self._elapsed_before, strict=False):
            if at <= end:
                return before + max(0.0, at - begin)
        return self.elapsed_s


def _merge_intervals(runs: Iterable[RunStatistics]) -> Sequence[tuple[float, float]]:
    """The stretches of time in which at least one of them ran."""
    united: list[tuple[float, float]] = []
    for run in sorted(runs, key=lambda run: run.begun_at):
        if united and run.begun_at <= united[-1][1]:
            united[-1] = (united[-1][0], max(united[-1][1], run.ended_at))
        else:
            united.append((run.begun_at, max(run.begun_at, run.ended_at)))
    return united
