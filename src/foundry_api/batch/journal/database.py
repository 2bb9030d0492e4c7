"""The journal's SQLite file: opening it, its schema, its metadata and its errors.

Its rows are small. Answers are stored in segment files, and a row says where each one is.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from foundry_api.storage.database_files import FileFormat
from foundry_api.storage.lock import FileLock, LockTimeout
from foundry_api.storage.private_file import sync_directory
from foundry_api.storage.sqlite import (
    PRIMARY_CODE_MASK,
    DamagedFile,
    ForeignFile,
    OtherFormat,
    check_not_foreign,
    check_row,
    closing_on_error,
    is_damage,
    make_durable,
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
    "set_meta",
    "transaction",
    "translate_json_errors",
    "translate_storage_errors",
]

FILE = "journal.sqlite"
LOCK = "lock"
BUSY_S = 30.0

# Any change here needs a new `version` in FORMAT: journals outlive the program that wrote them.
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
# The application id is "fouj" in ASCII; it distinguishes journals from other SQLite databases.
FORMAT = FileFormat(application_id=0x666F756A, version=1, schema=SCHEMA)

_T = TypeVar("_T")


def open_or_create(directory: Path) -> sqlite3.Connection:
    """Open the journal of a directory, or create it. The caller holds the directory's lock."""
    path = directory / FILE
    if not _has_content(path):
        # The caller may just have created the directory: a power failure must not lose its name.
        sync_directory(directory.parent)
    return _open(path)


def open_existing(directory: Path, *, writes: bool = False) -> sqlite3.Connection:
    """Open the journal of a batch that was started. Opening it changes nothing."""
    path = directory / FILE
    database = open_read_only(path, FORMAT, timeout_s=BUSY_S)
    if database is not None:
        with closing_on_error(database):
            # A run whose files were refused leaves a journal without options.
            is_started = database.execute("select 1 from meta where name = 'options'").fetchone()
        if is_started and not writes:
            return database
        database.close()
        if is_started:
            return _open(path)
    raise BatchStorageFailed(
        f"there is no batch in {directory}", hint="Give the output of a batch that was started."
    )


def check_usable(directory: Path) -> None:
    """Refuse a directory that cannot hold a journal, before even a lock is created in it."""
    path = directory / FILE
    # Look for answers first and for the journal second: another process that starts a batch
    # creates them in the opposite order.
    has_answers = next(directory.glob("part-*.jsonl"), None) is not None
    check_not_foreign(path, FORMAT, timeout_s=BUSY_S)
    # A new journal would have no rows for these answers and would remove them as unused.
    if has_answers and not _has_content(path):
        raise BatchStorageFailed(
            f"{directory} has part-*.jsonl files, but no journal that they belong to",
            hint="Move them away, then run the same command.",
        )


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _open(path: Path) -> sqlite3.Connection:
    # No lock for laying out the file: the directory's lock is held whenever it may be missing.
    database = open_database(
        path, FORMAT, lock=nullcontext(), timeout_s=BUSY_S, check_same_thread=False
    )
    with closing_on_error(database):
        make_durable(database)
    return database


@contextmanager
def journal_lock(directory: Path, wait_s: float) -> Generator[None]:
    """Hold the lock of a journal's directory, or raise `BatchInUse`."""
    lock = FileLock(directory / LOCK, timeout_s=wait_s)
    try:
        lock.__enter__()
    except LockTimeout as error:
        raise BatchInUse(f"another process holds the journal in {directory}") from error
    try:
        yield
    finally:
        lock.__exit__()


@contextmanager
def transaction(database: sqlite3.Connection) -> Generator[None]:
    """Commit everything in the block, or nothing."""
    database.execute("begin immediate")
    try:
        yield
        database.execute("commit")
    except BaseException:
        # SQLite rolls back by itself after some errors, such as a full disk.
        if database.in_transaction:
            database.execute("rollback")
        raise


def set_meta(database: sqlite3.Connection, name: str, value: Any) -> None:
    """Store a value under a name, as JSON."""
    encoded = msgspec.json.encode(value, enc_hook=str)
    database.execute("insert or replace into meta values (?, ?)", (name, encoded))


def get_meta(database: sqlite3.Connection, name: str) -> Any:
    """Return the JSON value stored under a name, or None."""
    row = database.execute("select value from meta where name = ?", (name,)).fetchone()
    if row is None:
        return None
    (encoded,) = check_row(row, bytes)
    with translate_json_errors():
        return msgspec.json.decode(encoded)


def get_meta_as(database: sqlite3.Connection, name: str, value_type: type[_T]) -> _T | None:
    """Return the value stored under a name as its type, or None."""
    value = get_meta(database, name)
    with translate_json_errors():
        # The hook makes what `set_meta` stored as a string: paths.
        return (
            None
            if value is None
            else msgspec.convert(value, value_type, dec_hook=lambda kind, text: kind(text))
        )


def delete_meta(database: sqlite3.Connection, *names: str) -> None:
    """Delete the values stored under some names."""
    database.executemany("delete from meta where name = ?", [(name,) for name in names])


@contextmanager
def translate_json_errors() -> Generator[None]:
    """Raise JSON that this program did not write as damage of the journal."""
    try:
        yield
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise DamagedFile(f"a stored value is not what was written: {error}") from error


@contextmanager
def translate_storage_errors(directory: Path) -> Generator[None]:
    """Raise errors of the disk and of SQLite as `BatchStorageFailed`."""
    try:
        yield
    except (ForeignFile, OtherFormat) as error:
        raise BatchStorageFailed(
            f"{directory / FILE} is not a journal that this version of foundry-api reads: {error}",
            hint="Choose another output, or move the file away if it is not needed.",
        ) from error
    except (OSError, sqlite3.Error) as error:
        if is_damage(error):
            raise BatchStorageFailed(
                f"the journal {directory / FILE} is damaged: {error}",
                hint=f"Move {directory} away, then run the same command: the batch starts over."
                " Answers that are not in the output yet are in its part-*.jsonl files.",
            ) from error
        raise BatchStorageFailed(
            f"{directory} cannot be used: {error}", hint=_make_hint(error, directory)
        ) from error


def _make_hint(error: OSError | sqlite3.Error, directory: Path) -> str | None:
    code = (getattr(error, "sqlite_errorcode", None) or 0) & PRIMARY_CODE_MASK
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return "Another process is writing. When it has finished, run the same command to resume."
    denied = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
    if code in denied or isinstance(error, PermissionError):
        return f"Allow writing to {directory} and the files in it, then run the same command."
    if code not in {0, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
        return "Run the same command to resume."
    return None  # the error's own hint asks for room on the disk
