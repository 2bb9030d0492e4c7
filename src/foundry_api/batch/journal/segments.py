"""Where the answers lie: segments in the journal's directory, of which one becomes the output."""

from __future__ import annotations

import os
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from foundry_api.batch.journal.database import get_meta_as, transaction
from foundry_api.storage.private_file import sync_directory
from foundry_api.storage.sqlite import DamagedFile, check_row, check_rows
from foundry_api.types.errors import BatchMismatch, BatchStorageFailed

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from foundry_api.batch.journal.runners import Runner

__all__ = ["Segment", "SegmentStore", "iter_answers", "merge_segments"]


BINARY = getattr(os, "O_BINARY", 0)


class Segment:
    """A new file of answers.

    One of them becomes the output, so the user's umask says who may read it. Until then the
    directory keeps others away.

    Args:
        path: Where; nothing may be there.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | BINARY
        self._file = os.fdopen(os.open(path, flags, 0o666), "wb", buffering=0)
        self._size = 0

    def append(self, outputs: Iterable[bytes]) -> list[tuple[int, int]]:
        """Write lines, and wait until they are on the disk. Where each lies, and how long it is.

        The same call may be made again after a failure: what that left is written over.
        """
        locations: list[tuple[int, int]] = []
        data = bytearray()
        for output in outputs:
            locations.append((self._size + len(data), len(output)))
            data += output
            data += b"\n"
        self._file.seek(self._size)
        unwritten = memoryview(data)
        while unwritten:
            unwritten = unwritten[self._file.write(unwritten) :]
        os.fsync(self._file.fileno())
        self._size += len(data)
        return locations

    def close(self) -> None:
        """Close it, without what a failed write left behind the last line."""
        with self._file, suppress(OSError):  # such bytes do no harm: no row names them
            self._file.truncate(self._size)


SEGMENT_TOTALS_SQL = (
    "select count(*), min(segment), max(segment), sum(length + 1) from result where not failed"
)

OUT_OF_ORDER_SQL = """
select 1 from (select offset, lag(offset) over (order by idx) as before from result
where not failed) where offset < before limit 1
"""
"""Whether a line lies before one that the input has before it."""


class SegmentStore:
    """The segments of a batch, and the one that this runner writes.

    A segment has its row before its file is made, and loses it after the file is gone, so a file
    without a row is nobody's. The file of a living runner is touched by nobody else.

    Args:
        directory: The journal's.
        output: Where the output is; it is the segment that `output_segment` names, moved.
        database: The journal.
        runner: Who writes.
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
        """Write lines, and wait until they are on the disk: segment, offset, length of each."""
        if not outputs:
            return iter(())
        number, segment = self._current = self._current or self._create()
        return iter([(number, *place) for place in segment.append(outputs)])

    def _create(self) -> tuple[int, Segment]:
        number, path = self.allocate()
        segment = Segment(path)
        try:
            sync_directory(self._directory)
        except BaseException:
            segment.close()
            raise
        return number, segment

    def allocate(self) -> tuple[int, Path]:
        """The number and the place of a new segment."""
        with transaction(self._database):
            cursor = self._database.execute(
                "insert into segment (runner) values (?)", (self._runner.number,)
            )
        number = cursor.lastrowid or 0
        return number, self.segment_path(number)

    def segment_path(self, number: int) -> Path:
        """Where a segment lies as long as it is not the output."""
        return self._directory / f"part-{number:06}.jsonl"

    def get_path(self, number: int) -> Path:
        """Where a segment lies.

        Raises:
            BatchStorageFailed: It is not there.
        """
        path = self.segment_path(number)
        if path.exists():
            return path
        if self.is_output(number):
            return self._output
        raise BatchStorageFailed(
            f"{path} is gone, and answers with it", hint="Begin again with --restart."
        )

    def is_output(self, number: int) -> bool:
        """Whether a segment became the output."""
        return number == self.output_segment and not self.segment_path(number).exists()

    @property
    def output_segment(self) -> int | None:
        """The segment that is, or is about to become, the output."""
        return get_meta_as(self._database, "whole", int)

    def check_output_present(self) -> None:
        """Refuse to go on where the output was removed, and the answers in it.

        Raises:
            BatchMismatch: It was.
        """
        output_segment = self.output_segment
        if (
            output_segment is None
            or self.segment_path(output_segment).exists()
            or self._output.exists()
        ):
            return
        if output_segment in self._used_segments():
            raise BatchMismatch(f"{self._output} is gone, and the answers with it")

    def single_complete_segment(self, *, ordered: bool) -> int | None:
        """The segment that has all answers and nothing else, and to which nobody writes any more.

        Args:
            ordered: Whether they have to lie in the order of the input.
        """
        row = self._database.execute(SEGMENT_TOTALS_SQL).fetchone()
        count, number, last, size = check_row(row, int, *[(int, type(None))] * 3)
        if not count or number != last or self._owned_by_other(number):
            return None
        self._release_if_in([number])
        if self.get_path(number).stat().st_size != size:
            return None
        out_of_order = ordered and self._database.execute(OUT_OF_ORDER_SQL).fetchone()
        return None if out_of_order else int(number)

    def _owned_by_other(self, number: int) -> bool:
        rows = self._query_segments("select number, runner from segment where number = ?", number)
        return bool(self._live_segments_of_others(rows))

    def _query_segments(self, query: str, *values: int) -> list[tuple[Any, ...]]:
        return check_rows(self._database.execute(query, values), int, int)

    def release(self) -> None:
        """Write no more to this runner's segment; what it records next goes to a new one."""
        if self._current is not None:
            (_, segment), self._current = self._current, None
            segment.close()

    def close(self) -> None:
        """Write no more, and remove what this runner wrote if another one brought it together."""
        if self._current is None:
            return
        number = self._current[0]
        self.release()
        if number not in self._used_segments() and _try_remove(self.segment_path(number)):
            self._database.execute("delete from segment where number = ?", (number,))

    def _release_if_in(self, numbers: list[int]) -> None:
        if self._current is not None and self._current[0] in numbers:
            self.release()

    def remove_unused(self) -> None:
        """Remove what no line needs any more, but for what other living runners write.

        Call it under the lock of the directory, so that no runner comes meanwhile.
        """
        files = set(self._directory.glob("part-*.jsonl"))  # first: a file's row is older
        rows = self._query_segments("select number, runner from segment")
        needed = self._used_segments() | self._live_segments_of_others(rows)
        unused = [number for number, _ in rows if number not in needed]
        self._release_if_in(unused)
        removed = [(number,) for number in unused if _try_remove(self.segment_path(number))]
        if removed:
            with transaction(self._database):
                self._database.executemany("delete from segment where number = ?", removed)
        for path in files - {self.segment_path(number) for number, _ in rows}:
            _try_remove(path)

    def _live_segments_of_others(self, rows: list[tuple[Any, ...]]) -> set[int]:
        others = {peer.number for peer in self._runner.live_peers}
        return {number for number, runner in rows if runner in others}

    def _used_segments(self) -> set[int]:
        rows = self._database.execute("select distinct segment from result where not failed")
        return {number for (number,) in check_rows(rows, int)}


def _try_remove(path: Path) -> bool:
    """Remove a file; False where Windows does not, since somebody has it open."""
    with suppress(PermissionError):
        path.unlink(missing_ok=True)
        return True
    return False


BATCH_ROWS = 4096
MAX_OPEN_SEGMENTS = 32
"""Segments that are open at a time: a batch that was stopped often has many."""

LOCATIONS_SQL = """
select idx, segment, offset, length from result where idx > ? and not failed order by idx limit ?
"""


def merge_segments(database: sqlite3.Connection, store: SegmentStore) -> int:
    """Have all answers in one new segment, in the order of the input, and the rows say so.

    The rows change at once, when all of it is on the disk. Until then the answers lie where they
    lay, and where there is no room for them twice, nothing is left of the attempt.

    Returns:
        The number of the segment.
    """
    number, path = store.allocate()
    try:
        with path.open("xb") as file:
            for line in iter_answers(database, store):
                file.write(line)
            file.flush()
            os.fsync(file.fileno())
        sync_directory(path.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    with transaction(database):  # should it fail, the file is removed with all that no row names
        _move_rows(database, number)
    return number


def _move_rows(database: sqlite3.Connection, number: int) -> None:
    """All answers lie in one segment, in the order of the input."""
    offset = 0
    for rows in _iter_locations(database):
        moved: list[tuple[int, int, int]] = []
        for index, _, _, length in rows:
            moved.append((number, offset, index))
            offset += length + 1
        database.executemany("update result set segment = ?, offset = ? where idx = ?", moved)


def iter_answers(database: sqlite3.Connection, store: SegmentStore) -> Iterator[bytes]:
    """The answers in the order of the input, each with its end of line.

    Raises:
        BatchStorageFailed: One is not where it was written.
    """
    with _OpenSegments(store) as segments:
        for rows in _iter_locations(database):
            for _, segment, offset, length in rows:
                yield segments.read_line(segment, offset, length)


def _iter_locations(database: sqlite3.Connection) -> Iterator[list[tuple[Any, ...]]]:
    """Where each answer lies, a chunk at a time: rows may be changed meanwhile."""
    last = -1
    while rows := check_rows(
        database.execute(LOCATIONS_SQL, (last, BATCH_ROWS)), int, int, int, int
    ):
        if any(offset < 0 or length < 0 for _, _, offset, length in rows):
            raise DamagedFile("an answer lies nowhere")
        yield rows
        last = rows[-1][0]


class _OpenSegments:
    """Segments to read, of which only so many are open at a time. A context manager."""

    def __init__(self, store: SegmentStore) -> None:
        self._store = store
        self._files: OrderedDict[int, BinaryIO] = OrderedDict()

    def read_line(self, segment: int, offset: int, length: int) -> bytes:
        """A line with its end."""
        file = self._get_file(segment)
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
