"""The rows of finished lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.batch.journal.database import transaction
from foundry_api.batch.journal.keeping import forget
from foundry_api.service.sqlite_damage import check_row, check_rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping, Sequence

    from foundry_api.batch.lines import Finished

__all__ = ["Rows"]

ROW = "insert into result values (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) on conflict (idx) do nothing"
NOWHERE = (0, 0, 0)
"""The place of a failed line: its text is short, and lies in the journal."""


class Rows:
    """What is finished, line by line.

    Args:
        database: The journal.
        runner: The number of who records.
    """

    def __init__(self, database: sqlite3.Connection, runner: int) -> None:
        self._database = database
        self._runner = runner

    def record(
        self, results: Sequence[Finished], places: Iterator[tuple[int, int, int]], now: float
    ) -> int:
        """Note lines, all or none. How many were not known before.

        Args:
            results: The lines.
            places: Where those lie that are answered: segment, offset and length.
            now: Seconds since the epoch.
        """
        with transaction(self._database):
            models = {each.model for each in results}
            numbers = {name: self._model(name) for name in models}
            new = sum(
                self._insert(each, NOWHERE if each.failed else next(places), numbers)
                for each in results
            )
            self._database.execute(
                "update runner set lines = lines + ?, seen = ? where number = ?",
                (new, now, self._runner),
            )
            if new:
                forget(self._database, "current")
        return new

    def _insert(
        self, each: Finished, place: tuple[int, int, int], models: Mapping[str, int]
    ) -> int:
        row = _row(each, place, models[each.model])
        new = self._database.execute(ROW, row).rowcount
        if new and each.failed:
            self._database.execute("insert into failure values (?, ?)", (each.index, each.output))
        return new

    def _model(self, name: str) -> int:
        self._database.execute("insert or ignore into model (name) values (?)", (name,))
        row = self._database.execute("select number from model where name = ?", (name,)).fetchone()
        return int(check_row(row, int)[0])

    def finished(self, first: int, count: int) -> dict[int, int]:
        """The digests of the finished lines among some, by index."""
        rows = self._database.execute(
            "select idx, digest from result where idx >= ? and idx < ?", (first, first + count)
        )
        return dict(check_rows(rows, int, int))

    def complete(self, total: int) -> bool:
        """Whether each of the first `total` lines is finished."""
        row = self._database.execute("select count(*) from result where idx < ?", (total,))
        return bool(row.fetchone()[0] == total)

    def forget_failed(self) -> int:
        """Forget the lines that failed; how many there were."""
        with transaction(self._database):
            self._database.execute("delete from failure")
            forgotten = self._database.execute("delete from result where failed").rowcount
            if forgotten:
                forget(self._database, "current")
        return forgotten

    def forget_all(self) -> None:
        """Forget everything but who works on the batch. Call it in a transaction."""
        for table in ("result", "failure", "segment", "claim", "meta"):
            self._database.execute(f"delete from {table}")  # noqa: S608 - names of our own


def _row(each: Finished, place: tuple[int, int, int], model: int) -> tuple[object, ...]:
    """A line's row: what is told of it, and the segment, offset and length of its answer."""
    return (
        each.index,
        each.digest,
        *place,
        each.failed,
        each.at,
        model,
        each.duration_s,
        each.queued_s,
        each.time_to_first_token_s,
        each.prompt_tokens,
        each.completion_tokens,
        each.attempts,
        each.shared,
        each.code,
    )
