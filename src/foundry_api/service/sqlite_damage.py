"""Damage in SQLite files of this package: told from a disk that can't be used now."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["PRIMARY", "DamagedFile", "check_row", "check_rows", "is_damage"]

PRIMARY = 0xFF
"""The bits of an extended result code that say what kind of error it is."""

DAMAGE = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_MISMATCH,
    # Our statements are constants: where one makes no sense, the schema is not the one we wrote.
    sqlite3.SQLITE_ERROR,
}
DAMAGE_EXTENDED = {
    sqlite3.SQLITE_IOERR_SHORT_READ,
    # Rows are looked up before they are written: a table and its index differ.
    sqlite3.SQLITE_CONSTRAINT_UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
}


class DamagedFile(sqlite3.DatabaseError):
    """The file holds what we never wrote, though SQLite itself can read it."""


def is_damage(error: BaseException) -> bool:
    """Whether a file is damaged, rather than out of reach."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    return isinstance(error, DamagedFile) or code & PRIMARY in DAMAGE or code in DAMAGE_EXTENDED


def check_row(row: Sequence[Any] | None, *types: type | tuple[type, ...]) -> tuple[Any, ...]:
    """Return a row whose values have the types that were written.

    SQLite keeps a type with each value, so a damaged byte changes it.

    Raises:
        DamagedFile: They have not, or there is no row.
    """
    if row is None or len(row) != len(types):
        raise DamagedFile("a row is missing")
    for value, expected in zip(row, types, strict=True):
        if not isinstance(value, expected):
            raise DamagedFile(f"a value is of another type: {type(value).__name__}")
    return tuple(row)


def check_rows(
    rows: Iterable[Sequence[Any]], *types: type | tuple[type, ...]
) -> list[tuple[Any, ...]]:
    """Return rows whose values have the types that were written.

    Raises:
        DamagedFile: They have not.
    """
    return [check_row(row, *types) for row in rows]
