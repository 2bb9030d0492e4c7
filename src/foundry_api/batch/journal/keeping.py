"""What a journal keeps beside its lines, and who may change it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from foundry_api.batch.journal.told import Published
from foundry_api.errors import BatchInUse, ServiceStartFailed
from foundry_api.service.lock import FileLock
from foundry_api.service.sqlite_damage import DamagedFile, check_row

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Generator
    from pathlib import Path

__all__ = ["forget", "locked", "meta", "meta_of", "published_of", "put", "reading_json"]

LOCK = "lock"
_T = TypeVar("_T")


def put(database: sqlite3.Connection, name: str, value: Any) -> None:
    """Keep something under a name, as JSON."""
    encoded = msgspec.json.encode(value, enc_hook=str)
    database.execute("insert or replace into meta values (?, ?)", (name, encoded))


def meta(database: sqlite3.Connection, name: str) -> Any:
    """What a journal keeps under a name, as plain JSON; None for nothing."""
    row = database.execute("select value from meta where name = ?", (name,)).fetchone()
    if row is None:
        return None
    (encoded,) = check_row(row, bytes)
    with reading_json():
        return msgspec.json.decode(encoded)


def meta_of(database: sqlite3.Connection, name: str, value_type: type[_T]) -> _T | None:
    """What a journal keeps under a name, of the type that was kept; None for nothing.

    Raises:
        DamagedFile: It is of another type.
    """
    value = meta(database, name)
    with reading_json():
        return None if value is None else msgspec.convert(value, value_type)


def published_of(told: Any) -> Published:
    """What was written last, as `meta` returns it.

    Raises:
        DamagedFile: It is not that.
    """
    with reading_json():
        return Published.of(told)


@contextmanager
def reading_json() -> Generator[None]:
    """Raise JSON that is not what was kept as damage of the journal."""
    try:
        yield
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise DamagedFile(f"what it keeps is not what was written: {error}") from error


def forget(database: sqlite3.Connection, *names: str) -> None:
    """Keep nothing under some names."""
    database.executemany("delete from meta where name = ?", [(name,) for name in names])


class locked:  # noqa: N801 - reads as a verb in `with`
    """The lock of a journal's directory, told as our own error where it is not to be had."""

    def __init__(self, directory: Path, wait_s: float) -> None:
        self._directory = directory
        self._lock = FileLock(directory / LOCK, timeout_s=wait_s)

    def __enter__(self) -> None:
        try:
            self._lock.__enter__()
        except ServiceStartFailed as error:
            raise BatchInUse(f"another process holds the journal in {self._directory}") from error

    def __exit__(self, *_: object) -> None:
        self._lock.__exit__()
