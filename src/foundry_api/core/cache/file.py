"""The file of a SQLite cache. Problems with the file are reported, but don't fail calls."""

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
    closing_on_error,
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

log = logging.getLogger("foundry_api")

_T = TypeVar("_T")  # the result of a query

LOCK_S = 5.0
CHECKPOINT_PAGES = 4000

# Damaged files to keep for inspection. Each may be as large as the cache.
MAX_QUARANTINED = 3

# How often a cache is replaced before it is given up. The disk may damage every new file, or a
# program with another version of this package may replace it each time.
MAX_REPLACED = 3

UNUSABLE = (sqlite3.Error, OSError, ForeignFile, OtherFormat, LockTimeout)


class CacheFile:
    """A file and the identity of the file that was opened. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, int] | None = None

    def open(self) -> sqlite3.Connection:
        """Open the file, and create it if necessary."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
        self._opened = get_file_identity(self.path)
        database = open_database(self.path, FORMAT, lock=self._lock(), timeout_s=BUSY_MS / 1000)
        self._opened = get_file_identity(self.path)
        with closing_on_error(database):
            # A crash of the machine may lose the last answers, but does not damage the file.
            database.execute("pragma synchronous = normal")
            # A checkpoint waits for the disk, which delays the `put` that triggers it by
            # milliseconds. So make them rare.
            database.execute(f"pragma wal_autocheckpoint = {CHECKPOINT_PAGES}")
        return database

    def open_read_only(self) -> sqlite3.Connection | None:
        """Open the file for reading, if it exists."""
        return open_read_only(self.path, FORMAT, timeout_s=BUSY_MS / 1000)

    @property
    def exists(self) -> bool:
        return get_file_identity(self.path) is not None

    @property
    def is_replaced(self) -> bool:
        """Whether the path now has another file than the one that was opened, or none."""
        return get_file_identity(self.path) != self._opened

    def quarantine(self, reason: str) -> Path | None:
        """Rename the file to NAME.REASON-N. Return None if another process has done so before.

        Raises PermissionError on Windows while another client has the file open.
        """
        with self._lock():
            if self.is_replaced:
                return None
            check_not_foreign(self.path, FORMAT, timeout_s=BUSY_MS / 1000)
            # No wait: this delays a call, and the next one tries again.
            backup_path = quarantine(self.path, reason, patience_s=0.0)
            remove_quarantined(self.path, FORMAT, keep=MAX_QUARANTINED)
        return backup_path

    def remove_quarantined(self) -> None:
        remove_quarantined(self.path, FORMAT)

    def _lock(self) -> FileLock:
        return FileLock(self.path.with_name(f"{self.path.name}.lock"), timeout_s=LOCK_S)


@dataclass(slots=True)
class CacheHistory:
    """What has happened to a cache. Survives `close`."""

    replaced_count: int = 0  # damaged files that were set aside
    reported_kinds: set[str] = field(default_factory=set[str])


class ResilientDatabase:
    """A cache database that is opened on demand, and replaced if it is damaged. Not thread-safe."""

    def __init__(
        self,
        path: Path,
        limits: CacheLimits,
        client: ClientProcess,
        history: CacheHistory,
        report: Callable[[CacheTrouble], None],
    ) -> None:
        self._report = report
        self._file = CacheFile(path)
        self._limits = limits
        self._client = client
        self._database: CacheDatabase | None = None
        self._history = history

    def query(self, query: Callable[[CacheDatabase], _T], default: _T) -> _T:
        """Run a query. Return the default if the file cannot be used."""
        try:
            return self._query(query)
        except UNUSABLE as error:
            self._report_problem(error)
            return default

    def query_strict(self, query: Callable[[CacheDatabase], _T]) -> _T:
        """Run a query. Raise ConfigurationError if the file cannot be used."""
        with self._translate_errors():
            return self._query(query)

    def stats(self) -> CacheStats:
        """Return the statistics. A file that is not open is neither created nor changed."""
        if self._is_open:
            return self.query_strict(CacheDatabase.stats)
        limits = self._limits
        return self._read(
            lambda database: read_stats(database, limits, time.time()),
            CacheStats(max_bytes=limits.max_bytes),
        )

    def models(self) -> dict[str, tuple[int, int]]:
        """Return the number and the size of the answers by model id."""
        if self._is_open:
            return self.query_strict(CacheDatabase.models)
        return self._read(read_models, {})

    def clear(self) -> int:
        """Delete all answers, also in damaged files that were set aside. Return their number."""
        count = self.query_strict(CacheDatabase.clear) if self._is_open or self._file.exists else 0
        with self._translate_errors():
            self._file.remove_quarantined()
        return count

    def close(self) -> None:
        """Close the file. The next query opens it again."""
        database, self._database = self._database, None
        if database is not None:
            database.close()

    @property
    def _is_open(self) -> bool:
        return self._database is not None and not self._file.is_replaced

    def _read(self, query: Callable[[sqlite3.Connection], _T], default: _T) -> _T:
        with self._translate_errors():
            database = self._file.open_read_only()
            if database is None:
                return default
            with closing(database):
                return query(database)

    @contextmanager
    def _translate_errors(self) -> Generator[None]:
        try:
            yield
        except UNUSABLE as error:
            self.close()
            hint = "Name another file, or find the program that uses this one."
            if is_damage(error):
                hint = "The next call sets it aside; `foundry-api cache clear` then deletes it."
            raise ConfigurationError(
                f"the cache {self._file.path} cannot be used: {error}", hint=hint
            ) from error

    def _query(self, query: Callable[[CacheDatabase], _T]) -> _T:
        try:
            return query(self._open())
        except (sqlite3.DatabaseError, OtherFormat) as error:
            is_other_format = isinstance(error, OtherFormat)
            can_be_replaced = is_other_format or is_damage(error)
            if not can_be_replaced or self._history.replaced_count >= MAX_REPLACED:
                raise
            self.close()
            backup_path = self._file.quarantine("format" if is_other_format else "damaged")
            self._history.replaced_count += 1  # a file that cannot be renamed yet does not count
            if backup_path is not None:
                path, problem = self._file.path, str(error)
                log.warning(
                    "the cache %s cannot be used (%s); it was moved to %s",
                    path,
                    problem,
                    backup_path,
                )
                self._report(
                    CacheTrouble(path=str(path), problem=problem, backup_path=str(backup_path))
                )
        return query(self._open())

    def _open(self) -> CacheDatabase:
        if self._database is not None and self._file.is_replaced:
            self.close()  # another process has set the file aside or deleted it
        if self._database is None:
            self._database = CacheDatabase(self._file.open(), self._limits, self._client)
        return self._database

    def _report_problem(self, error: Exception) -> None:
        """Log and report a problem, each kind of problem once."""
        code = getattr(error, "sqlite_errorcode", None)
        if code not in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            self.close()
        kind = f"{type(error).__name__} {'' if code is None else code}"
        if kind in self._history.reported_kinds:
            log.debug("the cache %s: %s", self._file.path, error)
            return
        self._history.reported_kinds.add(kind)
        log.warning("calls continue without the cache %s: %s", self._file.path, error)
        self._report(CacheTrouble(path=str(self._file.path), problem=str(error)))
