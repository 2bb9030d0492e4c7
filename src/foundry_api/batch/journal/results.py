"""The rows of finished lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.batch.journal.database import delete_meta, transaction
from foundry_api.batch.journal.runners import find_runner
from foundry_api.storage.sqlite import check_row, check_rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from foundry_api.batch.journal.runners import Runner
    from foundry_api.batch.types import BatchLineResult

__all__ = ["BLOCK_LINES", "Claims", "ResultRows"]


INSERT_SQL = (
    "insert into result values (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) on conflict (idx) do nothing"
)
NO_LOCATION = (0, 0, 0)
"""The place of a failed line: its text is short, and lies in the journal."""


class ResultRows:
    """What is finished, line by line.

    Args:
        database: The journal.
        runner: The number of who records.
    """

    def __init__(self, database: sqlite3.Connection, runner: int) -> None:
        self._database = database
        self._runner = runner

    def record(
        self,
        results: Sequence[BatchLineResult],
        locations: Iterator[tuple[int, int, int]],
        now: float,
    ) -> int:
        """Note lines, all or none. How many were not known before.

        Args:
            results: The lines.
            locations: Where those lie that are answered: segment, offset and length.
            now: Seconds since the epoch.
        """
        with transaction(self._database):
            models = {result.model for result in results}
            numbers = {name: self._get_model_number(name) for name in models}
            new = sum(
                self._insert(result, NO_LOCATION if result.failed else next(locations), numbers)
                for result in results
            )
            self._database.execute(
                "update runner set lines = lines + ?, seen = ? where number = ?",
                (new, now, self._runner),
            )
            if new:
                delete_meta(self._database, "current")
        return new

    def _insert(
        self, result: BatchLineResult, location: tuple[int, int, int], models: Mapping[str, int]
    ) -> int:
        row = _make_row(result, location, models[result.model])
        new = self._database.execute(INSERT_SQL, row).rowcount
        if new and result.failed:
            self._database.execute(
                "insert into failure values (?, ?)", (result.index, result.output)
            )
        return new

    def _get_model_number(self, name: str) -> int:
        self._database.execute("insert or ignore into model (name) values (?)", (name,))
        row = self._database.execute("select number from model where name = ?", (name,)).fetchone()
        return int(check_row(row, int)[0])

    def get_finished(self, first: int, count: int) -> dict[int, int]:
        """The digests of the finished lines among some, by index."""
        rows = self._database.execute(
            "select idx, digest from result where idx >= ? and idx < ?", (first, first + count)
        )
        return dict(check_rows(rows, int, int))

    def is_complete(self, total: int) -> bool:
        """Whether each of the first `total` lines is finished."""
        row = self._database.execute("select count(*) from result where idx < ?", (total,))
        return bool(row.fetchone()[0] == total)

    def forget_failed(self) -> int:
        """Forget the lines that failed; how many there were."""
        with transaction(self._database):
            self._database.execute("delete from failure")
            forgotten = self._database.execute("delete from result where failed").rowcount
            if forgotten:
                delete_meta(self._database, "current")
        return forgotten

    def forget_all(self) -> None:
        """Forget everything but who works on the batch. Call it in a transaction."""
        for table in ("result", "failure", "segment", "claim", "meta"):
            self._database.execute(f"delete from {table}")  # noqa: S608 - names of our own


def _make_row(
    result: BatchLineResult, location: tuple[int, int, int], model: int
) -> tuple[object, ...]:
    """A line's row: what is told of it, and the segment, offset and length of its answer."""
    return (
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


BLOCK_LINES = 64
"""Lines of a block that is claimed: block `n` has the indexes from `n * BLOCK_LINES`. Few, so that
at the end of a batch nobody waits long for who has the last one; each costs the disk a wait."""


class Claims:
    """The blocks of lines that runners have taken.

    A claim holds as long as its runner lives and gives signs. Signs are compared, not their times:
    clocks jump. How long there was none is measured with a clock that never goes back.

    Args:
        directory: The journal's.
        database: The journal.
        runner: Who asks.
        ticks: Seconds of a clock that never goes back; no other process needs the same.
        lease_s: Seconds without a sign after which a living runner's claims lapse.
    """

    def __init__(
        self,
        directory: Path,
        database: sqlite3.Connection,
        runner: Runner,
        *,
        monotonic: Callable[[], float],
        lease_s: float,
    ) -> None:
        self._directory = directory
        self._database = database
        self._runner = runner
        self._monotonic = monotonic
        self._lease_s = lease_s
        self._signs: dict[int, tuple[float, float]] = {}

    def claim(self, block: int) -> bool:
        """Ask for a block; whether it is this runner's."""
        if not self._runner.shared:
            return True  # without asking the disk: there is nobody else
        with transaction(self._database):
            row = self._database.execute(
                "select runner from claim where block = ?", (block,)
            ).fetchone()
            if row is not None:
                (holder,) = check_row(row, int)
                if holder != self._runner.number and self._is_runner_alive(holder):
                    return False
            self._database.execute(
                "insert or replace into claim values (?, ?)", (block, self._runner.number)
            )
            return True

    def _is_runner_alive(self, number: int) -> bool:
        """Whether another runner lives, and gave a sign while this one looked."""
        other = find_runner(self._directory, self._database, number)
        if other is None or not other.alive:
            return False
        now = self._monotonic()
        sign, since = self._signs.get(number, (None, now))
        if sign != other.last_seen_at:
            self._signs[number] = (other.last_seen_at, now)
            return True
        return now - since < self._lease_s
