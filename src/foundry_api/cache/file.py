"""The file that answers lie in: opened, laid out, and put aside when it can't be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.cache.database import BUSY_MS, FORMAT
from foundry_api.service.lock import FileLock
from foundry_api.service.sqlite_file import (
    file_identity,
    open_database,
    open_read_only,
    refuse_foreign,
    remove_set_aside,
    set_aside,
)

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

__all__ = ["AnswersFile"]

LOCK_S = 5.0
CHECKPOINT_PAGES = 4000
MOST_ASIDE = 3
"""Files to keep that were put aside: each may be as large as the cache."""

PRIVATE_DIRECTORY = 0o700


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
            ForeignFile, OtherFormat, sqlite3.Error, OSError: See `open_database`.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
        self._opened = file_identity(self.path)
        database = open_database(self.path, FORMAT, lock=self._lock(), timeout_s=BUSY_MS / 1000)
        self._opened = file_identity(self.path)
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
        return file_identity(self.path) is not None

    @property
    def replaced(self) -> bool:
        """Whether another file, or none, is there now."""
        return file_identity(self.path) != self._opened

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
            refuse_foreign(self.path, FORMAT, timeout_s=BUSY_MS / 1000)
            aside = set_aside(self.path, why)
            remove_set_aside(self.path, FORMAT, keep=MOST_ASIDE)
        return aside

    def remove_asides(self) -> None:
        """Delete what was put aside.

        Raises:
            OSError: It cannot be deleted.
        """
        remove_set_aside(self.path, FORMAT)

    def _lock(self) -> FileLock:
        return FileLock(self.path.with_name(f"{self.path.name}.lock"), timeout_s=LOCK_S)
