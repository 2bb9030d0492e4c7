"""What a journal keeps beside its lines, and who may change it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.errors import BatchInUse, ServiceStartFailed
from foundry_api.service.lock import FileLock

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

__all__ = ["forget", "locked", "meta", "put"]

LOCK = "lock"


def put(database: sqlite3.Connection, name: str, value: Any) -> None:
    """Keep something under a name, as JSON."""
    encoded = msgspec.json.encode(value, enc_hook=str)
    database.execute("insert or replace into meta values (?, ?)", (name, encoded))


def meta(database: sqlite3.Connection, name: str) -> Any:
    """What a journal keeps under a name, as plain JSON; None for nothing."""
    row = database.execute("select value from meta where name = ?", (name,)).fetchone()
    return None if row is None else msgspec.json.decode(row[0])


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
