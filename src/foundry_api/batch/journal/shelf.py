"""Where the answers lie: segments in the journal's directory, of which one becomes the output."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from foundry_api.batch.journal.database import transaction
from foundry_api.batch.journal.keeping import meta_of
from foundry_api.batch.journal.segments import Segment
from foundry_api.errors import BatchChanged, BatchStorageFailed
from foundry_api.service.private_file import synced_directory
from foundry_api.service.sqlite_damage import check_row, check_rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

    from foundry_api.batch.journal.runners import Runner

__all__ = ["Shelf"]

SUM = "select count(*), min(segment), max(segment), sum(length + 1) from result where not failed"

TURNED = """
select 1 from (select offset, lag(offset) over (order by idx) as before from result
where not failed) where offset < before limit 1
"""
"""Whether a line lies before one that the input has before it."""


class Shelf:
    """The segments of a batch, and the one that this runner writes.

    A segment has its row before its file is made, and loses it after the file is gone, so a file
    without a row is nobody's. The file of a living runner is touched by nobody else.

    Args:
        directory: The journal's.
        output: Where the output is; it is the segment that `whole` names, moved.
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
        self._own: tuple[int, Segment] | None = None

    def append(self, outputs: list[bytes]) -> Iterator[tuple[int, int, int]]:
        """Write lines, and wait until they are on the disk: segment, offset, length of each."""
        if not outputs:
            return iter(())
        number, segment = self._own = self._own or self._new()
        return iter([(number, *place) for place in segment.append(outputs)])

    def _new(self) -> tuple[int, Segment]:
        number, path = self.new_path()
        segment = Segment(path)
        try:
            synced_directory(self._directory)
        except BaseException:
            segment.close()
            raise
        return number, segment

    def new_path(self) -> tuple[int, Path]:
        """The number and the place of a new segment."""
        with transaction(self._database):
            cursor = self._database.execute(
                "insert into segment (runner) values (?)", (self._runner.number,)
            )
        number = cursor.lastrowid or 0
        return number, self.part(number)

    def part(self, number: int) -> Path:
        """Where a segment lies as long as it is not the output."""
        return self._directory / f"part-{number:06}.jsonl"

    def path_of(self, number: int) -> Path:
        """Where a segment lies.

        Raises:
            BatchStorageFailed: It is not there.
        """
        path = self.part(number)
        if path.exists():
            return path
        if self.is_output(number):
            return self._output
        raise BatchStorageFailed(
            f"{path} is gone, and answers with it", hint="Begin again with --restart."
        )

    def is_output(self, number: int) -> bool:
        """Whether a segment became the output."""
        return number == self.whole and not self.part(number).exists()

    @property
    def whole(self) -> int | None:
        """The segment that is, or is about to become, the output."""
        return meta_of(self._database, "whole", int)

    def refuse_gone(self) -> None:
        """Refuse to go on where the output was removed, and the answers in it.

        Raises:
            BatchChanged: It was.
        """
        whole = self.whole
        if whole is None or self.part(whole).exists() or self._output.exists():
            return
        if whole in self._used():
            raise BatchChanged(f"{self._output} is gone, and the answers with it")

    def sole(self, *, ordered: bool) -> int | None:
        """The segment that has all answers and nothing else, and to which nobody writes any more.

        Args:
            ordered: Whether they have to lie in the order of the input.
        """
        row = self._database.execute(SUM).fetchone()
        count, number, last, size = check_row(row, int, *[(int, type(None))] * 3)
        if not count or number != last or self._is_anothers(number):
            return None
        self._release_one_of([number])
        if self.path_of(number).stat().st_size != size:
            return None
        turned = ordered and self._database.execute(TURNED).fetchone()
        return None if turned else int(number)

    def _is_anothers(self, number: int) -> bool:
        rows = self._segments("select number, runner from segment where number = ?", number)
        return bool(self._of_others(rows))

    def _segments(self, query: str, *values: int) -> list[tuple[Any, ...]]:
        return check_rows(self._database.execute(query, values), int, int)

    def release(self) -> None:
        """Write no more to this runner's segment; what it records next goes to a new one."""
        if self._own is not None:
            (_, segment), self._own = self._own, None
            segment.close()

    def leave(self) -> None:
        """Write no more, and remove what this runner wrote if another one brought it together."""
        if self._own is None:
            return
        number = self._own[0]
        self.release()
        if number not in self._used() and _is_removed(self.part(number)):
            self._database.execute("delete from segment where number = ?", (number,))

    def _release_one_of(self, numbers: list[int]) -> None:
        if self._own is not None and self._own[0] in numbers:
            self.release()

    def remove_unused(self) -> None:
        """Remove what no line needs any more, but for what other living runners write.

        Call it under the lock of the directory, so that no runner comes meanwhile.
        """
        files = set(self._directory.glob("part-*.jsonl"))  # first: a file's row is older
        rows = self._segments("select number, runner from segment")
        kept = self._used() | self._of_others(rows)
        unused = [number for number, _ in rows if number not in kept]
        self._release_one_of(unused)
        gone = [(number,) for number in unused if _is_removed(self.part(number))]
        if gone:
            with transaction(self._database):
                self._database.executemany("delete from segment where number = ?", gone)
        for path in files - {self.part(number) for number, _ in rows}:
            _is_removed(path)

    def _of_others(self, rows: list[tuple[Any, ...]]) -> set[int]:
        others = {each.number for each in self._runner.others}
        return {number for number, runner in rows if runner in others}

    def _used(self) -> set[int]:
        rows = self._database.execute("select distinct segment from result where not failed")
        return {number for (number,) in check_rows(rows, int)}


def _is_removed(path: Path) -> bool:
    """Remove a file; False where Windows does not, since somebody has it open."""
    with suppress(PermissionError):
        path.unlink(missing_ok=True)
        return True
    return False
