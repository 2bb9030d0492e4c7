"""Value types that a journal returns."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

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
"""How a runner stops: `drain` finishes the requests in flight, `stop` cancels them."""


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of checking the whole input.

    Attributes:
        total: Lines of the input, invalid ones included.
        models: Number of lines for each model.
        duplicates: Indexes of lines that repeat an earlier line's custom_id.
        bad: Number of lines that cannot be sent, duplicates included.
    """

    total: int
    models: dict[str, int]
    duplicates: frozenset[int]
    bad: int = 0


class ResultCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of finished lines.

    Attributes:
        done: Answered lines.
        failed: Lines that failed for good.
        shared: Answered lines that share an identical line's answer or come from the cache.
        prompt_tokens: As counted by the services.
        completion_tokens: As counted by the services.
        attempts: HTTP requests sent.
    """

    done: int = 0
    failed: int = 0
    shared: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 0

    @property
    def finished(self) -> int:
        return self.done + self.failed


class PublishedOutput(msgspec.Struct, frozen=True, kw_only=True):
    """The files that were last published.

    Attributes:
        output: The output file.
        lines: Its number of lines or rows.
        errors: The error file; None if no line failed.
        failed: Number of lines in the error file.
        at: Seconds since the epoch.
    """

    output: Path
    lines: int
    errors: Path | None
    failed: int
    at: float


class RunnerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A process that works on a batch, or did.

    Attributes:
        number: Its number among the batch's runners.
        pid: Its process id.
        alive: Whether it holds its lock.
        shared: Whether it allows other runners.
        started_at: Seconds since the epoch.
        last_seen_at: Time of its last heartbeat or commit.
        ended_at: When it closed the journal; None if it runs, or died.
        cancel: The requested cancellation, if any.
        progress: The JSON of its last heartbeat; empty before that.
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
    """The state of a batch.

    Attributes:
        directory: The journal's directory.
        options: The options of the last run.
        started_at: When the batch was first run, in seconds since the epoch.
        counts: Counts of finished lines.
        failures: Number of failed lines by the name of the error's type.
        total: Lines of the input; None until they are counted.
        checked: The result of the input check; None without one.
        published: The files published last; None before that.
        current: Whether the published files contain every finished line.
        runners: The runners, latest first.
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
        return any(runner.alive for runner in self.runners)
