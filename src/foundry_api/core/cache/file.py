"""A file of answers that never fails its user: what is wrong with it is told, and gone around."""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from foundry_api.core.cache.base import CacheStats
from foundry_api.core.cache.database import BUSY_MS, FORMAT, CacheDatabase, read_models, read_stats
from foundry_api.storage.database_files import get_file_identity, quarantine, remove_quarantined
from foundry_api.storage.lock import FileLock, LockTimeout
from foundry_api.storage.paths import PRIVATE_DIRECTORY
from foundry_api.storage.sqlite import (
    ForeignFile,
    OtherFormat,
    check_not_foreign,
    is_damage,
    open_database,
    open_read_only,
)
from foundry_api.types.errors import ConfigurationError
from foundry_api.types.events import CacheTrouble

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from foundry_api.core.cache.database import CacheLimits
    from foundry_api.core.residency.usage_db import ClientProcess

__all__ = ["CacheFile", "CacheHistory", "ResilientDatabase"]


LOCK_S = 5.0
CHECKPOINT_PAGES = 4000
MOST_ASIDE = 3
"""Files to keep that were put aside: each may be as large as the cache."""


class CacheFile:
    """One file, and whether it still is the one that was opened. Belongs to one thread.

    Args:
        path: Where it is; made, with its directory, for this user only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, int] | None = None

    def open(self) -> sqlite3.Connection:
        """A connection to the file.

        Raises:
            ForeignFile, OtherFormat, sqlite3.Error, OSError: See `open_database`.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
        self._opened = get_file_identity(self.path)
        database = open_database(self.path, FORMAT, lock=self._lock(), timeout_s=BUSY_MS / 1000)
        self._opened = get_file_identity(self.path)
        try:
            # After a crash of the machine the last answers may be missing, but the file is whole.
            database.execute("pragma synchronous = normal")
            # Each checkpoint waits for the disk: milliseconds, for whoever keeps an answer then.
            database.execute(f"pragma wal_autocheckpoint = {CHECKPOINT_PAGES}")
        except BaseException:
            database.close()
            raise
        return database

    def open_read_only(self) -> sqlite3.Connection | None:
        """A connection that changes and creates nothing; None without a file.

        Raises:
            ForeignFile, OtherFormat, sqlite3.Error, OSError: See `open_database`.
        """
        return open_read_only(self.path, FORMAT, timeout_s=BUSY_MS / 1000)

    @property
    def exists(self) -> bool:
        """Whether anything is there."""
        return get_file_identity(self.path) is not None

    @property
    def replaced(self) -> bool:
        """Whether another file, or none, is there now."""
        return get_file_identity(self.path) != self._opened

    def set_aside(self, why: str) -> Path | None:
        """Rename the file that was opened. Of all processes that want that, one does it.

        Args:
            why: Its new name ends so, with a number.

        Returns:
            Its new path; None if another process had put it aside before.

        Raises:
            ForeignFile: Meanwhile another program put something else there.
            OSError: It cannot be renamed.
        """
        with self._lock():
            if self.replaced:
                return None
            check_not_foreign(self.path, FORMAT, timeout_s=BUSY_MS / 1000)
            aside = quarantine(self.path, why)
            remove_quarantined(self.path, FORMAT, keep=MOST_ASIDE)
        return aside

    def remove_asides(self) -> None:
        """Delete what was put aside.

        Raises:
            OSError: It cannot be deleted.
        """
        remove_quarantined(self.path, FORMAT)

    def _lock(self) -> FileLock:
        return FileLock(self.path.with_name(f"{self.path.name}.lock"), timeout_s=LOCK_S)


MOST_SET_ASIDE = 3
"""A disk that damages every new file, or a program of another version beside this one."""

UNUSABLE = (sqlite3.Error, OSError, ForeignFile, OtherFormat, LockTimeout)

log = logging.getLogger("foundry_api")
_T = TypeVar("_T")


@dataclass(slots=True)
class CacheHistory:
    """What a cache went through, however often it was closed meanwhile.

    Attributes:
        set_aside: Files that were set aside.
        told: Kinds of problems that were told.
    """

    set_aside: int = 0
    reported_kinds: set[str] = field(default_factory=set[str])


class ResilientDatabase:
    """The file as calls use it. Belongs to one thread.

    Args:
        path: Where it is.
        bounds: What may be kept.
        owner: This client, for its claims.
        past: What the cache went through.
        tell: Wants to hear what goes wrong.
    """

    def __init__(
        self,
        path: Path,
        bounds: CacheLimits,
        owner: ClientProcess,
        past: CacheHistory,
        tell: Callable[[CacheTrouble], None],
    ) -> None:
        self._tell = tell
        self._file = CacheFile(path)
        self._bounds = bounds
        self._owner = owner
        self._db: CacheDatabase | None = None
        self._past = past

    def query(self, question: Callable[[CacheDatabase], _T], otherwise: _T) -> _T:
        """What the file says, or something else if it cannot be used."""
        try:
            return self._run_query(question)
        except UNUSABLE as error:
            self._disable(error)
            return otherwise

    def query_strict(self, question: Callable[[CacheDatabase], _T]) -> _T:
        """What the file says.

        Raises:
            ConfigurationError: It cannot be used.
        """
        with self._refusing():
            return self._run_query(question)

    def stats(self) -> CacheStats:
        """What the file holds. One that is not open is read without changing anything.

        Raises:
            ConfigurationError: The file cannot be used.
        """
        if self._is_open:
            return self.query_strict(CacheDatabase.stats)
        bounds = self._bounds
        return self._read(
            lambda database: read_stats(database, bounds, time.time()),
            CacheStats(max_bytes=bounds.max_bytes),
        )

    def models(self) -> dict[str, tuple[int, int]]:
        """Entries and bytes by the models that gave the answers. See `stats`.

        Raises:
            ConfigurationError: The file cannot be used.
        """
        return (
            self.query_strict(CacheDatabase.models)
            if self._is_open
            else self._read(read_models, {})
        )

    def clear(self) -> int:
        """Forget every answer, those in files that were put aside too; how many there were.

        Raises:
            ConfigurationError: The file cannot be used.
        """
        count = self.query_strict(CacheDatabase.clear) if self._is_open or self._file.exists else 0
        with self._refusing():
            self._file.remove_asides()
        return count

    def close(self) -> None:
        """Close the file. The next question opens it again."""
        self._drop()

    @property
    def _is_open(self) -> bool:
        return self._db is not None and not self._file.replaced

    def _read(self, question: Callable[[sqlite3.Connection], _T], otherwise: _T) -> _T:
        with self._refusing():
            database = self._file.open_read_only()
            if database is None:
                return otherwise
            with closing(database):
                return question(database)

    @contextmanager
    def _refusing(self) -> Generator[None]:
        try:
            yield
        except UNUSABLE as error:
            self._drop()
            hint = "Name another file, or see who uses this one."
            if is_damage(error):
                hint = "The next call sets it aside, and `foundry-api cache clear` deletes it."
            raise ConfigurationError(
                f"the cache {self._file.path} cannot be used: {error}", hint=hint
            ) from error

    def _run_query(self, question: Callable[[CacheDatabase], _T]) -> _T:
        try:
            return question(self._current())
        except (sqlite3.DatabaseError, OtherFormat) as error:
            other = isinstance(error, OtherFormat)
            can_be_replaced = other or is_damage(error)
            if not can_be_replaced or self._past.set_aside >= MOST_SET_ASIDE:
                raise
            self._quarantine("format" if other else "corrupt", error)
        return question(self._current())

    def _current(self) -> CacheDatabase:
        if self._db is not None and self._file.replaced:
            self._drop()  # somebody put it aside, or removed it
        if self._db is None:
            self._db = CacheDatabase(self._file.open(), self._bounds, self._owner)
        return self._db

    def _quarantine(self, why: str, error: Exception) -> None:
        self._drop()
        self._past.set_aside += 1
        aside = self._file.set_aside(why)
        if aside is not None:
            path = self._file.path
            log.warning("the cache %s cannot be used (%s); it is now %s", path, error, aside)
            self._tell(CacheTrouble(path=str(path), problem=str(error), backup_path=str(aside)))

    def _disable(self, error: Exception) -> None:
        """Tell of a problem, each kind of it once."""
        if not _is_busy(error):
            self._drop()
        kind = f"{type(error).__name__} {getattr(error, 'sqlite_errorcode', '')}"
        if kind in self._past.reported_kinds:
            log.debug("the cache %s: %s", self._file.path, error)
            return
        self._past.reported_kinds.add(kind)
        log.warning("calls go on without the cache %s: %s", self._file.path, error)
        self._tell(CacheTrouble(path=str(self._file.path), problem=str(error)))

    def _drop(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()


def _is_busy(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", None) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
