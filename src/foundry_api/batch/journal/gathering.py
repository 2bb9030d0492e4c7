"""The answers, read from wherever they lie, and brought together."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from foundry_api.batch.journal.database import transaction
from foundry_api.errors import BatchStorageFailed
from foundry_api.service.private_file import synced_directory
from foundry_api.service.sqlite_damage import DamagedFile, check_rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from foundry_api.batch.journal.shelf import Shelf

__all__ = ["answers", "gathered"]

CHUNK = 4096
MOST_OPEN = 32
"""Segments that are open at a time: a batch that was stopped often has many."""

PLACES = """
select idx, segment, offset, length from result where idx > ? and not failed order by idx limit ?
"""


def gathered(database: sqlite3.Connection, shelf: Shelf) -> int:
    """Have all answers in one new segment, in the order of the input, and the rows say so.

    The rows change at once, when all of it is on the disk. Until then the answers lie where they
    lay, and where there is no room for them twice, nothing is left of the attempt.

    Returns:
        The number of the segment.
    """
    number, path = shelf.new_path()
    try:
        with path.open("xb") as file:
            for line in answers(database, shelf):
                file.write(line)
            file.flush()
            os.fsync(file.fileno())
        synced_directory(path.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    with transaction(database):  # should it fail, the file is removed with all that no row names
        _move_rows(database, number)
    return number


def _move_rows(database: sqlite3.Connection, number: int) -> None:
    """All answers lie in one segment, in the order of the input."""
    offset = 0
    for rows in _chunks(database):
        moved: list[tuple[int, int, int]] = []
        for index, _, _, length in rows:
            moved.append((number, offset, index))
            offset += length + 1
        database.executemany("update result set segment = ?, offset = ? where idx = ?", moved)


def answers(database: sqlite3.Connection, shelf: Shelf) -> Iterator[bytes]:
    """The answers in the order of the input, each with its end of line.

    Raises:
        BatchStorageFailed: One is not where it was written.
    """
    with _OpenSegments(shelf) as segments:
        for rows in _chunks(database):
            for _, segment, offset, length in rows:
                yield segments.line(segment, offset, length)


def _chunks(database: sqlite3.Connection) -> Iterator[list[tuple[Any, ...]]]:
    """Where each answer lies, a chunk at a time: rows may be changed meanwhile."""
    last = -1
    while rows := check_rows(database.execute(PLACES, (last, CHUNK)), int, int, int, int):
        if any(offset < 0 or length < 0 for _, _, offset, length in rows):
            raise DamagedFile("an answer lies nowhere")
        yield rows
        last = rows[-1][0]


class _OpenSegments:
    """Segments to read, of which only so many are open at a time. A context manager."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._files: OrderedDict[int, BinaryIO] = OrderedDict()

    def line(self, segment: int, offset: int, length: int) -> bytes:
        """A line with its end."""
        file = self._file(segment)
        is_inside = offset + length < os.fstat(file.fileno()).st_size
        if is_inside and file.tell() != offset:
            file.seek(offset)
        line = file.read(length + 1) if is_inside else b""
        if len(line) != length + 1 or not line.endswith(b"\n"):
            raise BatchStorageFailed(
                f"{file.name} does not hold what the journal says",
                hint="Something else wrote to it. Begin again with --restart.",
            )
        return line

    def _file(self, segment: int) -> BinaryIO:
        file = self._files.pop(segment, None) or self._shelf.path_of(segment).open("rb")
        self._files[segment] = file
        if len(self._files) > MOST_OPEN:
            self._files.popitem(last=False)[1].close()
        return file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
