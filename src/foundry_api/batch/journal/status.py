"""A batch seen from outside: by who does not work on it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from foundry_api.batch.journal.database import (
    get_meta,
    get_meta_as,
    open_existing,
    parse_published,
    translate_storage_errors,
)
from foundry_api.batch.journal.runners import list_runners
from foundry_api.batch.journal.statistics import (
    compute_statistics,
    count_failures_by_type,
    count_results,
)
from foundry_api.batch.journal.types import BatchStatus, CheckResult
from foundry_api.batch.types import BatchOptions
from foundry_api.storage.sqlite import DamagedFile

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.batch.journal.types import CancelMode
    from foundry_api.batch.statistics import BatchStatistics

__all__ = ["read_statistics", "read_status", "request_cancel"]


def read_status(directory: Path) -> BatchStatus:
    """How a batch stands. It changes nothing, and may be asked while others work.

    Raises:
        BatchStorageFailed: There is no journal, or it cannot be read.
    """
    with translate_storage_errors(directory), closing(open_existing(directory)) as database:
        database.execute("begin")  # all of it is of one moment
        published = get_meta(database, "published")
        options, started_at = (
            get_meta_as(database, "options", BatchOptions),
            get_meta_as(database, "began", float),
        )
        if options is None or started_at is None:
            raise DamagedFile("it does not say what was begun")
        return BatchStatus(
            directory=directory,
            options=options,
            started_at=started_at,
            counts=count_results(database),
            failures=count_failures_by_type(database),
            total=get_meta_as(database, "total", int),
            checked=get_meta_as(database, "checked", CheckResult),
            published=None if published is None else parse_published(published),
            current=get_meta(database, "current") is not None,
            runners=tuple(
                runner
                for runner in list_runners(directory, database)
                if runner.progress or runner.alive
            ),
        )


def read_statistics(directory: Path) -> BatchStatistics:
    """A batch in figures, so far. It changes nothing, and may be asked while others work.

    Raises:
        BatchStorageFailed: There is no journal, or it cannot be read.
    """
    with translate_storage_errors(directory), closing(open_existing(directory)) as database:
        database.execute("begin")
        return compute_statistics(database)


def request_cancel(directory: Path, mode: CancelMode) -> int:
    """Ask everybody who works on a batch to leave.

    Args:
        directory: Where the journal lies.
        mode: `drain` finishes what is in flight, `stop` does not.

    Returns:
        How many were asked; 0 if nobody works on it.

    Raises:
        BatchStorageFailed: There is no journal, or it cannot be used.
    """
    with (
        translate_storage_errors(directory),
        closing(open_existing(directory, writes=True)) as database,
    ):
        alive = [runner for runner in list_runners(directory, database) if runner.alive]
        for runner in alive:
            database.execute("update runner set cancel = ? where number = ?", (mode, runner.number))
        return len(alive)
