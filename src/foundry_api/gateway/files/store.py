"""The files on the disk, and the thread that works with their database."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import secrets
import shutil
import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, ParamSpec, TypeVar

from foundry_api.gateway.errors import RequestError
from foundry_api.gateway.files.database import EVERY_OWNER, FileDatabase
from foundry_api.gateway.files.stored_bytes import StoredBytes, measure_directory
from foundry_api.storage.lock import LockTimeout
from foundry_api.storage.paths import PRIVATE_DIRECTORY
from foundry_api.storage.private_file import (
    PRIVATE,
    remove_file,
    replace_atomically,
    sync_directory,
    sync_file,
)
from foundry_api.storage.sqlite import ForeignFile, OtherFormat
from foundry_api.storage.threads import finish_opening
from foundry_api.types.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
    from pathlib import Path

    from foundry_api.gateway.files.types import StoredFile

__all__ = ["Draft", "FileStore", "make_file_id"]

BINARY = getattr(os, "O_BINARY", 0)
DRAFT_SUFFIX = ".part"
# The contents, drafts and journals that the gateway makes. Its directory may be one that somebody
# else uses too, so nothing with another name is deleted.
_OWN_NAME = re.compile(r"\.?file-[0-9a-f]{24}(\.[0-9a-z]+)?")
SWEEP_INTERVAL_S = 60.0
# Rows that one transaction deletes.
MAX_DELETED = 100
NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}

_P = ParamSpec("_P")
_T = TypeVar("_T")

log = logging.getLogger("foundry_api.gateway")


class Draft:
    """A file that is being received. What a gateway that was killed left is removed at its start.

    Attributes:
        id: The id that it will have.
        file: Where its content is written to.
        path: Where it is, until it is complete.
    """

    def __init__(self, directory: Path) -> None:
        self.id = make_file_id()
        self.path = directory / f"{self.id}{DRAFT_SUFFIX}"
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | BINARY
        self.file: BinaryIO = os.fdopen(os.open(self.path, flags, PRIVATE), "wb")

    def complete(self, path: Path) -> None:
        """Give the content its final name, once it is on the disk."""
        self.file.flush()
        sync_file(self.file.fileno())
        self.file.close()
        replace_atomically(self.path, path)
        sync_directory(path.parent)

    def discard(self) -> None:
        """Remove what is left of it."""
        with suppress(OSError):  # a full disk: what was not written is lost anyway
            self.file.close()
        self.path.unlink(missing_ok=True)


class FileStore:
    """The files of all keys.

    Methods raise RequestError if the disk or the database fails.

    Args:
        directory: The directory of the gateway.
        max_bytes: Bytes that all files may have, with the journals of batches.
        max_key_bytes: Bytes that those of one key may have. It does not hold for files that are
            stored without a key.
        wall_clock: Seconds since the epoch.
        sleep: Waits between two looks for files whose time has ended.

    Attributes:
        directory: Where the contents are. Their names are ids that the gateway made.
        in_use: Files that batches read; they are not deleted meanwhile.
        stored_bytes: What the files and journals take up, without uploads that are being received.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int,
        max_key_bytes: int,
        wall_clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.in_use: set[str] = set()
        self.stored_bytes = StoredBytes()
        self.directory = directory / "files"
        self._database_path = directory / "files.db"
        self._max_bytes = max_bytes
        self._max_key_bytes = max_key_bytes
        self._wall_clock = wall_clock
        self._sleep = sleep
        self._thread = ThreadPoolExecutor(1, "foundry-api-files")
        self._database: FileDatabase | None = None
        # Bytes that uploads which are being received may still write, by the key.
        self._reserved_bytes: Counter[str | None] = Counter()

    async def open(self) -> None:
        """Open the database, and remove what uploads that were cut off left.

        Raises:
            ConfigurationError: The database or the directory cannot be used.
        """
        try:
            self._database = await self._run(self._open)
        except (OSError, sqlite3.Error, LockTimeout, ForeignFile, OtherFormat) as error:
            raise ConfigurationError(
                f"the files in {self._database_path} cannot be read: {error}",
                hint="Check the disk and the permissions, or move files.db and files/ away: "
                "the gateway then starts without files and batches.",
            ) from error

    async def close(self) -> None:
        """Close the database."""
        database, self._database = self._database, None
        if database is not None:
            await self._run(database.close)
        self._thread.shutdown(wait=False)

    def get_path(self, identifier: str) -> Path:
        """Return where the content of a file is; the id must be one that the gateway made."""
        return self.directory / identifier

    async def query(self, function: Callable[[FileDatabase], _T]) -> _T:
        """Run a function with the database, in its thread."""
        database = self._database
        if database is None:
            raise RequestError(503, "shutting_down", "The gateway is shutting down.")
        try:
            return await self._run(function, database)
        except (OSError, sqlite3.Error, LockTimeout) as error:
            raise self.translate_failure(error) from error

    async def change(self, function: Callable[[FileDatabase], None]) -> None:
        """Make changes to the database, all or none."""

        def change(database: FileDatabase) -> None:
            with database.transaction():
                function(database)

        await self.query(change)

    @asynccontextmanager
    async def receive(self, size: int, owner: str | None) -> AsyncGenerator[Draft]:
        """Yield a new file to write to. It is removed, unless `keep` has kept it.

        Args:
            size: Bytes that it may have.
            owner: The id of the key that it will belong to; None without keys.

        Raises:
            RequestError: 413 if there is no room for it.
        """
        self.check_space(size, owner)
        self._reserved_bytes[owner] += size
        try:
            draft = await finish_opening(
                self._run(Draft, self.directory), lambda draft: self._run(draft.discard)
            )
            try:
                yield draft
            finally:
                await asyncio.shield(self._run(draft.discard))
        except (OSError, sqlite3.Error, LockTimeout) as error:
            raise self.translate_failure(error) from error
        finally:
            self._reserved_bytes[owner] -= size
            if not self._reserved_bytes[owner]:
                del self._reserved_bytes[owner]

    async def keep(
        self,
        draft: Draft,
        stored: StoredFile,
        also: Callable[[FileDatabase], None] | None = None,
    ) -> None:
        """Keep a file that was received; `also` makes further changes, all or none."""

        def keep(database: FileDatabase) -> None:
            path = self.get_path(stored.id)
            draft.complete(path)
            try:
                with database.transaction():
                    if also is not None:
                        also(database)
                    self.put_row(database, stored)
            except BaseException:
                path.unlink(missing_ok=True)
                raise

        # In one go: a client that leaves meanwhile must not leave a file without a row.
        await asyncio.shield(self.query(keep))

    async def delete(
        self, identifiers: Iterable[str], also: Callable[[FileDatabase], None] | None = None
    ) -> None:
        """Delete files; `also` makes further changes, all or none."""
        names = tuple(identifiers)

        def delete(database: FileDatabase) -> None:
            # The row first: a row without a content would be a file that cannot be read.
            rows = [database.files.get(name, EVERY_OWNER) for name in names]
            with database.transaction():
                for name in names:
                    database.files.delete(name)
                if also is not None:
                    also(database)
            for stored in rows:
                if stored is not None:
                    self.stored_bytes.remove(stored.owner, stored.size)
            for name in names:
                # Windows refuses while a client downloads it; the next start of the gateway then
                # deletes the content.
                with suppress(PermissionError):
                    remove_file(self.get_path(name))

        await self.query(delete)

    async def watch(self) -> None:
        """Delete files whose time has ended, until cancelled."""
        while True:
            try:
                await self.delete_expired()
            except RequestError as error:  # logged already; the next look tries again
                log.debug("expired files stay: %s", error)
            await self._sleep(SWEEP_INTERVAL_S)

    async def delete_expired(self) -> None:
        """Delete the files whose time has ended, except those that are in use."""
        now = self._wall_clock()
        expired = await self.query(lambda database: database.files.list_ended(now, MAX_DELETED))
        unused = {stored.id for stored in expired} - self.in_use
        if unused:
            await self.delete(unused)

    async def delete_unknown(self, known: Iterable[str]) -> None:
        """Delete contents and journals that belong to no file, and are not among the known names.

        A gateway that was killed may leave some.
        """
        kept = set(known)

        def delete(database: FileDatabase) -> None:
            names = {*database.files.list_ids(), *kept}
            for path in self.directory.iterdir():
                if path.name in names or not _OWN_NAME.fullmatch(path.name):
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

        await self.query(delete)

    def check_space(self, size: int, owner: str | None) -> None:
        """Refuse a file for which there is no room.

        Raises:
            RequestError: 413.
        """
        stored, reserved = self.stored_bytes, self._reserved_bytes
        bounds = [
            (
                "this gateway",
                stored.total + reserved.total(),
                self._max_bytes,
                "max_stored_bytes",
            )
        ]
        if owner is not None:
            used = stored.get(owner) + reserved[owner]
            bounds.append(("this key", used, self._max_key_bytes, "max_stored_bytes_per_key"))
        for whose, used, max_bytes, setting in bounds:
            if used + size > max_bytes:
                raise RequestError(
                    413,
                    "storage_full",
                    f"The files of {whose} have {used} bytes and may have {max_bytes} ({setting}), "
                    f"so there is no room for {size} more. Delete files that are no longer needed, "
                    "or wait until some expire.",
                    should_retry=False,
                )

    def has_space(self, owner: str | None) -> bool:
        """Whether the files, and those of a key, have less than the bytes that they may have."""
        stored = self.stored_bytes
        return stored.total < self._max_bytes and (
            owner is None or stored.get(owner) < self._max_key_bytes
        )

    def put_row(self, database: FileDatabase, stored: StoredFile) -> None:
        """Store the row of a file whose content is complete. For functions of `query`."""
        database.files.put(stored, kind=stored.purpose, ends_at=stored.expires_at)
        self.stored_bytes.add(stored.owner, stored.size)

    async def measure_journals(self, journals: Mapping[str, str | None]) -> None:
        """Count the journals of batches as they are now.

        Args:
            journals: The names of their directories, and whose they are.
        """

        def measure() -> None:
            for name, owner in journals.items():
                with suppress(OSError):  # a disk that fails: what was counted before stays
                    size = measure_directory(self.directory / name)
                    self.stored_bytes.set_journal(name, owner, size)

        await self._run(measure)

    def _open(self) -> FileDatabase:
        self.directory.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
        for draft in self.directory.glob(f"*{DRAFT_SUFFIX}"):
            if _OWN_NAME.fullmatch(draft.name):
                draft.unlink(missing_ok=True)
        database = FileDatabase(self._database_path)
        try:
            for stored in database.files.iterate():
                self.stored_bytes.add(stored.owner, stored.size)
        except BaseException:
            database.close()
            raise
        return database

    def translate_failure(self, error: Exception) -> RequestError:
        """Log why the disk or the database failed, and return the error for the client."""
        log.warning("files in %s cannot be used: %s", self.directory, error)
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            return RequestError(
                507, "disk_full", "The disk of the gateway is full.", should_retry=False
            )
        return RequestError(
            503,
            "storage_failed",
            "The gateway cannot use its files now; its log has the details.",
            retry_after_s=5.0,
        )

    async def _run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(function, *args, **kwargs))


def make_file_id() -> str:
    """Return the id of a new file."""
    return f"file-{secrets.token_hex(12)}"
