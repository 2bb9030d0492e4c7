"""The rows of finished lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.batch.journal.database import delete_meta, transaction
from foundry_api.storage.sqlite import check_row, check_rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from foundry_api.batch.types import BatchLineResult

__all__ = ["ResultRows"]

# A line that is finished stays as it is: two runners may both finish one after a lease lapsed.
INSERT_SQL = (
    "insert into result values (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) on conflict (idx) do nothing"
)
# A failed line is not in a segment: it is short, and stored in the table `failure`.
NO_LOCATION = (0, 0, 0)


class ResultRows:
    """The finished lines of a batch, recorded by one runner."""

    def __init__(self, database: sqlite3.Connection, runner: int) -> None:
        self._database = database
        self._runner = runner

    def record(
        self,
        results: Sequence[BatchLineResult],
        locations: Iterator[tuple[int, int, int]],
        now: float,
    ) -> int:
        """Insert lines, all or none; return how many are new.

        `locations` has the segment, offset and length of each answered line, in order.
        """
        with transaction(self._database):
            models: dict[str, int] = {}
            for name in {result.model for result in results}:
                self._database.execute("insert or ignore into model (name) values (?)", (name,))
                row = self._database.execute("select number from model where name = ?", (name,))
                models[name] = check_row(row.fetchone(), int)[0]
            new = sum(
                self._insert(
                    result,
                    NO_LOCATION if result.failed else next(locations),
                    models[result.model],
                )
                for result in results
            )
            self._database.execute(
                "update runner set lines = lines + ?, seen = ? where number = ?",
                (new, now, self._runner),
            )
            if new:
                delete_meta(self._database, "current")
        return new

    def _insert(self, result: BatchLineResult, location: tuple[int, int, int], model: int) -> int:
        row = (
            result.index,
            result.digest,
            *location,
            result.failed,
            result.at,
            model,
            result.duration_s,
            result.queued_s,
            result.time_to_first_token_s,
            result.prompt_tokens,
            result.completion_tokens,
            result.attempts,
            result.shared,
            result.code,
        )
        new = self._database.execute(INSERT_SQL, row).rowcount
        if new and result.failed:
            self._database.execute(
                "insert into failure values (?, ?)", (result.index, result.output)
            )
        return new

    def get_finished(self, first: int, count: int) -> dict[int, int]:
        """Return the digests of finished lines by index, for `count` indexes from `first`."""
        rows = self._database.execute(
            "select idx, digest from result where idx >= ? and idx < ?", (first, first + count)
        )
        return dict(check_rows(rows, int, int))

    def is_complete(self, total: int) -> bool:
        """Whether each of the first `total` lines is finished."""
        row = self._database.execute("select count(*) from result where idx < ?", (total,))
        return bool(row.fetchone()[0] == total)

    def forget_failed(self) -> int:
        """Delete the failed lines; return how many there were."""
        with transaction(self._database):
            self._database.execute("delete from failure")
            forgotten = self._database.execute("delete from result where failed").rowcount
            if forgotten:
                delete_meta(self._database, "current")
        return forgotten

    def forget_all(self) -> None:
        """Delete everything except the runners. Call it in a transaction."""
        for table in ("result", "failure", "segment", "claim", "meta"):
            self._database.execute(f"delete from {table}")  # noqa: S608 - constant table names
