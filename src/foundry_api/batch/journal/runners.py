"""The runners of a batch: a row and a lock file for each, and the blocks of lines they claim.

The system frees a lock when its process dies, so a runner is alive as long as its lock is held.
"""

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
    from collections.abc import Callable
    from pathlib import Path

    from foundry_api.batch.journal.types import CancelMode

__all__ = ["BLOCK_LINES", "Claims", "Runner", "find_runner", "list_runners"]

BLOCK_LINES = 64
"""Lines per claimed block: block `n` starts at index `n * BLOCK_LINES`.

Small blocks keep runners from waiting long for the last one at the end of a batch; each claim costs
a wait for the disk.
"""

COLUMNS = "number, pid, shared, since, seen, ended, cancel, progress"
NONE = type(None)
# Another process may be testing at this moment whether the lock is held.
LOCK_TIMEOUT_S = 5.0


class Runner:
    """This process as a runner of a batch. Create it under the lock of the directory."""

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
        # The row becomes visible only with its lock held: without the lock it looks dead.
        with transaction(database):
            cursor = database.execute(
                "insert into runner (pid, shared, since, seen, progress) values (?, ?, ?, ?, ?)",
                (os.getpid(), shared, now, now, b""),
            )
            self.number = cursor.lastrowid or 0
            self._lock = FileLock(_get_lock_path(directory, self.number), timeout_s=LOCK_TIMEOUT_S)
            try:
                self._lock.__enter__()
            except LockTimeout as error:
                raise BatchInUse(str(error)) from error

    @property
    def live_peers(self) -> list[RunnerStatus]:
        """The other runners that are alive."""
        runners = list_runners(self._directory, self._database)
        return [runner for runner in runners if runner.alive and runner.number != self.number]

    def heartbeat(self, progress: bytes, now: float) -> CancelMode | None:
        """Record that this runner is alive; return the requested cancellation, if any."""
        self._database.execute(
            "update runner set seen = ?, progress = ? where number = ?",
            (now, progress, self.number),
        )
        row = self._database.execute("select cancel from runner where number = ?", (self.number,))
        (mode,) = check_row(row.fetchone(), (str, NONE))
        return cast("CancelMode | None", mode)

    def close(self, now: float) -> None:
        """Free the claims and the lock."""
        try:
            # On a full disk the rows stay as they are, and the runner looks like one that died.
            with suppress(sqlite3.Error), transaction(self._database):
                self._database.execute("delete from claim where runner = ?", (self.number,))
                self._database.execute(
                    "update runner set ended = ?, seen = ? where number = ?",
                    (now, now, self.number),
                )
        finally:
            self._lock.__exit__()
            _remove_lock(self._directory, self.number)


class Claims:
    """Blocks of lines that runners claim. A claim lapses when its runner dies or goes silent."""

    def __init__(
        self,
        directory: Path,
        database: sqlite3.Connection,
        runner: Runner,
        *,
        monotonic: Callable[[], float],
        lease_s: float,
    ) -> None:
        self._directory = directory
        self._database = database
        self._runner = runner
        self._monotonic = monotonic
        self._lease_s = lease_s
        # Of each other runner: the heartbeat seen last, and when this process saw it first.
        self._heartbeats: dict[int, tuple[float, float]] = {}

    def claim(self, block: int) -> bool:
        """Claim a block; return whether it belongs to this runner now."""
        if not self._runner.shared:
            return True  # no other runner can exist, so save the transaction
        with transaction(self._database):
            row = self._database.execute(
                "select runner from claim where block = ?", (block,)
            ).fetchone()
            if row is not None:
                (owner,) = check_row(row, int)
                if owner != self._runner.number and self._is_responsive(owner):
                    return False
            self._database.execute(
                "insert or replace into claim values (?, ?)", (block, self._runner.number)
            )
            return True

    def _is_responsive(self, number: int) -> bool:
        """Whether another runner is alive and sent a heartbeat within the lease."""
        other = find_runner(self._directory, self._database, number)
        if other is None or not other.alive:
            return False
        # Wall clocks jump, so heartbeat times are compared only for change. How long one has not
        # changed is measured on this process's monotonic clock.
        now = self._monotonic()
        seen_at, since = self._heartbeats.get(number, (None, now))
        if seen_at != other.last_seen_at:
            self._heartbeats[number] = (other.last_seen_at, now)
            return True
        return now - since < self._lease_s


def list_runners(directory: Path, database: sqlite3.Connection) -> list[RunnerStatus]:
    """Return every runner that the batch ever had, latest first."""
    rows = database.execute(f"select {COLUMNS} from runner order by number desc").fetchall()  # noqa: S608 - constant column names
    return [_make_status(directory, row) for row in rows]


def find_runner(directory: Path, database: sqlite3.Connection, number: int) -> RunnerStatus | None:
    row = database.execute(
        f"select {COLUMNS} from runner where number = ?",  # noqa: S608 - constant column names
        (number,),
    ).fetchone()
    return None if row is None else _make_status(directory, row)


def _make_status(directory: Path, row: tuple[Any, ...]) -> RunnerStatus:
    columns = (int, int, int, float, float, (float, NONE), (str, NONE), bytes)
    number, pid, shared, since, seen, ended, cancel, progress = check_row(row, *columns)
    return RunnerStatus(
        number=number,
        pid=pid,
        alive=ended is None and is_held(_get_lock_path(directory, number)),
        shared=bool(shared),
        started_at=since,
        last_seen_at=seen,
        ended_at=ended,
        cancel=cancel,
        progress=progress,
    )


def _get_lock_path(directory: Path, number: int) -> Path:
    # Numbers are never reused, so a dead runner's lock file can be removed safely.
    return directory / f"runner-{number}.lock"


def _remove_lock(directory: Path, number: int) -> None:
    # Windows refuses while another process is testing the lock; the next runner removes it.
    with suppress(PermissionError):
        _get_lock_path(directory, number).unlink(missing_ok=True)
