"""Stores the samples of monitors in a SQLite file."""

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
from foundry_api.storage.paths import PRIVATE_DIRECTORY
from foundry_api.storage.sqlite import (
    DamagedFile,
    ForeignFile,
    OtherFormat,
    check_not_foreign,
    closing_on_error,
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
# `foun` in ASCII, which distinguishes this package's files from other SQLite databases.
FORMAT = FileFormat(application_id=0x666F756E, version=0, schema=SCHEMA)

PRUNE_EVERY = 500  # samples
BUSY_TIMEOUT_S = 5.0
LOCK_TIMEOUT_S = 5.0

# Samples that may wait for a slow disk. Any more are dropped and logged.
MAX_PENDING = 1_000

_DECODER = msgspec.json.Decoder(HealthSample)
_ENCODER = msgspec.json.Encoder()


class SampleStore:
    """Writes samples to one file, from a single thread. All methods block.

    The file is created with its directory, readable by its owner only. `keep_s` is the age at which
    samples are deleted.
    """

    # A damaged file is renamed and a new one is created, because the monitor should run anyway. A
    # file of another kind is left alone, with ConfigurationError.

    def __init__(
        self, path: Path, *, keep_s: float, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._keep_s = keep_s
        self._wall_clock = wall_clock
        self._adds_since_prune = 0
        with _translate_errors(path, "written"):
            self._database = self._open()

    def add(self, sample: HealthSample) -> None:
        """Write a sample; raises sqlite3.Error or OSError if that fails."""
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
        self._database.close()

    def _add(self, sample: HealthSample) -> None:
        row = (sample.checked_at, sample.service, _ENCODER.encode(sample).decode())
        self._database.execute("insert into samples values (?, ?, ?)", row)
        self._adds_since_prune += 1
        if self._adds_since_prune >= PRUNE_EVERY:
            self._prune(self._database)

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
        try:
            return self._prepare()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self._quarantine(error)
        return self._prepare()

    def _prepare(self) -> sqlite3.Connection:
        # The identity of the file is needed by _quarantine(), even if opening it fails. Opening may
        # create the file, so it is read again.
        self._identity = get_file_identity(self._path)
        database = open_database(
            self._path, FORMAT, lock=self._make_lock(), timeout_s=BUSY_TIMEOUT_S
        )
        self._identity = get_file_identity(self._path)
        with closing_on_error(database):
            database.execute("pragma synchronous = normal")
            (result,) = database.execute("pragma quick_check(1)").fetchone()
            if result != "ok":
                raise DamagedFile(result)
            self._prune(database)
        return database

    def _quarantine(self, error: sqlite3.DatabaseError) -> None:
        with self._make_lock():
            check_not_foreign(self._path, FORMAT, timeout_s=BUSY_TIMEOUT_S)
            if get_file_identity(self._path) != self._identity:
                return  # another process has replaced the file already
            new_path = quarantine(self._path, "damaged")
        log.warning("the history %s is damaged (%s); renamed to %s", self._path, error, new_path)

    def _make_lock(self) -> FileLock:
        return FileLock(self._path.with_name(f"{self._path.name}.lock"), timeout_s=LOCK_TIMEOUT_S)

    def _prune(self, database: sqlite3.Connection) -> None:
        self._adds_since_prune = 0
        database.execute("delete from samples where at < ?", (self._wall_clock() - self._keep_s,))


def read_samples(path: Path, *, since: float = 0.0) -> list[HealthSample]:
    """Read the samples in a file, oldest first, from `since` in seconds since the epoch."""
    with _translate_errors(path, "read"):
        database = open_read_only(path, FORMAT, timeout_s=BUSY_TIMEOUT_S)
        if database is not None:
            with closing(database):
                rows = database.execute(
                    "select sample from samples where at >= ? order by at", (since,)
                ).fetchall()
            samples: list[HealthSample] = []
            for (text,) in rows:
                # Another version may have written samples that this one cannot read.
                with suppress(msgspec.MsgspecError, UnicodeDecodeError):
                    if isinstance(text, (str, bytes)):
                        samples.append(_DECODER.decode(text))
            if len(samples) < len(rows):
                log.warning("%d samples of %s cannot be read", len(rows) - len(samples), path)
            return samples
    if get_file_identity(path) is None:
        raise ConfigurationError(
            f"there is no history {path}",
            hint="`foundry-api health --watch --store FILE` writes one.",
        )
    return []


@contextmanager
def _translate_errors(path: Path, action: str) -> Generator[None]:
    """Raise the errors of a file as ConfigurationError."""
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
            hint="`foundry-api health --watch --store FILE` renames it and starts a new one."
            if damaged
            else "Name another file.",
        ) from error


class StoreWriter:
    """Writes samples in its own thread, so that a slow disk does not delay the monitor."""

    def __init__(self, path: Path, *, keep_s: float) -> None:
        self._path = path
        self._keep_s = keep_s
        self._thread = ThreadPoolExecutor(1, "foundry-api-history")
        self._store: SampleStore | None = None
        # Needs no lock: only `add` changes the first, and only the thread the second.
        self._submitted = 0
        self._written = 0
        self._dropped = 0

    def open(self) -> Future[None]:
        """Open the file; the future raises ConfigurationError if that is impossible."""
        return self._thread.submit(self._open)

    def add(self, sample: HealthSample) -> None:
        """Write a sample in the thread. A failure is logged."""
        if self._submitted - self._written >= MAX_PENDING:
            self._record_failure("the disk is too slow")
            return
        self._submitted += 1
        self._thread.submit(self._add, sample)

    def close(self) -> Future[None]:
        """Write the samples that wait, then close the file."""
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
        if not self._dropped:  # one message per series of failures
            log.warning("samples are not written to %s: %s", self._path, reason)
        self._dropped += 1

    def _close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()
