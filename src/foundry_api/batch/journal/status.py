"""A batch seen from outside: by who does not work on it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from foundry_api.batch.journal.database import begun, meta, meta_of, published_of, storage
from foundry_api.batch.journal.runners import known_runners
from foundry_api.batch.journal.statistics import counted, failed_by_kind, figured
from foundry_api.batch.journal.types import BatchStatus, Checked
from foundry_api.batch.types import BatchOptions
from foundry_api.storage.sqlite import DamagedFile

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.batch.journal.types import CancelHow
    from foundry_api.batch.statistics import Figures

__all__ = ["ask_cancel", "read_figures", "read_status"]


def read_status(directory: Path) -> BatchStatus:
    """How a batch stands. It changes nothing, and may be asked while others work.

    Raises:
        BatchStorageFailed: There is no journal, or it cannot be read.
    """
    with storage(directory), closing(begun(directory)) as database:
        database.execute("begin")  # all of it is of one moment
        published = meta(database, "published")
        options, began = (
            meta_of(database, "options", BatchOptions),
            meta_of(database, "began", float),
        )
        if options is None or began is None:
            raise DamagedFile("it does not say what was begun")
        return BatchStatus(
            directory=directory,
            options=options,
            began=began,
            counts=counted(database),
            failures=failed_by_kind(database),
            total=meta_of(database, "total", int),
            checked=meta_of(database, "checked", Checked),
            published=None if published is None else published_of(published),
            current=meta(database, "current") is not None,
            runners=tuple(
                each for each in known_runners(directory, database) if each.progress or each.alive
            ),
        )


def read_figures(directory: Path) -> Figures:
    """A batch in figures, so far. It changes nothing, and may be asked while others work.

    Raises:
        BatchStorageFailed: There is no journal, or it cannot be read.
    """
    with storage(directory), closing(begun(directory)) as database:
        database.execute("begin")
        return figured(database)


def ask_cancel(directory: Path, how: CancelHow) -> int:
    """Ask everybody who works on a batch to leave.

    Args:
        directory: Where the journal lies.
        how: `drain` finishes what is in flight, `stop` does not.

    Returns:
        How many were asked; 0 if nobody works on it.

    Raises:
        BatchStorageFailed: There is no journal, or it cannot be used.
    """
    with storage(directory), closing(begun(directory, writes=True)) as database:
        alive = [each for each in known_runners(directory, database) if each.alive]
        for each in alive:
            database.execute("update runner set cancel = ? where number = ?", (how, each.number))
        return len(alive)
