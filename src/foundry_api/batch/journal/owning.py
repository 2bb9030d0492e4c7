"""The files of the user that a batch writes. It replaces what it wrote itself, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from foundry_api.batch.journal.database import transaction
from foundry_api.errors import BatchChanged, BatchStorageFailed
from foundry_api.service.private_file import move_into_place, synced_directory
from foundry_api.service.sqlite_damage import check_rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["OwnFiles", "Role", "not_written_here"]

Role = Literal["output", "errors"]

HINTS: dict[Role, str] = {
    "output": "Put it back as it was. To begin anew, move it away, then give --restart.",
    "errors": "Move it away: the same command then writes it again.",
}


class OwnFiles:
    """The output and the error file, known by their sizes and times.

    A file is noted as this batch's own before it gets its name. So whatever dies between two
    steps, what lies there under the name is known: the old file or the new one.

    Args:
        database: The journal.
        paths: Where each is.
    """

    def __init__(self, database: sqlite3.Connection, paths: Mapping[Role, Path]) -> None:
        self._database = database
        self._paths = paths

    def refuse_foreign(self) -> None:
        """Refuse to go on where that would replace what somebody else wrote.

        Raises:
            BatchChanged: One of the files was changed since it was written.
            BatchStorageFailed: One is there without having been written by this batch.
        """
        for role, path in self._paths.items():
            if path.is_dir():
                raise BatchStorageFailed(f"{path} is a directory", hint="Name a file.")
            own = self._own(role)
            seen = _identity(path)
            if seen is None or seen in own:
                continue
            if own:
                raise BatchChanged(f"{path} is not as this batch left it", hint=HINTS[role])
            raise not_written_here(path)

    def adopt(self) -> None:
        """Take what is there now for this batch's own: it may be replaced."""
        self._database.execute("delete from own")
        for role in self._paths:
            self._note(role, self._paths[role])

    def place(self, role: Role, draft: Path) -> None:
        """Let a file that is safe on the disk get its name."""
        with transaction(self._database):
            self._note(role, draft)
        move_into_place(draft, self._paths[role])
        synced_directory(self._paths[role].parent)

    def remove(self, role: Role) -> None:
        """Have no such file."""
        path = self._paths[role]
        if path.exists():
            path.unlink()
            synced_directory(path.parent)

    def settle(self) -> None:
        """Forget the files that were replaced."""
        for role, path in self._paths.items():
            self._database.execute("delete from own where role = ?", (role,))
            self._note(role, path)

    def _note(self, role: Role, path: Path) -> None:
        identity = _identity(path)
        if identity is not None:
            self._database.execute("insert or ignore into own values (?, ?, ?)", (role, *identity))

    def _own(self, role: Role) -> set[tuple[int, int]]:
        rows = self._database.execute("select size, time from own where role = ?", (role,))
        return {(size, time) for size, time in check_rows(rows, int, int)}


def not_written_here(path: Path) -> BatchStorageFailed:
    """The error for a file that is in the way of a batch."""
    return BatchStorageFailed(
        f"{path} is there, and was not written by this batch",
        hint="Name another file. With --restart it is replaced, and what is in it is lost.",
    )


def _identity(path: Path) -> tuple[int, int] | None:
    """What changes when somebody writes to a file; None without one."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns
