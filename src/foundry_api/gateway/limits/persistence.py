"""Stores budgets, so that a restart grants nothing anew.

A thread writes what changed twice a second, to a SQLite file in the gateway's directory. While it
cannot be written, calls are served on, and `problem` says why; nothing is lost unless the gateway
ends meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

from foundry_api.gateway.limits.accounts import Accounts, StoredBudget
from foundry_api.gateway.limits.budgets import BudgetState
from foundry_api.storage.database_files import FileFormat, get_file_identity, quarantine
from foundry_api.storage.lock import FileLock, LockTimeout
from foundry_api.storage.paths import PRIVATE_DIRECTORY
from foundry_api.storage.sqlite import (
    ForeignFile,
    OtherFormat,
    check_rows,
    is_damage,
    open_database,
    open_read_only,
)
from foundry_api.types.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path

    from foundry_api.gateway.keys.keyring import Keyring
    from foundry_api.gateway.keys.types import ApiKey
    from foundry_api.gateway.limits.admission import Admission

__all__ = ["BUDGET_FILE", "BudgetFile", "BudgetSaver", "read_used"]

BUDGET_FILE = "usage.db"

SAVE_INTERVAL_S = 0.5
BUSY_TIMEOUT_S = 1.0

# The application id is `fout`; it was that of the model usage files, `fouu`.
FORMAT = FileFormat(
    application_id=0x666F7574,
    version=1,
    schema="""
create table budgets (
    key_id text not null,
    name text not null,
    used integer not null,
    ends_at real not null,
    primary key (key_id, name)
) without rowid;
""",
    unmarked_tables=frozenset({"budgets"}),
    former_application_id=0x666F7575,
)

_T = TypeVar("_T")

log = logging.getLogger("foundry_api.gateway")


class BudgetFile:
    """The file of the budgets. Use it in one thread, as every method blocks.

    Methods raise the errors of SQLite and the file system.
    """

    def __init__(self, path: Path, *, wall_clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._wall_clock = wall_clock
        self._lock = FileLock(path.with_name(f"{path.name}.lock"), timeout_s=BUSY_TIMEOUT_S)
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        # By key and name: what the file contains, and what it does not contain yet.
        self._stored: dict[tuple[str, str], StoredBudget] = {}
        self._unsaved: dict[tuple[str, str], StoredBudget] = {}

    def read(self) -> list[StoredBudget]:
        """Return the budgets whose period has not ended. A damaged file is renamed.

        Raises:
            ConfigurationError: The file is not ours.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
        try:
            rows = self._read()
        except (ForeignFile, OtherFormat) as error:
            raise ConfigurationError(
                f"{self.path} does not contain the budgets of a gateway: {error}",
                hint="Move it away, or give the gateway another directory.",
            ) from error
        except (sqlite3.Error, OSError) as error:
            if not is_damage(error):
                raise
            # To refuse all calls because their counts are lost would be worse than to lose them.
            self.close()
            with self._lock:
                backup_path = quarantine(self.path, "damaged")
            log.warning(
                "the budgets in %s are damaged (%s): all count from zero; the file is now %s",
                self.path,
                error,
                backup_path.name,
            )
            rows = self._read()
        self._stored = {(row.key_id, row.name): row for row in rows}
        return rows

    def write(self, rows: Iterable[StoredBudget]) -> None:
        """Store budgets, with those that could not be stored before."""
        self._unsaved.update({(row.key_id, row.name): row for row in rows})
        if not self._unsaved:
            return
        try:
            db = self._connect()
            db.execute("begin immediate")
            db.executemany(
                "insert or replace into budgets values (?, ?, ?, ?)",
                [(row.key_id, row.name, *row.state) for row in self._unsaved.values()],
            )
            db.execute("commit")
        except BaseException:
            self.close()  # which also ends the transaction
            raise
        self._stored.update(self._unsaved)
        self._unsaved.clear()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _read(self) -> list[StoredBudget]:
        db = self._connect()
        db.execute("delete from budgets where ends_at <= ?", (self._wall_clock(),))
        return _read_rows(db)

    def _connect(self) -> sqlite3.Connection:
        # Compared before opening, which may create a file: it may get the number of a deleted one.
        is_known = get_file_identity(self.path) == self._identity
        if self._connection is None or not is_known:
            self.close()
            self._connection = open_database(
                self.path, FORMAT, lock=self._lock, timeout_s=BUSY_TIMEOUT_S
            )
            # A commit survives the end of the process, which is enough; a loss of power may take
            # the last ones.
            self._connection.execute("pragma synchronous = normal")
            if not is_known:  # it lacks what was stored in the earlier file
                self._unsaved = {**self._stored, **self._unsaved}
            self._identity = get_file_identity(self.path)
        return self._connection


def read_used(path: Path, key: ApiKey, now: float) -> dict[str, int]:
    """Return what a key has used of each of its limits, by what it counts: `tokens/d`.

    A gateway may be running, which stores that twice a second. The file stays as it is.

    Raises:
        sqlite3.Error: The file is damaged or cannot be read.
        ForeignFile: It is not ours.
        OtherFormat: Another version wrote it.
    """
    database = open_read_only(path, FORMAT, timeout_s=BUSY_TIMEOUT_S)
    rows: list[StoredBudget] = []
    if database is not None:
        with closing(database):
            rows = _read_rows(database)
    accounts = Accounts(lambda: now)
    accounts.restore(rows, [key])
    budgets = accounts.get(key).get_budgets()
    return {name: budget.get_state(now).used for name, budget in budgets.items()}


def _read_rows(database: sqlite3.Connection) -> list[StoredBudget]:
    rows = database.execute("select key_id, name, used, ends_at from budgets").fetchall()
    return [
        StoredBudget(key_id, name, BudgetState(used, ends_at))
        for key_id, name, used, ends_at in check_rows(rows, str, str, int, float)
    ]


class BudgetSaver:
    """Keeps the file of the budgets up to date. Use it on the event loop that opened it.

    Args:
        file: The file.
        admission: Whose accounts are stored.
        keyring: The keys that there are.
        sleep: Waits between two saves.
    """

    def __init__(
        self,
        file: BudgetFile,
        admission: Admission,
        keyring: Keyring,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._file = file
        self._admission = admission
        self._keyring = keyring
        self._known_keys = keyring.keys
        self._sleep = sleep
        self._thread = ThreadPoolExecutor(1, "foundry-api-budgets")
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """Why the budgets cannot be stored now; None if they can."""
        return self._problem

    async def open(self) -> None:
        """Continue with the stored budgets.

        Raises:
            ConfigurationError: The file cannot be used.
        """
        try:
            rows = await self._run(self._file.read)
        except (sqlite3.Error, OSError, LockTimeout) as error:
            raise ConfigurationError(
                f"the budgets of the keys in {self._file.path} cannot be read: {error}",
                hint="Check the disk, and the permissions of the directory.",
            ) from error
        self._admission.accounts.restore(rows, self._keyring.keys)

    async def watch(self) -> None:
        """Store what changes until cancelled."""
        while True:
            await self._sleep(SAVE_INTERVAL_S)
            if self._keyring.keys is not self._known_keys:
                self._known_keys = self._keyring.keys
                self._admission.keep_only(self._known_keys)
            await self.save(self._admission.accounts.take_changes())

    async def save(self, rows: list[StoredBudget]) -> None:
        """Store budgets; a failure is kept in `problem`, and the next save tries again."""
        if not rows and self._problem is None:
            return
        try:
            await self._run(self._file.write, rows)
        except (sqlite3.Error, OSError, LockTimeout, ForeignFile, OtherFormat) as error:
            if self._problem is None:  # one message for each series of failures
                log.warning("budgets in %s are not stored: %s", self._file.path, error)
            self._problem = f"the budgets in {self._file.path} cannot be stored: {error}"
        else:
            if self._problem is not None:
                log.warning("the budgets in %s are stored again", self._file.path)
            self._problem = None

    async def close(self) -> None:
        """Store all budgets and close the file."""
        # All, because a save that was cancelled may have failed.
        await self.save(self._admission.accounts.export())
        await self._run(self._file.close)
        self._thread.shutdown(wait=False)

    async def _run(self, function: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)
