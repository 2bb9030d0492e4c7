"""Lines in the order of the input, where they are written as they come."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foundry_api.batch.lines import Finished

__all__ = ["InOrder"]

WINDOW_LINES = 1024
"""How far reading may be ahead of the oldest line that is not answered."""


class InOrder:
    """Holds lines back until all before them have come, within a bounded window.

    Args:
        size: How many lines may be on their way or held back at once.
    """

    def __init__(self, size: int = WINDOW_LINES) -> None:
        self._size = size
        self._next = 0
        self._held: dict[int, Finished] = {}
        self._moved = asyncio.Event()

    async def room(self, index: int) -> None:
        """Wait until a line may begin. Lines begin in their order."""
        while index >= self._next + self._size:
            self._moved.clear()
            await self._moved.wait()

    def put(self, finished: Finished) -> list[Finished]:
        """Take a line; those whose turn has come are given back, in order."""
        self._held[finished.index] = finished
        ready: list[Finished] = []
        while (first := self._held.pop(self._next, None)) is not None:
            ready.append(first)
            self._next += 1
        if ready:
            self._moved.set()
        return ready
