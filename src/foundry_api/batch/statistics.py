"""The statistics of a batch, for its summary and its report."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from foundry_api.observe.histogram import Distribution, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable

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

# Bucket bounds for latencies: 1 ms to 10,000 s, each a tenth above the one below, so that a
# quantile is accurate to within some percent.
LATENCY_BUCKETS = tuple(
    round(10.0 ** (step / BUCKETS_PER_DECADE), 9)
    for step in range(-3 * BUCKETS_PER_DECADE, 4 * BUCKETS_PER_DECADE + 1)
)

MAX_BUCKETS = 240
SPANS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatistics:
    """One run of the batch; several may run at the same time."""

    started_at: float  # Unix time in seconds
    ended_at: float  # when the run ended, or its last heartbeat
    lines: int  # lines that the run finished, failed ones included


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineBucket:
    """What finished in one interval of the timeline."""

    at_s: float  # where the interval begins, in seconds of work: gaps between runs do not count
    span_s: float
    lines: int  # finished lines, failed ones included
    failed: int
    prompt_tokens: int  # tokens of the lines that the engine answered, without shared answers
    completion_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorStatistics:
    """One type of error."""

    code: str  # name of the error's type
    count: int
    custom_id: str  # the first line with this error, and its message and hint
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatistics:
    """Statistics of one model; token counts are the service's."""

    model: str  # the model's id, or the requested name; empty for lines that name none
    lines: int  # finished lines, failed ones included
    failed: int
    prompt_tokens: int
    completion_tokens: int


def _empty_histogram() -> Distribution:
    return Histogram(LATENCY_BUCKETS).snapshot()


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatistics:
    """Statistics of a batch over all its runs; token counts are the service's."""

    done: int = 0
    failed: int = 0
    shared: int = 0  # lines among the done ones that share the answer of an identical line
    prompt_tokens: int = 0
    completion_tokens: int = 0
    # Seconds of work: gaps between runs do not count, and overlapping runs count once.
    elapsed_s: float = 0.0
    runs: tuple[RunStatistics, ...] = ()  # oldest first
    # Of the lines that the engine answered: from the first attempt to the end.
    latency: Distribution = field(default_factory=_empty_histogram)
    # Of the lines with any text.
    time_to_first_token: Distribution = field(default_factory=_empty_histogram)
    throughput: tuple[TimelineBucket, ...] = ()
    errors: tuple[ErrorStatistics, ...] = ()  # most frequent first
    models: tuple[ModelStatistics, ...] = ()  # busiest first

    @property
    def lines_per_s(self) -> float:
        return (self.done + self.failed) / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def tokens_per_s(self) -> float:
        return self.completion_tokens / self.elapsed_s if self.elapsed_s else 0.0


@dataclass(frozen=True, slots=True)
class SecondStatistics:
    """What finished in one second."""

    at: int  # Unix time
    lines: int  # finished lines, failed ones included
    failed: int
    prompt_tokens: int  # tokens of the lines that the engine answered, without shared answers
    completion_tokens: int


class Timeline:
    """The time in which a batch ran, without the gaps between its runs."""

    def __init__(self, runs: Iterable[RunStatistics]) -> None:
        # The intervals in which at least one run was active.
        self._intervals: list[tuple[float, float]] = []
        for run in sorted(runs, key=lambda run: run.started_at):
            if self._intervals and run.started_at <= self._intervals[-1][1]:
                begin, end = self._intervals[-1]
                self._intervals[-1] = begin, max(end, run.ended_at)
            else:
                # The wall clock may have been set back while it ran.
                self._intervals.append((run.started_at, max(run.started_at, run.ended_at)))
        lengths = [end - begin for begin, end in self._intervals]
        self._elapsed_before = [0.0, *accumulate(lengths)]

    @property
    def elapsed_s(self) -> float:
        return self._elapsed_before[-1]

    @property
    def span_s(self) -> int:
        """The length of an interval, such that there are at most MAX_BUCKETS of them."""
        fitting = (span for span in SPANS_S if self.elapsed_s <= span * MAX_BUCKETS)
        return next(fitting, int(self.elapsed_s / MAX_BUCKETS) + 1)

    def make_buckets(self, seconds: Iterable[SecondStatistics]) -> tuple[TimelineBucket, ...]:
        """Sum up ascending seconds into intervals; empty seconds may be left out."""
        span = self.span_s
        count = max(1, int(-(-self.elapsed_s // span)))
        sums = [[0, 0, 0, 0] for _ in range(count)]
        for second in seconds:
            # A line counts for the middle of its second: the second may lie across a run's edge.
            bucket = min(count - 1, int(self.get_active_s(second.at + 0.5) / span))
            values = (second.lines, second.failed, second.prompt_tokens, second.completion_tokens)
            sums[bucket] = [old + new for old, new in zip(sums[bucket], values, strict=True)]
        return tuple(
            TimelineBucket(
                at_s=bucket * span,
                # Not 0 even for an empty timeline: rates are divided by it.
                span_s=max(0.001, min(span, self.elapsed_s - bucket * span)),
                lines=lines,
                failed=failed,
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
            )
            for bucket, (lines, failed, prompt_tokens, completion_tokens) in enumerate(sums)
        )

    def get_active_s(self, at: float) -> float:
        """Return the seconds of work before `at`; a time in a gap counts as the gap's begin."""
        for (begin, end), before in zip(self._intervals, self._elapsed_before, strict=False):
            if at <= end:
                return before + max(0.0, at - begin)
        return self.elapsed_s
