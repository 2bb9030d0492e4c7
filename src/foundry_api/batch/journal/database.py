"""The journal's SQLite file: small rows, which say where the answers lie."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from foundry_api.batch.journal.types import PublishedOutput
from foundry_api.storage.lock import FileLock, LockTimeout
from foundry_api.storage.private_file import sync_directory
from foundry_api.storage.sqlite import (
    PRIMARY_CODE_MASK,
    DamagedFile,
    FileFormat,
    ForeignFile,
    OtherFormat,
    check_not_foreign,
    check_row,
    is_damage,
    open_database,
    open_read_only,
)
from foundry_api.types.errors import BatchInUse, BatchStorageFailed

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

__all__ = [
    "FILE",
    "check_usable",
    "delete_meta",
    "get_meta",
    "get_meta_as",
    "journal_lock",
    "open_existing",
    "open_or_create",
    "parse_published",
    "set_meta",
    "transaction",
    "translate_json_errors",
    "translate_storage_errors",
]


FILE = "journal.sqlite"
BUSY_S = 30.0

SCHEMA = """
create table meta (name text primary key, value blob) without rowid;
create table own (role text, size int, time int, primary key (role, size, time)) without rowid;
create table segment (number integer primary key autoincrement, runner int not null);
create table model (number integer primary key, name text not null unique);
create table result (
    idx integer primary key, digest int not null, segment int not null, offset int not null,
    length int not null, failed int not null, at real not null, model int not null,
    duration real not null, queued real not null, first_token real, prompt int not null,
    completion int not null, attempts int not null, shared int not null, code text not null
);
create table failure (idx integer primary key, output blob not null);
create table claim (block integer primary key, runner int not null);
create table runner (
    number integer primary key autoincrement, pid int not null, shared int not null,
    since real not null, seen real not null, ended real, cancel text, progress blob not null,
    lines int not null default 0
);
"""
FORMAT = FileFormat(application_id=0x666F756A, version=1, schema=SCHEMA)
"""`fouj`: tells these files from other SQLite databases."""


@contextmanager
def translate_storage_errors(directory: Path) -> Generator[None]:
    """Raise a failure of the disk or the database as one of ours.

    Args:
        directory: The journal's.
    """
    try:
        yield
    except (ForeignFile, OtherFormat) as error:
        raise BatchStorageFailed(
            f"{directory / FILE} is not a journal that this version of foundry-api reads: {error}",
            hint="Name another output, or move it away if nobody needs it.",
        ) from error
    except (OSError, sqlite3.Error) as error:
        if is_damage(error):
            raise BatchStorageFailed(
                f"the journal {directory / FILE} is damaged: {error}",
                hint=f"Move {directory} away, then run the same command: it begins anew. What was"
                " answered and not yet written to the output is in the part-*.jsonl files there.",
            ) from error
        raise BatchStorageFailed(
            f"{directory} cannot be used: {error}", hint=_make_hint(error, directory)
        ) from error


def _make_hint(error: OSError | sqlite3.Error, directory: Path) -> str | None:
    """What helps, where it isn't room on the disk."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    if code & PRIMARY_CODE_MASK in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return "Another process is writing. Wait for it, then run the same command: it goes on."
    denied = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
    if code & PRIMARY_CODE_MASK in denied or isinstance(error, PermissionError):
        return f"Allow writing to {directory} and the files in it, then run the same command."
    if code & PRIMARY_CODE_MASK not in {0, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
        return "Run the same command again: it goes on."
    return None


def open_or_create(directory: Path) -> sqlite3.Connection:
    """The journal of a directory, made if there is none. Call it under the lock of the directory.

    Raises:
        ForeignFile, OtherFormat, sqlite3.Error, OSError: See `open_database`.
    """
    path = directory / FILE
    if not _has_content(path):
        sync_directory(directory.parent)
    return _open(path)


def check_usable(directory: Path) -> None:
    """Refuse a directory in which no journal can be, before even a lock is put there.

    Raises:
        ForeignFile, sqlite3.Error, OSError: See `open_database`.
        BatchStorageFailed: There are answers, but no journal of them. A new one has no row for
            them, and would remove them.
    """
    path = directory / FILE
    # In this order, as another process that begins makes them in the opposite one.
    has_answers = next(directory.glob("part-*.jsonl"), None) is not None
    check_not_foreign(path, FORMAT, timeout_s=BUSY_S)
    if has_answers and not _has_content(path):
        raise BatchStorageFailed(
            f"{directory} has part-*.jsonl files, but no journal that says whose they are",
            hint="Move them away, then run the same command.",
        )


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def open_existing(directory: Path, *, writes: bool = False) -> sqlite3.Connection:
    """The journal of a directory in which a batch was begun. It is not changed by being opened.

    Args:
        directory: The journal's.
        writes: Whether the caller is going to change it.

    Raises:
        ForeignFile, OtherFormat, sqlite3.Error, OSError: See `open_database`.
        BatchStorageFailed: There is none.
    """
    path = directory / FILE
    database = open_read_only(path, FORMAT, timeout_s=BUSY_S)
    if database is not None:
        with closing(database) if writes else nullcontext():
            is_begun = database.execute("select 1 from meta where name = 'options'").fetchone()
        if is_begun:
            return _open(path) if writes else database
        database.close()
    raise BatchStorageFailed(
        f"there is no batch in {directory}", hint="Name the output of one that was begun."
    )


def _open(path: Path) -> sqlite3.Connection:
    """A connection that survives a loss of power once a transaction is committed."""
    database = open_database(
        path, FORMAT, lock=nullcontext(), timeout_s=BUSY_S, check_same_thread=False
    )
    try:
        database.execute("pragma synchronous = full")
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def transaction(database: sqlite3.Connection) -> Generator[None]:
    """All of it, or nothing."""
    database.execute("begin immediate")
    try:
        yield
        database.execute("commit")
    except BaseException:
        if database.in_transaction:
            database.execute("rollback")
        raise


LOCK = "lock"
_T = TypeVar("_T")


def set_meta(database: sqlite3.Connection, name: str, value: Any) -> None:
    """Keep something under a name, as JSON."""
    encoded = msgspec.json.encode(value, enc_hook=str)
    database.execute("insert or replace into meta values (?, ?)", (name, encoded))


def get_meta(database: sqlite3.Connection, name: str) -> Any:
    """What a journal keeps under a name, as plain JSON; None for nothing."""
    row = database.execute("select value from meta where name = ?", (name,)).fetchone()
    if row is None:
        return None
    (encoded,) = check_row(row, bytes)
    with translate_json_errors():
        return msgspec.json.decode(encoded)


def get_meta_as(database: sqlite3.Connection, name: str, value_type: type[_T]) -> _T | None:
    """What a journal keeps under a name, of the type that was kept; None for nothing.

    Raises:
        DamagedFile: It is of another type.
    """
    value = get_meta(database, name)
    with translate_json_errors():
        return None if value is None else msgspec.convert(value, value_type)


def parse_published(row: Any) -> PublishedOutput:
    """What was written last, as `get_meta` returns it.

    Raises:
        DamagedFile: It is not that.
    """
    with translate_json_errors():
        return PublishedOutput.from_row(row)


@contextmanager
def translate_json_errors() -> Generator[None]:
    """Raise JSON that is not what was kept as damage of the journal."""
    try:
        yield
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise DamagedFile(f"what it keeps is not what was written: {error}") from error


def delete_meta(database: sqlite3.Connection, *names: str) -> None:
    """Keep nothing under some names."""
    database.executemany("delete from meta where name = ?", [(name,) for name in names])


class journal_lock:  # noqa: N801 - reads as a verb in `with`
    """The lock of a journal's directory, told as our own error where it is not to be had."""

    def __init__(self, directory: Path, wait_s: float) -> None:
        self._directory = directory
        self._lock = FileLock(directory / LOCK, timeout_s=wait_s)

    def __enter__(self) -> None:
        try:
            self._lock.__enter__()
        except LockTimeout as error:
            raise BatchInUse(f"another process holds the journal in {self._directory}") from error

    def __exit__(self, *_: object) -> None:
        self._lock.__exit__()
