"""Lines in the order of the input, where they are written as they come."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from foundry_api.batch.outlet import Outlet

if TYPE_CHECKING:
    from foundry_api.batch.lines import Finished

__all__ = ["InOrder"]


class InOrder:
    """Holds lines back until all before them have come, within the bounded window of an outlet."""

    def __init__(self) -> None:
        self._outlet = Outlet["Finished"](ordered=True)
        self._moved = asyncio.Event()

    async def room(self, index: int) -> None:
        """Wait until a line may begin. Lines begin in their order."""
        while not self._outlet.admits(index):
            self._moved.clear()
            await self._moved.wait()

    def put(self, finished: Finished) -> list[Finished]:
        """Take a line; those whose turn has come are given back, in order."""
        self._outlet.put(finished.index, finished)
        ready = [self._outlet.take() for _ in range(len(self._outlet))]
        if ready:
            self._moved.set()
        return ready
