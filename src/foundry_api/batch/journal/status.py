"""Inspect or cancel a batch from a process that does not work on it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from foundry_api.batch.journal.database import (
    get_meta,
    get_meta_as,
    open_existing,
    translate_storage_errors,
)
from foundry_api.batch.journal.runners import list_runners
from foundry_api.batch.journal.statistics import (
    compute_statistics,
    count_failures_by_type,
    count_results,
)
from foundry_api.batch.journal.types import BatchStatus, CheckResult, PublishedOutput
from foundry_api.batch.types import BatchOptions
from foundry_api.storage.sqlite import DamagedFile

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.batch.journal.types import CancelMode
    from foundry_api.batch.statistics import BatchStatistics

__all__ = ["read_statistics", "read_status", "request_cancel"]


def read_status(directory: Path) -> BatchStatus:
    """Read the state of a batch. Safe while runners work on it; changes nothing."""
    with translate_storage_errors(directory), closing(open_existing(directory)) as database:
        database.execute("begin")  # one snapshot for all the queries
        options = get_meta_as(database, "options", BatchOptions)
        started_at = get_meta_as(database, "began", float)
        if options is None or started_at is None:
            raise DamagedFile("it does not say which batch was started")
        return BatchStatus(
            directory=directory,
            options=options,
            started_at=started_at,
            counts=count_results(database),
            failures=count_failures_by_type(database),
            total=get_meta_as(database, "total", int),
            checked=get_meta_as(database, "checked", CheckResult),
            published=get_meta_as(database, "published", PublishedOutput),
            current=get_meta(database, "current") is not None,
            # A runner that ended before its first heartbeat has nothing to show.
            runners=tuple(
                runner
                for runner in list_runners(directory, database)
                if runner.progress or runner.alive
            ),
        )


def read_statistics(directory: Path) -> BatchStatistics:
    """Compute the statistics of a batch so far. Safe while runners work on it; changes nothing."""
    with translate_storage_errors(directory), closing(open_existing(directory)) as database:
        database.execute("begin")
        return compute_statistics(database)


def request_cancel(directory: Path, mode: CancelMode) -> int:
    """Request all live runners of a batch to stop, at their next heartbeat; return their number."""
    with (
        translate_storage_errors(directory),
        closing(open_existing(directory, writes=True)) as database,
    ):
        alive = [runner for runner in list_runners(directory, database) if runner.alive]
        for runner in alive:
            database.execute("update runner set cancel = ? where number = ?", (mode, runner.number))
        return len(alive)
