"""Who works on a batch: a row for each runner, and a lock that the system frees when it dies."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from foundry_api.batch.journal.database import transaction
from foundry_api.batch.journal.types import RunnerStatus
from foundry_api.storage.lock import FileLock, LockTimeout, is_held
from foundry_api.storage.sqlite import check_row
from foundry_api.types.errors import BatchInUse

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.batch.journal.types import CancelMode

__all__ = ["Runner", "find_runner", "list_runners"]

COLUMNS = "number, pid, shared, since, seen, ended, cancel, progress"

NONE = type(None)
LOCK_TIMEOUT_S = 5.0
"""A new runner waits so long for its own lock: somebody may be looking whether it is held."""


class Runner:
    """This process, as one that works on a batch. Make it under the lock of the directory.

    Args:
        directory: The journal's.
        database: The journal.
        shared: Whether others may work on it, too.
        now: Seconds since the epoch.

    Attributes:
        number: Its number among the batch's runners.
        shared: Whether others may work on it, too.

    Raises:
        BatchInUse: Another one works on it, and not both share it.
    """

    def __init__(
        self, directory: Path, database: sqlite3.Connection, *, shared: bool, now: float
    ) -> None:
        self.shared = shared
        self._directory = directory
        self._database = database
        for other in list_runners(directory, database):
            if other.alive and not (shared and other.shared):
                raise BatchInUse(f"process {other.pid} works on this batch in {directory}")
            if not other.alive:
                _remove_lock(directory, other.number)
        with transaction(database):  # nobody sees the row before the lock is held
            self.number = self._insert_row(now)
            self._lock = FileLock(get_lock_path(directory, self.number), timeout_s=LOCK_TIMEOUT_S)
            try:
                self._lock.__enter__()
            except LockTimeout as error:
                raise BatchInUse(str(error)) from error

    def _insert_row(self, now: float) -> int:
        cursor = self._database.execute(
            "insert into runner (pid, shared, since, seen, progress) values (?, ?, ?, ?, ?)",
            (os.getpid(), self.shared, now, now, b""),
        )
        return cursor.lastrowid or 0

    @property
    def live_peers(self) -> list[RunnerStatus]:
        """The others that work on it now."""
        known = list_runners(self._directory, self._database)
        return [runner for runner in known if runner.alive and runner.number != self.number]

    def heartbeat(self, progress: bytes, now: float) -> CancelMode | None:
        """Give a sign of life. Whether it was asked to end."""
        self._database.execute(
            "update runner set seen = ?, progress = ? where number = ?",
            (now, progress, self.number),
        )
        row = self._database.execute("select cancel from runner where number = ?", (self.number,))
        (mode,) = check_row(row.fetchone(), (str, NONE))
        return cast("CancelMode | None", mode)

    def close(self, now: float) -> None:
        """It works no more; what it claimed is free.

        Where the disk is full the rows stay as they are. It then looks like one that died.
        """
        try:
            with suppress(sqlite3.Error), transaction(self._database):
                self._database.execute("delete from claim where runner = ?", (self.number,))
                self._database.execute(
                    "update runner set ended = ?, seen = ? where number = ?",
                    (now, now, self.number),
                )
        finally:
            self._lock.__exit__()
            _remove_lock(self._directory, self.number)


def list_runners(directory: Path, database: sqlite3.Connection) -> list[RunnerStatus]:
    """All that ever worked on a batch, the last one first."""
    rows = database.execute(f"select {COLUMNS} from runner order by number desc").fetchall()  # noqa: S608 - names of our own
    return [_make_status(directory, row) for row in rows]


def find_runner(directory: Path, database: sqlite3.Connection, number: int) -> RunnerStatus | None:
    """One that works, or worked, on a batch."""
    row = database.execute(
        f"select {COLUMNS} from runner where number = ?",  # noqa: S608 - names of our own
        (number,),
    ).fetchone()
    return None if row is None else _make_status(directory, row)


def _make_status(directory: Path, row: tuple[Any, ...]) -> RunnerStatus:
    columns = (int, int, int, float, float, (float, NONE), (str, NONE), bytes)
    number, pid, shared, since, seen, ended, cancel, progress = check_row(row, *columns)
    return RunnerStatus(
        number=number,
        pid=pid,
        alive=ended is None and is_held(get_lock_path(directory, number)),
        shared=bool(shared),
        started_at=since,
        last_seen_at=seen,
        ended_at=ended,
        cancel=cancel,
        progress=progress,
    )


def get_lock_path(directory: Path, number: int) -> Path:
    """The lock of a runner. No two have the same number, so it can be removed after its end."""
    return directory / f"runner-{number}.lock"


def _remove_lock(directory: Path, number: int) -> None:
    with suppress(PermissionError):  # of Windows, while somebody looks at it
        get_lock_path(directory, number).unlink(missing_ok=True)
