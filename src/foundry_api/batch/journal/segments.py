"""Segments: the files in the journal's directory that contain the answers.

A row of the table `result` says where each answer is. When the batch is complete, one segment
becomes the output by being renamed.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from foundry_api.batch.journal.database import get_meta_as, transaction
from foundry_api.storage.private_file import sync_directory, sync_file
from foundry_api.storage.sqlite import DamagedFile, check_row, check_rows
from foundry_api.types.errors import BatchMismatch, BatchStorageFailed

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from foundry_api.batch.journal.runners import Runner

__all__ = ["Segment", "SegmentStore", "iter_answers", "merge_segments"]

BINARY = getattr(os, "O_BINARY", 0)
BATCH_ROWS = 4096
# A batch that was stopped often has many segments, and a process may have few open files.
MAX_OPEN_SEGMENTS = 32

SEGMENT_TOTALS_SQL = (
    "select count(*), min(segment), max(segment), sum(length + 1) from result where not failed"
)
OUT_OF_ORDER_SQL = """
select 1 from (select offset, lag(offset) over (order by idx) as before from result
where not failed) where offset < before limit 1
"""
LOCATIONS_SQL = """
select idx, segment, offset, length from result where idx > ? and not failed order by idx limit ?
"""


class Segment:
    """A new segment file, open for appending."""

    def __init__(self, path: Path) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | BINARY
        # One segment becomes the output, so the user's umask decides about its permissions. Until
        # then the directory, which is private, protects it.
        self._file = os.fdopen(os.open(path, flags, 0o666), "wb", buffering=0)
        self._size = 0

    def append(self, outputs: Iterable[bytes]) -> list[tuple[int, int]]:
        """Write lines and sync them to disk; return the offset and length of each.

        After a failure the call can be repeated.
        """
        locations: list[tuple[int, int]] = []
        data = bytearray()
        for output in outputs:
            locations.append((self._size + len(data), len(output)))
            data += output
            data += b"\n"
        # The size grows only after the sync, so a repeated call overwrites a partial write.
        self._file.seek(self._size)
        unwritten = memoryview(data)
        while unwritten:
            unwritten = unwritten[self._file.write(unwritten) :]
        sync_file(self._file.fileno())
        self._size += len(data)
        return locations

    def close(self) -> None:
        """Close the file, and cut off what a failed write left at its end."""
        # If that fails, the remaining bytes do no harm: no row refers to them.
        with self._file, suppress(OSError):
            self._file.truncate(self._size)


class SegmentStore:
    """All segments of a batch, and the one that this runner writes.

    A segment's row is inserted before its file is created, and deleted after the file, so a file
    without a row is unused. No runner touches the file of another live runner.
    """

    def __init__(
        self, directory: Path, output: Path, database: sqlite3.Connection, runner: Runner
    ) -> None:
        self._directory = directory
        self._output = output
        self._database = database
        self._runner = runner
        self._current: tuple[int, Segment] | None = None

    def append(self, outputs: list[bytes]) -> Iterator[tuple[int, int, int]]:
        """Write lines and sync them to disk; return the segment, offset and length of each."""
        if not outputs:
            return iter(())
        if self._current is None:
            number, path = self.allocate()
            segment = Segment(path)
            try:
                sync_directory(self._directory)
            except BaseException:
                segment.close()
                raise
            self._current = number, segment
        number, segment = self._current
        return iter([(number, *location) for location in segment.append(outputs)])

    def allocate(self) -> tuple[int, Path]:
        """Insert the row of a new segment; return its number and path."""
        with transaction(self._database):
            cursor = self._database.execute(
                "insert into segment (runner) values (?)", (self._runner.number,)
            )
        number = cursor.lastrowid or 0
        return number, self.get_part_path(number)

    def get_part_path(self, number: int) -> Path:
        """Return the path of a segment that has not become the output."""
        return self._directory / f"part-{number:06}.jsonl"

    def get_path(self, number: int) -> Path:
        """Return where a segment is now: in the directory, or renamed to the output."""
        path = self.get_part_path(number)
        if path.exists():
            return path
        if self.is_output(number):
            return self._output
        raise BatchStorageFailed(
            f"{path} is gone, and answers with it", hint="Start over with --restart."
        )

    def is_output(self, number: int) -> bool:
        """Whether a segment became the output."""
        return number == self.output_segment and not self.get_part_path(number).exists()

    @property
    def output_segment(self) -> int | None:
        """The segment that became, or is about to become, the output."""
        return get_meta_as(self._database, "whole", int)

    def check_output_present(self) -> None:
        """Raise `BatchMismatch` if the output was removed, and answers with it."""
        number = self.output_segment
        if number is None or self.get_part_path(number).exists() or self._output.exists():
            return
        if number in self._list_used():
            raise BatchMismatch(f"{self._output} is gone, and the answers with it")

    def find_complete_segment(self, *, ordered: bool) -> int | None:
        """Return the segment that contains all answers and nothing else, if there is one.

        With `ordered`, they must also be in the order of the input.
        """
        row = self._database.execute(SEGMENT_TOTALS_SQL).fetchone()
        count, number, last, size = check_row(row, int, *[(int, type(None))] * 3)
        if not count or number != last:
            return None
        rows = self._query_segments("select number, runner from segment where number = ?", number)
        if self._filter_live(rows):
            return None  # its runner may append to it at any moment
        self._release_if_in([number])
        # A runner that died may have left bytes that no row refers to.
        if self.get_path(number).stat().st_size != size:
            return None
        out_of_order = ordered and self._database.execute(OUT_OF_ORDER_SQL).fetchone()
        return None if out_of_order else int(number)

    def release(self) -> None:
        """Stop writing to the current segment; the next result goes to a new one."""
        if self._current is not None:
            (_, segment), self._current = self._current, None
            segment.close()

    def close(self) -> None:
        """Stop writing, and remove the current segment if its answers were merged into another."""
        if self._current is None:
            return
        number = self._current[0]
        self.release()
        if number not in self._list_used() and _try_remove(self.get_part_path(number)):
            self._database.execute("delete from segment where number = ?", (number,))

    def remove_unused(self) -> None:
        """Remove segments without answers, except those of other live runners.

        Call it under the lock of the directory, so that no runner joins meanwhile.
        """
        # List the files before the rows: a file without a row is then unused, not merely newer.
        files = set(self._directory.glob("part-*.jsonl"))
        rows = self._query_segments("select number, runner from segment")
        needed = self._list_used() | self._filter_live(rows)
        unused = [number for number, _ in rows if number not in needed]
        self._release_if_in(unused)
        removed = [(number,) for number in unused if _try_remove(self.get_part_path(number))]
        if removed:
            with transaction(self._database):
                self._database.executemany("delete from segment where number = ?", removed)
        for path in files - {self.get_part_path(number) for number, _ in rows}:
            _try_remove(path)

    def _release_if_in(self, numbers: list[int]) -> None:
        if self._current is not None and self._current[0] in numbers:
            self.release()

    def _query_segments(self, query: str, *values: int) -> list[tuple[Any, ...]]:
        return check_rows(self._database.execute(query, values), int, int)

    def _filter_live(self, rows: list[tuple[Any, ...]]) -> set[int]:
        others = {peer.number for peer in self._runner.live_peers}
        return {number for number, runner in rows if runner in others}

    def _list_used(self) -> set[int]:
        rows = self._database.execute("select distinct segment from result where not failed")
        return {number for (number,) in check_rows(rows, int)}


def _try_remove(path: Path) -> bool:
    """Remove a file; return False if Windows refuses because another process has it open."""
    with suppress(PermissionError):
        path.unlink(missing_ok=True)
        return True
    return False


def merge_segments(database: sqlite3.Connection, store: SegmentStore) -> int:
    """Copy all answers into one new segment, in the order of the input; return its number."""
    number, path = store.allocate()
    try:
        with path.open("xb") as file:
            for line in iter_answers(database, store):
                file.write(line)
            file.flush()
            sync_file(file.fileno())
        sync_directory(path.parent)
    except BaseException:
        # The disk may have no room for the answers twice. The old segments are still valid.
        path.unlink(missing_ok=True)
        raise
    # Rows move only after the new file is on disk, all at once. If this fails, no row refers to
    # the new file, and `remove_unused` removes it.
    with transaction(database):
        offset = 0
        for rows in _iter_locations(database):
            moved: list[tuple[int, int, int]] = []
            for index, _, _, length in rows:
                moved.append((number, offset, index))
                offset += length + 1
            database.executemany("update result set segment = ?, offset = ? where idx = ?", moved)
    return number


def iter_answers(database: sqlite3.Connection, store: SegmentStore) -> Iterator[bytes]:
    """Yield the answers in the order of the input, each with its newline."""
    with _OpenSegments(store) as segments:
        for rows in _iter_locations(database):
            for _, segment, offset, length in rows:
                yield segments.read_line(segment, offset, length)


def _iter_locations(database: sqlite3.Connection) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows of answers in chunks; the caller may update rows meanwhile."""
    last = -1
    while rows := check_rows(
        database.execute(LOCATIONS_SQL, (last, BATCH_ROWS)), int, int, int, int
    ):
        if any(offset < 0 or length < 0 for _, _, offset, length in rows):
            raise DamagedFile("an answer has a negative offset or length")
        yield rows
        last = rows[-1][0]


class _OpenSegments:
    """Reads segments, with a limited number of them open at a time. A context manager."""

    def __init__(self, store: SegmentStore) -> None:
        self._store = store
        self._files: OrderedDict[int, BinaryIO] = OrderedDict()

    def read_line(self, segment: int, offset: int, length: int) -> bytes:
        file = self._get_file(segment)
        # A damaged row must not make this read gigabytes.
        is_inside = offset + length < os.fstat(file.fileno()).st_size
        # Most lines follow one another; a needless seek would discard the read buffer.
        if is_inside and file.tell() != offset:
            file.seek(offset)
        line = file.read(length + 1) if is_inside else b""
        if len(line) != length + 1 or not line.endswith(b"\n"):
            raise BatchStorageFailed(
                f"{file.name} does not hold what the journal says",
                hint="Another program wrote to it. Start over with --restart.",
            )
        return line

    def _get_file(self, segment: int) -> BinaryIO:
        file = self._files.pop(segment, None) or self._store.get_path(segment).open("rb")
        self._files[segment] = file
        if len(self._files) > MAX_OPEN_SEGMENTS:
            self._files.popitem(last=False)[1].close()
        return file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
