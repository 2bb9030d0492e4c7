"""How many lines make a block."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BLOCKS_AT_ONCE", "MOST_LINES", "Pace"]

BLOCKS_AT_ONCE = 4
"""Blocks that an actor has at once: so its engine never waits for the next one."""

BLOCK_S = 0.5
"""Seconds of an actor's work in a block. It bounds what is asked again when an actor dies, and how
long the last actor works while the others have nothing left."""

MOST_LINES = 64
WINDOW_S = 1.0


class Pace:
    """Learns how quickly lines come back.

    Args:
        clock: Seconds of a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._count = 0
        self._rate = 0.0

    def delivered(self, count: int) -> None:
        """So many lines came back."""
        self._count += count

    def lines(self, actors: int, limit: int) -> int:
        """Lines for the next block: some time's work of an actor, or as many as fill its engine.

        Args:
            actors: How many share the work.
            limit: How many lines an actor may have in flight.
        """
        self._measure()
        work = self._rate * BLOCK_S / max(1, actors)
        room = 2 * limit / BLOCKS_AT_ONCE
        return min(MOST_LINES, max(1, math.ceil(work), math.ceil(room)))

    def _measure(self) -> None:
        elapsed = self._clock() - self._since
        if elapsed >= WINDOW_S:
            self._rate = self._count / elapsed
            self._since, self._count = self._since + elapsed, 0
