"""The journal's SQLite file: small rows, which say where the answers lie."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from foundry_api.batch.journal.segments import synced_directory
from foundry_api.errors import BatchStorageFailed
from foundry_api.service.private_file import create_file

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

__all__ = ["FILE", "begun", "connected", "storage", "transaction"]

FILE = "journal.sqlite"
VERSION = 1
APPLICATION_ID = 0x666F756A
"""`fouj`: tells these files from other SQLite databases."""

BUSY_S = 30.0

SCHEMA = f"""
begin immediate;
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
pragma application_id = {APPLICATION_ID};
pragma user_version = {VERSION};
commit;
"""


@contextmanager
def storage(what: Path) -> Generator[None]:
    """Tell a failure of the disk or the database as one of ours."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise BatchStorageFailed(f"{what} cannot be used: {error}") from error


def connected(directory: Path) -> sqlite3.Connection:
    """The journal of a directory, made if there is none. Call it under the lock of the directory.

    Raises:
        BatchStorageFailed: It is not one, or it is a newer version's.
    """
    path = directory / FILE
    create_file(path)
    database = _opened(path)
    try:
        if not _has_tables(database):
            synced_directory(directory.parent)
            database.execute("pragma journal_mode = wal")  # the file remembers that
            database.executescript(SCHEMA)
    except BaseException:
        database.close()
        raise
    return database


def begun(directory: Path) -> sqlite3.Connection:
    """The journal of a directory in which a batch was begun. Nothing is changed.

    Raises:
        BatchStorageFailed: There is none, or it is not one, or it is a newer version's.
    """
    path = directory / FILE
    if path.is_file():
        database = _opened(path)
        if (
            _has_tables(database)
            and database.execute("select 1 from meta where name = 'options'").fetchone()
        ):
            return database
        database.close()
    raise BatchStorageFailed(
        f"there is no batch in {directory}", hint="Name the output of one that was begun."
    )


def _opened(path: Path) -> sqlite3.Connection:
    """A connection that survives a loss of power once a transaction is committed."""
    database = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        _refuse_foreign(database, path)
        database.execute("pragma synchronous = full")
    except BaseException:
        database.close()
        raise
    return database


def _refuse_foreign(database: sqlite3.Connection, path: Path) -> None:
    """Refuse what is no journal before anything is written to it."""
    known = database.execute("pragma application_id").fetchone()[0]
    version = database.execute("pragma user_version").fetchone()[0]
    if (known, version) == (APPLICATION_ID, VERSION):
        return
    if known or version or _has_tables(database):
        raise BatchStorageFailed(f"{path} is not a journal that this version of foundry-api reads")


def _has_tables(database: sqlite3.Connection) -> bool:
    return database.execute("select 1 from sqlite_master limit 1").fetchone() is not None


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
