"""History in a SQLite file: samples of many runs, for as long as they are wanted."""

from __future__ import annotations

import logging
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec

from foundry_api.errors import ConfigurationError
from foundry_api.monitor.sample import HealthSample
from foundry_api.service.private_file import create_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

__all__ = ["SampleStore", "StoreWriter", "read"]

log = logging.getLogger("foundry_api")

APPLICATION_ID = 0x666F756E
"""`foun`: tells this package's files from other SQLite databases."""

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS samples (at REAL NOT NULL, service TEXT, sample TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS samples_at ON samples (at);
"""
PRUNE_EVERY = 500
BUSY_S = 5.0
MOST_WAITING = 1_000
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
        self, path: Path, *, keep_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._keep_s = keep_s
        self._clock = clock
        self._since_prune = 0
        try:
            self._database = self._opened()
        except (OSError, sqlite3.OperationalError) as error:
            raise ConfigurationError(
                f"the history {path} cannot be written: {error}", hint="Name another file."
            ) from error

    def add(self, sample: HealthSample) -> None:
        """Keep a sample."""
        row = (sample.checked_at, sample.service, _ENCODER.encode(sample).decode())
        with self._database:
            self._database.execute("INSERT INTO samples VALUES (?, ?, ?)", row)
        self._since_prune += 1
        if self._since_prune >= PRUNE_EVERY:
            self._prune(self._database)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _opened(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # SQLite gives its side files the permissions of the file, so it has to have them first.
        create_file(self._path)
        _refuse_foreign(self._path)
        try:
            return self._prepared()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            self._set_aside(error)
            create_file(self._path)
            return self._prepared()

    def _prepared(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=BUSY_S)
        try:
            if self._path.stat().st_size == 0:  # first of all, so that no file is without it
                database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            database.executescript(SCHEMA)
            (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)  # noqa: TRY301 - as SQLite tells of it itself
            self._prune(database)
        except BaseException:
            database.close()
            raise
        return database

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        aside = self._path.with_name(f"{self._path.name}.damaged-{self._clock():.0f}")
        self._path.replace(aside)
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        log.warning("the history %s is damaged (%s); it is now %s", self._path, error, aside)

    def _prune(self, database: sqlite3.Connection) -> None:
        self._since_prune = 0
        with database:
            database.execute("DELETE FROM samples WHERE at < ?", (self._clock() - self._keep_s,))


def read(path: Path, *, since: float = 0.0) -> list[HealthSample]:
    """The samples in a file, oldest first.

    What another version wrote and this one can't read is left out, which is logged.

    Args:
        path: The file.
        since: The oldest to read, in seconds since the epoch.

    Raises:
        ConfigurationError: There is no such file, or it is not a history.
    """
    if not path.is_file():
        raise ConfigurationError(
            f"there is no history {path}", hint="`foundry-api health --watch --store FILE` writes."
        )
    _refuse_foreign(path)
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_S)) as database:
            rows = database.execute(
                "SELECT sample FROM samples WHERE at >= ? ORDER BY at", (since,)
            ).fetchall()
    except sqlite3.Error as error:
        raise ConfigurationError(f"the history {path} cannot be read: {error}") from error
    return _decoded(path, [row[0] for row in rows])


def _decoded(path: Path, rows: list[str]) -> list[HealthSample]:
    samples: list[HealthSample] = []
    for row in rows:
        try:
            samples.append(_DECODER.decode(row))
        except msgspec.MsgspecError:
            continue
    if len(samples) < len(rows):
        log.warning("%d samples of %s cannot be read", len(rows) - len(samples), path)
    return samples


def _refuse_foreign(path: Path) -> None:
    """A file that is something else was named by mistake, and is not ours to touch."""
    if path.stat().st_size and _is_foreign(path):
        raise ConfigurationError(
            f"{path} is not a history of this program", hint="Name another file."
        )


def _is_foreign(path: Path) -> bool:
    """Whether a file is no database, or another program's.

    SQLite is asked: reading the file here would free the locks of this process's connections to it.
    """
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_S)) as database:
            number: int = database.execute("PRAGMA application_id").fetchone()[0]
            return number != APPLICATION_ID
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_CORRUPT:
            return False  # that is for who reads more of it
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            return True
        raise


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
        self._given = 0
        self._done = 0  # counted in the thread, as the other is outside of it
        self._lost = 0

    def open(self) -> Future[None]:
        """Open the file; the future tells how that went.

        Raises (in the future):
            ConfigurationError: The file is not a history, or cannot be written.
        """
        return self._thread.submit(self._open)

    def add(self, sample: HealthSample) -> None:
        """Keep a sample, soon."""
        if self._given - self._done >= MOST_WAITING:
            self._gave_up("the disk is too slow")
            return
        self._given += 1
        self._thread.submit(self._add, sample)

    def close(self) -> Future[None]:
        """Write what waits, and close the file."""
        done = self._thread.submit(self._close)
        self._thread.shutdown(wait=False)
        return done

    def _open(self) -> None:
        self._store = SampleStore(self._path, keep_s=self._keep_s)

    def _add(self, sample: HealthSample) -> None:
        self._done += 1
        try:
            if self._store is not None:
                self._store.add(sample)
        except sqlite3.Error as error:
            self._gave_up(str(error))
        else:
            if self._lost:
                log.warning("%s is written again; %d samples were lost", self._path, self._lost)
                self._lost = 0

    def _gave_up(self, why: str) -> None:
        if not self._lost:
            log.warning("samples are not written to %s: %s", self._path, why)
        self._lost += 1

    def _close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()
