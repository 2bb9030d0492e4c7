"""What a journal tells: value objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from foundry_api.batch.types import BatchOptions

__all__ = [
    "BatchStatus",
    "CancelMode",
    "CheckResult",
    "PublishedOutput",
    "ResultCounts",
    "RunnerStatus",
]

CancelMode = Literal["drain", "stop"]
"""How to leave: finish what is in flight, or stop it."""


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
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


class ResultCounts(msgspec.Struct, frozen=True, kw_only=True):
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


class PublishedOutput(msgspec.Struct, frozen=True, kw_only=True):
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

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> PublishedOutput:
        """Read back what a journal keeps as JSON."""
        return msgspec.convert(row, cls, dec_hook=lambda kind, value: kind(value))


class RunnerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A process that works, or worked last, on a batch.

    Attributes:
        number: Its number among the batch's.
        pid: Its process.
        alive: Whether it still holds its lock.
        shared: Whether it shares the work.
        started_at: When it began, in seconds since the epoch.
        last_seen_at: When it last gave a sign.
        ended_at: When it left; None if it is there, or died.
        cancel: What it was asked to do, if anything.
        progress: What it last told of itself: JSON; empty before that.
    """

    number: int
    pid: int
    alive: bool
    shared: bool
    started_at: float
    last_seen_at: float
    ended_at: float | None
    cancel: CancelMode | None
    progress: bytes


class BatchStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as its journal knows it.

    Attributes:
        directory: Where the journal lies.
        options: What the batch was last told.
        started_at: When the journal was begun, in seconds since the epoch.
        counts: What is finished.
        failures: How many lines failed, by the name of the error's type.
        total: Lines of the input; None as long as nobody counted them.
        checked: What the check found; None without one.
        published: What was written last; None before that.
        current: Whether what was written holds everything that is finished.
        runners: Who works on it, and who worked on it last.
    """

    directory: Path
    options: BatchOptions
    started_at: float
    counts: ResultCounts
    failures: dict[str, int]
    total: int | None
    checked: CheckResult | None
    published: PublishedOutput | None
    current: bool
    runners: tuple[RunnerStatus, ...]

    @property
    def running(self) -> bool:
        """Whether anybody works on it."""
        return any(runner.alive for runner in self.runners)
