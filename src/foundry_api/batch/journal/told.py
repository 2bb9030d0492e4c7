"""What a journal tells: value objects."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from foundry_api.batch.options import BatchOptions
from foundry_api.observe.histogram import Distribution

__all__ = [
    "BatchStatus",
    "CancelHow",
    "Checked",
    "Counts",
    "Failures",
    "Figures",
    "Interval",
    "ModelFigures",
    "Published",
    "RunnerStatus",
    "Spread",
]

CancelHow = Literal["drain", "stop"]
"""How to leave: finish what is in flight, or stop it."""


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What a check of the whole input found.

    Attributes:
        total: Lines of the input, bad ones included.
        models: Lines that ask each model.
        duplicates: Indexes of lines whose custom_id an earlier line had.
        bad: Lines that cannot be asked, duplicates included.
    """

    total: int
    models: dict[str, int]
    duplicates: frozenset[int]
    bad: int = 0


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What is finished.

    Attributes:
        done: Lines that are answered.
        failed: Lines that failed for good.
        shared: Of those answered, the ones that took another's answer, or one from the cache.
        prompt_tokens: As the services counted them.
        completion_tokens: As the services counted them.
        attempts: HTTP requests made.
    """

    done: int = 0
    failed: int = 0
    shared: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 0

    @property
    def finished(self) -> int:
        """Lines that are answered or failed."""
        return self.done + self.failed


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """How something is spread over lines; all 0 without any.

    Attributes:
        count: Lines that have it.
        mean: Their mean.
        p50: Half are at most this: an exact quantile, as are the following.
        p90: Nine of ten are at most this.
        p95: 95 of 100 are at most this.
        p99: 99 of 100 are at most this.
        highest: The highest.
        histogram: For a plot.
    """

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    highest: float
    histogram: Distribution


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """What finished in a part of the time.

    Attributes:
        at: Its begin, in seconds since the epoch.
        done: Lines that were answered.
        failed: Lines that failed.
        prompt_tokens: Of those lines.
        completion_tokens: Of those lines.
    """

    at: float
    done: int
    failed: int
    prompt_tokens: int
    completion_tokens: int


class Failures(msgspec.Struct, frozen=True, kw_only=True):
    """Lines that failed for the same reason.

    Attributes:
        code: Name of the error's type.
        count: How many.
        example: Of the first one of them, the line of the error file.
    """

    code: str
    count: int
    example: bytes


class ModelFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What one model did.

    Attributes:
        model: Its id, or the name that was asked for.
        counts: Its lines.
    """

    model: str
    counts: Counts


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """A batch in figures.

    Attributes:
        counts: What is finished.
        first: When its first line finished, in seconds since the epoch; None before that.
        last: When its last line finished.
        duration: Seconds of answered lines, those that took another's answer aside.
        queued: Of that, waiting in the client.
        first_token: Seconds to the first token.
        interval_s: How long each part of the time is.
        intervals: The parts of the time in which lines finished, at most some 200.
        failures: By code, the most frequent first, at most 50.
        models: By model, the busiest first, at most 50.
    """

    counts: Counts
    first: float | None
    last: float | None
    duration: Spread
    queued: Spread
    first_token: Spread
    interval_s: float
    intervals: tuple[Interval, ...]
    failures: tuple[Failures, ...]
    models: tuple[ModelFigures, ...]


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What was written.

    Attributes:
        output: The output.
        lines: Its lines or rows.
        errors: The error file; None if no line failed, so that there is none.
        failed: Its lines.
        at: When, in seconds since the epoch.
    """

    output: Path
    lines: int
    errors: Path | None
    failed: int
    at: float


class RunnerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A process that works, or worked last, on a batch.

    Attributes:
        number: Its number among the batch's.
        pid: Its process.
        alive: Whether it still holds its lock.
        shared: Whether it shares the work.
        since: When it began, in seconds since the epoch.
        seen: When it last gave a sign.
        ended: When it left; None if it is there, or died.
        cancel: What it was asked to do, if anything.
        progress: What it last told of itself: JSON; empty before that.
    """

    number: int
    pid: int
    alive: bool
    shared: bool
    since: float
    seen: float
    ended: float | None
    cancel: CancelHow | None
    progress: bytes


class BatchStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as its journal knows it.

    Attributes:
        directory: Where the journal lies.
        options: What the batch was last told.
        began: When the journal was begun, in seconds since the epoch.
        counts: What is finished.
        total: Lines of the input; None as long as nobody counted them.
        checked: What the check found; None without one.
        published: What was written last; None before that.
        current: Whether what was written holds everything that is finished.
        runners: Who works on it, and who worked on it last.
    """

    directory: Path
    options: BatchOptions
    began: float
    counts: Counts
    total: int | None
    checked: Checked | None
    published: Published | None
    current: bool
    runners: tuple[RunnerStatus, ...]

    @property
    def running(self) -> bool:
        """Whether anybody works on it."""
        return any(runner.alive for runner in self.runners)
