"""Who works on a batch: a row for each runner, and a lock that the system frees when it dies."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from foundry_api.batch.journal.told import RunnerStatus
from foundry_api.errors import BatchInUse, ServiceStartFailed
from foundry_api.service.lock import FileLock

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

__all__ = ["Runner", "added_runner", "known_runners"]

COLUMNS = "number, pid, shared, since, seen, ended, cancel, progress"


class Runner:
    """This process, as one that works on a batch.

    Args:
        directory: The journal's.
        database: The journal.
        shared: Whether others may work on it, too.
        now: Seconds since the epoch.

    Attributes:
        number: Its number among the batch's runners.

    Raises:
        BatchInUse: Another one works on it, and not both share it.
    """

    def __init__(
        self, directory: Path, database: sqlite3.Connection, *, shared: bool, now: float
    ) -> None:
        self.number = 0
        self._directory = directory
        self._database = database
        for other in known_runners(directory, database):
            if other.alive and not (shared and other.shared):
                raise BatchInUse(f"process {other.pid} works on this batch in {directory}")
            if not other.alive:
                database.execute("delete from claim where runner = ?", (other.number,))
                lock_file(directory, other.number).unlink(missing_ok=True)
        self.number = added_runner(database, shared=shared, now=now)
        self._lock = FileLock(lock_file(directory, self.number), timeout_s=0)
        self._lock.__enter__()

    def leave(self, now: float) -> None:
        """It works no more; what it claimed is free."""
        try:
            self._database.execute("delete from claim where runner = ?", (self.number,))
            self._database.execute(
                "update runner set ended = ?, seen = ? where number = ?", (now, now, self.number)
            )
        finally:
            self._lock.__exit__()
            with suppress(OSError):
                lock_file(self._directory, self.number).unlink()


def added_runner(
    database: sqlite3.Connection, *, shared: bool, now: float, ended: float | None = None
) -> int:
    """The number of a new runner, which no segment has either."""
    cursor = database.execute(
        "insert into runner (pid, shared, since, seen, ended, progress) values (?, ?, ?, ?, ?, ?)",
        (os.getpid(), shared, now, now, ended, b""),
    )
    return cursor.lastrowid or 0


def known_runners(directory: Path, database: sqlite3.Connection) -> list[RunnerStatus]:
    """All that ever worked on a batch, the last one first."""
    rows = database.execute(f"select {COLUMNS} from runner order by number desc").fetchall()  # noqa: S608 - names of our own
    return [
        RunnerStatus(
            number=number,
            pid=pid,
            alive=ended is None and is_alive(directory, number),
            shared=bool(shared),
            since=since,
            seen=seen,
            ended=ended,
            cancel=cancel,
            progress=progress,
        )
        for number, pid, shared, since, seen, ended, cancel, progress in rows
    ]


def is_alive(directory: Path, number: int) -> bool:
    """Whether a runner holds its lock."""
    path = lock_file(directory, number)
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout_s=0):
            return False
    except ServiceStartFailed:
        return True


def lock_file(directory: Path, number: int) -> Path:
    """The lock of a runner."""
    return directory / f"runner-{number}.lock"
