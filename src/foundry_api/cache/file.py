"""The file that answers lie in: opened, laid out, and put aside when it can't be used."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING

from foundry_api.cache.database import APPLICATION_ID, BUSY_MS, SCHEMA, VERSION
from foundry_api.service.lock import FileLock
from foundry_api.service.private_file import create_file

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["AnswersFile", "ForeignFile", "OtherFormat", "is_damage"]

LOCK_S = 5.0
CHECKPOINT_PAGES = 4000
MOST_ASIDE = 3
"""Files to keep that were put aside: each may be as large as the cache."""

PRIVATE_DIRECTORY = 0o700
PRIVATE_FILE = 0o600
SIDES = ("-wal", "-shm")

FAMILY = 0xFF
"""The bits of an extended result code that tell what kind of error it is."""

DAMAGED = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}


class ForeignFile(Exception):
    """The file belongs to another program; it is not ours to touch."""


class OtherFormat(Exception):
    """The file was written by another version of this package."""


class AnswersFile:
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
            sqlite3.Error: It is damaged, or cannot be used now.
            OSError: It cannot be used now.
            ForeignFile: It is a database of something else.
            OtherFormat: It is not of this format.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
        # SQLite gives its side files the permissions of the file, so it has to have them first.
        create_file(self.path)
        if os.name == "posix":
            self.path.chmod(PRIVATE_FILE)
        self._opened = self._identity()
        database = sqlite3.connect(self.path, timeout=BUSY_MS / 1000, isolation_level=None)
        try:
            self._lay_out(database)
            # After a crash of the machine the last answers may be missing, but the file is whole.
            database.execute("pragma synchronous = normal")
            # Each checkpoint waits for the disk: milliseconds, for whoever keeps an answer then.
            database.execute(f"pragma wal_autocheckpoint = {CHECKPOINT_PAGES}")
        except BaseException:
            database.close()
            raise
        return database

    @property
    def replaced(self) -> bool:
        """Whether another file, or none, is there now."""
        return self._identity() != self._opened

    def set_aside(self, why: str) -> Path | None:
        """Rename the file that was opened. Of all processes that want that, one does it.

        Args:
            why: Its new name ends so, with a number.

        Returns:
            Its new path; None if another process had put it aside before.

        Raises:
            OSError: It cannot be renamed.
        """
        with self._lock():
            if self.replaced:
                return None
            others = self.asides()
            number = 1 + max((_number(other) for other in others), default=0)
            aside = self._beside(f".{why}-{number}")
            for side in ("", *SIDES):
                with suppress(FileNotFoundError):
                    self._beside(side).replace(aside.with_name(aside.name + side))
            for other in others[: 1 - MOST_ASIDE]:
                _remove(other)
        return aside

    def asides(self) -> list[Path]:
        """What was put aside, oldest first."""
        name = re.escape(self.path.name)
        beside = self.path.parent.glob(f"{self.path.name}.*")
        found = [
            path for path in beside if re.fullmatch(rf"{name}\.(corrupt|format)-\d+", path.name)
        ]
        return sorted(found, key=_number)

    def remove_asides(self) -> None:
        """Delete what was put aside.

        Raises:
            OSError: It cannot be deleted.
        """
        for path in self.asides():
            _remove(path)

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def _lock(self) -> FileLock:
        return FileLock(self._beside(".lock"), timeout_s=LOCK_S)

    def _lay_out(self, database: sqlite3.Connection) -> None:
        if _is_laid_out(database):
            return
        with self._lock():
            if not _is_laid_out(database):  # nobody did it meanwhile
                database.execute("pragma journal_mode = wal")
                database.executescript(SCHEMA)


def is_damage(error: BaseException) -> bool:
    """Whether a file is damaged, rather than out of reach."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    return code & FAMILY in DAMAGED or code == sqlite3.SQLITE_IOERR_SHORT_READ


def _is_laid_out(database: sqlite3.Connection) -> bool:
    """Whether it is a file of ours; if not, it is empty."""
    application, version, parts = _marks(database)
    if (application, version, parts) == (0, 0, 0):
        return False
    if application != APPLICATION_ID:
        raise ForeignFile("it is a database of another program")
    if version != VERSION:
        raise OtherFormat(f"it is of format {version}, not {VERSION}")
    return True


def _marks(database: sqlite3.Connection) -> tuple[int, int, int]:
    """What tells whose file it is, and how many parts it has: all as of one moment.

    Between two questions another program may lay the file out.
    """
    database.execute("begin")
    try:
        (parts,) = database.execute("select count(*) from sqlite_master").fetchone()
        (application,) = database.execute("pragma application_id").fetchone()
        (version,) = database.execute("pragma user_version").fetchone()
    finally:
        if database.in_transaction:  # some failures end it by themselves
            database.execute("rollback")
    return application, version, parts


def _number(aside: Path) -> int:
    return int(aside.name.rpartition("-")[2])


def _remove(aside: Path) -> None:
    for side in ("", *SIDES):
        aside.with_name(aside.name + side).unlink(missing_ok=True)
