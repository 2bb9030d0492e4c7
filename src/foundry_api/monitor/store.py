"""History in a SQLite file: samples of many runs, for as long as they are wanted."""

from __future__ import annotations

import logging
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from foundry_api.monitor.types import HealthSample
from foundry_api.storage.database_files import FileFormat, get_file_identity, quarantine
from foundry_api.storage.lock import FileLock, LockTimeout
from foundry_api.storage.sqlite import (
    DamagedFile,
    ForeignFile,
    OtherFormat,
    check_not_foreign,
    is_damage,
    open_database,
    open_read_only,
)
from foundry_api.types.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from concurrent.futures import Future
    from pathlib import Path

__all__ = ["SampleStore", "StoreWriter", "read_samples"]

log = logging.getLogger("foundry_api")

SCHEMA = """
create table samples (at real not null, service text, sample text not null);
create index samples_at on samples (at);
"""
FORMAT = FileFormat(application_id=0x666F756E, version=0, schema=SCHEMA)
"""`foun`: tells this package's files from other SQLite databases."""

PRUNE_EVERY = 500
BUSY_S = 5.0
LOCK_S = 5.0
MAX_PENDING = 1_000
"""Samples that wait for a slow disk; more are given up, which is logged."""

_DECODER = msgspec.json.Decoder(HealthSample)
_ENCODER = msgspec.json.Encoder()


class SampleStore:
    """One file. All its methods block, and belong to one thread.

    A file that is damaged is set aside beside itself, and a new one begun: a monitor that does not
    start helps nobody. A file that is something else is left alone.

    Args:
        path: The file; made, with its directory, if it is not there. Only its owner may read it.
        keep_s: Age in seconds after which samples are deleted.
        clock: Seconds since the epoch.

    Raises:
        ConfigurationError: The file is not a history, or cannot be written.
    """

    def __init__(
        self, path: Path, *, keep_s: float, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._keep_s = keep_s
        self._wall_clock = wall_clock
        self._since_prune = 0
        with _translate_errors(path, "written"):
            self._database = self._open()

    def add(self, sample: HealthSample) -> None:
        """Keep a sample.

        Raises:
            sqlite3.Error, OSError: It cannot be.
        """
        try:
            self._add(sample)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self._database.close()
            self._quarantine(error)
            self._database = self._prepare()
            self._add(sample)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _add(self, sample: HealthSample) -> None:
        row = (sample.checked_at, sample.service, _ENCODER.encode(sample).decode())
        self._database.execute("insert into samples values (?, ?, ?)", row)
        self._since_prune += 1
        if self._since_prune >= PRUNE_EVERY:
            self._prune(self._database)

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return self._prepare()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self._quarantine(error)
        return self._prepare()

    def _prepare(self) -> sqlite3.Connection:
        self._identity = get_file_identity(self._path)
        database = open_database(self._path, FORMAT, lock=self._make_lock(), timeout_s=BUSY_S)
        self._identity = get_file_identity(self._path)
        try:
            database.execute("pragma synchronous = normal")
            (verdict,) = database.execute("pragma quick_check(1)").fetchone()
            if verdict != "ok":
                raise DamagedFile(verdict)  # noqa: TRY301 - as SQLite tells of it itself
            self._prune(database)
        except BaseException:
            database.close()
            raise
        return database

    def _quarantine(self, error: sqlite3.DatabaseError) -> None:
        with self._make_lock():
            check_not_foreign(self._path, FORMAT, timeout_s=BUSY_S)
            if get_file_identity(self._path) != self._identity:
                return  # another process did it
            aside = quarantine(self._path, "damaged")
        log.warning("the history %s is damaged (%s); it is now %s", self._path, error, aside)

    def _make_lock(self) -> FileLock:
        return FileLock(self._path.with_name(f"{self._path.name}.lock"), timeout_s=LOCK_S)

    def _prune(self, database: sqlite3.Connection) -> None:
        self._since_prune = 0
        database.execute("delete from samples where at < ?", (self._wall_clock() - self._keep_s,))


def read_samples(path: Path, *, since: float = 0.0) -> list[HealthSample]:
    """The samples in a file, oldest first.

    What another version wrote and this one can't read is left out, which is logged.

    Args:
        path: The file.
        since: The oldest to read, in seconds since the epoch.

    Raises:
        ConfigurationError: There is no such file, or it is not a history.
    """
    with _translate_errors(path, "read"):
        database = open_read_only(path, FORMAT, timeout_s=BUSY_S)
        if database is not None:
            with closing(database):
                rows = database.execute(
                    "select sample from samples where at >= ? order by at", (since,)
                ).fetchall()
            return _decode_rows(path, [row[0] for row in rows])
    if get_file_identity(path) is None:
        raise ConfigurationError(
            f"there is no history {path}", hint="`foundry-api health --watch --store FILE` writes."
        )
    return []


@contextmanager
def _translate_errors(path: Path, action: str) -> Generator[None]:
    """Raise what is wrong with a file as one of our errors."""
    try:
        yield
    except (ForeignFile, OtherFormat) as error:
        raise ConfigurationError(
            f"{path} is not a history of this program: {error}", hint="Name another file."
        ) from error
    except (sqlite3.Error, OSError, LockTimeout) as error:
        damaged = is_damage(error)
        problem = f"is damaged: {error}" if damaged else f"cannot be {action}: {error}"
        raise ConfigurationError(
            f"the history {path} {problem}",
            hint="The next `foundry-api health --watch --store FILE` sets it aside and begins anew."
            if damaged
            else "Name another file.",
        ) from error


def _decode_rows(path: Path, rows: list[object]) -> list[HealthSample]:
    samples: list[HealthSample] = []
    for row in rows:
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            if isinstance(row, (str, bytes)):
                samples.append(_DECODER.decode(row))
    if len(samples) < len(rows):
        log.warning("%d samples of %s cannot be read", len(rows) - len(samples), path)
    return samples


class StoreWriter:
    """Writes samples in a thread of its own, so that a slow disk delays nobody.

    Args:
        path: The file.
        keep_s: Age in seconds after which samples are deleted.
    """

    def __init__(self, path: Path, *, keep_s: float) -> None:
        self._path = path
        self._keep_s = keep_s
        self._thread = ThreadPoolExecutor(1, "foundry-api-history")
        self._store: SampleStore | None = None
        self._submitted = 0
        self._written = 0  # counted in the thread, as the other is outside of it
        self._dropped = 0

    def open(self) -> Future[None]:
        """Open the file; the future tells how that went.

        Raises (in the future):
            ConfigurationError: The file is not a history, or cannot be written.
        """
        return self._thread.submit(self._open)

    def add(self, sample: HealthSample) -> None:
        """Keep a sample, soon."""
        if self._submitted - self._written >= MAX_PENDING:
            self._record_failure("the disk is too slow")
            return
        self._submitted += 1
        self._thread.submit(self._add, sample)

    def close(self) -> Future[None]:
        """Write what waits, and close the file."""
        done = self._thread.submit(self._close)
        self._thread.shutdown(wait=False)
        return done

    def _open(self) -> None:
        self._store = SampleStore(self._path, keep_s=self._keep_s)

    def _add(self, sample: HealthSample) -> None:
        self._written += 1
        try:
            if self._store is not None:
                self._store.add(sample)
        except (sqlite3.Error, OSError, ForeignFile, OtherFormat, LockTimeout) as error:
            self._record_failure(str(error))
        else:
            if self._dropped:
                log.warning("%s is written again; %d samples were lost", self._path, self._dropped)
                self._dropped = 0

    def _record_failure(self, reason: str) -> None:
        if not self._dropped:
            log.warning("samples are not written to %s: %s", self._path, reason)
        self._dropped += 1

    def _close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()
