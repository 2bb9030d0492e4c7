"""The database of files and batches: which there are, and to which key each belongs.

Their contents are in files next to it. Every method blocks, so use it in one thread. Methods raise
the errors of SQLite and the file system; a damaged file is left as it is.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from foundry_api.gateway.files.batch_types import StoredBatch
from foundry_api.gateway.files.types import StoredFile
from foundry_api.storage.database_files import FileFormat
from foundry_api.storage.lock import FileLock
from foundry_api.storage.sqlite import (
    DamagedFile,
    check_row,
    check_rows,
    closing_on_error,
    make_durable,
    open_database,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Generator, Sequence
    from pathlib import Path

__all__ = ["EVERY_OWNER", "FileDatabase", "Page", "Table", "Visibility"]

BUSY_TIMEOUT_S = 5.0

# `kind` is the purpose of a file or the status of a batch. Rows are ordered by `number`.
FORMAT = FileFormat(
    application_id=0x666F7562,  # foub
    version=1,
    schema="""
create table files (
    number integer primary key autoincrement, id text not null unique, owner text,
    kind text not null, ends_at int not null, facts text not null
);
create table batches (
    number integer primary key autoincrement, id text not null unique, owner text,
    kind text not null, ends_at int not null, facts text not null
);
create index file_owner on files (owner, number);
create index batch_owner on batches (owner, number);
create index file_end on files (ends_at);
create index batch_end on batches (ends_at);
create index batch_kind on batches (kind);
""",
)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Visibility:
    """Whose rows a caller sees.

    Attributes:
        owner: The id of its key; None without keys.
        sees_all: Whether it sees those of every key.
    """

    owner: str | None = None
    sees_all: bool = False


EVERY_OWNER = Visibility(sees_all=True)


@dataclass(frozen=True, slots=True)
class Page(Generic[_T]):
    """Some rows, and whether more follow."""

    rows: list[_T]
    has_more: bool


class Table(Generic[_T]):
    """One table of the database."""

    def __init__(self, db: sqlite3.Connection, name: str, kind: type[_T]) -> None:
        self._db = db
        self._name = name  # a constant of this module, never a text from outside
        self._decoder = msgspec.json.Decoder(kind)

    def get(self, identifier: str, visibility: Visibility) -> _T | None:
        """Return a row; None if there is none that the caller sees."""
        condition, values = _make_condition(visibility)
        rows = self._read(f"id = ? and {condition}", identifier, *values)
        return rows[0] if rows else None

    def find_page(
        self,
        visibility: Visibility,
        *,
        limit: int,
        after: str | None = None,
        kinds: Sequence[str] | None = None,
        prefix: str = "",
        is_ascending: bool = False,
    ) -> Page[_T] | None:
        """Return a page of rows, the newest first; None if there is no row `after`.

        Args:
            visibility: Whose rows.
            limit: How many, at most.
            after: The id of the row before the page.
            kinds: Only rows of these kinds.
            prefix: Only rows whose ids begin with this.
            is_ascending: Whether the oldest row comes first.
        """
        condition, values = _make_condition(visibility)
        if after is not None:
            numbers = self._db.execute(
                f"select number from {self._name} where id = ? and {condition}",  # noqa: S608 - constants
                (after, *values),
            ).fetchall()
            if not numbers:
                return None
            condition += f" and number {'>' if is_ascending else '<'} ?"
            values += check_row(numbers[0], int)
        if kinds is not None:
            condition += f" and kind in ({', '.join('?' for _ in kinds)})"
            values += tuple(kinds)
        if prefix:
            condition += " and substr(id, 1, ?) = ?"
            values += (len(prefix), prefix)
        order = "asc" if is_ascending else "desc"
        rows = self._read(f"{condition} order by number {order} limit ?", *values, limit + 1)
        return Page(rows[:limit], len(rows) > limit)

    def list_of_kinds(self, *kinds: str) -> list[_T]:
        """Return all rows of some kinds, the oldest first."""
        places = ", ".join("?" for _ in kinds)
        return self._read(f"kind in ({places}) order by number", *kinds)

    def list_ended(self, now: float, limit: int) -> list[_T]:
        """Return rows whose time has ended."""
        return self._read("ends_at <= ? order by ends_at limit ?", now, limit)

    def count(self, visibility: Visibility, *kinds: str) -> int:
        """Count the rows of some kinds that a caller sees."""
        condition, values = _make_condition(visibility)
        places = ", ".join("?" for _ in kinds)
        row = self._db.execute(
            f"select count(*) from {self._name} where kind in ({places}) and {condition}",  # noqa: S608 - constants
            (*kinds, *values),
        ).fetchone()
        (count,) = check_row(row, int)
        return int(count)

    def iterate(self) -> Generator[_T]:
        """Yield all rows."""
        for row in self._db.execute(f"select facts from {self._name}"):  # noqa: S608 - a constant
            yield self._decode(check_row(row, str)[0])

    def list_oldest(self, visibility: Visibility, kinds: tuple[str, ...], limit: int) -> list[_T]:
        """Return rows of some kinds that a caller sees, the oldest first."""
        condition, values = _make_condition(visibility)
        places = ", ".join("?" for _ in kinds)
        return self._read(
            f"kind in ({places}) and {condition} order by number limit ?", *kinds, *values, limit
        )

    def list_ids(self) -> set[str]:
        """Return the ids of all rows."""
        rows = self._db.execute(f"select id from {self._name}").fetchall()  # noqa: S608 - a constant
        return {identifier for (identifier,) in check_rows(rows, str)}

    def put(self, value: _T, *, kind: str, ends_at: int) -> None:
        """Insert a row, or replace the row with its id."""
        facts: Any = value
        self._db.execute(
            f"insert into {self._name} (id, owner, kind, ends_at, facts) values (?, ?, ?, ?, ?)"  # noqa: S608 - a constant
            " on conflict (id) do update set kind = excluded.kind, ends_at = excluded.ends_at,"
            " facts = excluded.facts",
            (facts.id, facts.owner, kind, ends_at, msgspec.json.encode(value).decode()),
        )

    def delete(self, identifier: str) -> None:
        """Delete a row, if it is there."""
        self._db.execute(f"delete from {self._name} where id = ?", (identifier,))  # noqa: S608 - a constant

    def _read(self, condition: str, *values: object) -> list[_T]:
        rows = self._db.execute(
            f"select facts from {self._name} where {condition}",  # noqa: S608 - constants
            values,
        ).fetchall()
        return [self._decode(facts) for (facts,) in check_rows(rows, str)]

    def _decode(self, facts: str) -> _T:
        try:
            return self._decoder.decode(facts)
        except msgspec.MsgspecError as error:
            raise DamagedFile(f"a row of {self._name} cannot be read: {error}") from error


class FileDatabase:
    """The database.

    Attributes:
        files: The files.
        batches: The batches.
    """

    def __init__(self, path: Path) -> None:
        lock = FileLock(path.with_name(f"{path.name}.lock"), timeout_s=BUSY_TIMEOUT_S)
        self._db = open_database(path, FORMAT, lock=lock, timeout_s=BUSY_TIMEOUT_S)
        with closing_on_error(self._db):
            make_durable(self._db)  # clients rely on a file once its upload is answered
        self.files: Table[StoredFile] = Table(self._db, "files", StoredFile)
        self.batches: Table[StoredBatch] = Table(self._db, "batches", StoredBatch)

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Commit everything in the block, or nothing."""
        self._db.execute("begin immediate")
        try:
            yield
            self._db.execute("commit")
        finally:
            if self._db.in_transaction:
                self._db.execute("rollback")

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _make_condition(visibility: Visibility) -> tuple[str, tuple[object, ...]]:
    return ("1", ()) if visibility.sees_all else ("owner is ?", (visibility.owner,))
