"""Who answers which lines, where several runners share a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.batch.journal.database import transaction
from foundry_api.batch.journal.runners import known_runner
from foundry_api.service.sqlite_damage import check_row

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

    from foundry_api.batch.journal.runners import Runner

__all__ = ["BLOCK_LINES", "Claims"]

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
        ticks: Callable[[], float],
        lease_s: float,
    ) -> None:
        self._directory = directory
        self._database = database
        self._runner = runner
        self._ticks = ticks
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
                if holder != self._runner.number and self._is_there(holder):
                    return False
            self._database.execute(
                "insert or replace into claim values (?, ?)", (block, self._runner.number)
            )
            return True

    def _is_there(self, number: int) -> bool:
        """Whether another runner lives, and gave a sign while this one looked."""
        other = known_runner(self._directory, self._database, number)
        if other is None or not other.alive:
            return False
        now = self._ticks()
        sign, since = self._signs.get(number, (None, now))
        if sign != other.seen:
            self._signs[number] = (other.seen, now)
            return True
        return now - since < self._lease_s
