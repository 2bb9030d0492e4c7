"""What finishes is written in groups: each costs the disk a wait, so lines share it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from foundry_api.batch.lines import Finished

__all__ = ["Recorder"]

GROUP_S = 0.25
"""A finished line waits so long for others. With the writing it stays well below the second after
which the user is promised that a line is safe."""

GROUP_LINES = 512
GROUP_BYTES = 8 * 1024 * 1024
"""A group ends with so many bytes, too: answers may be long, and memory is to stay flat."""


class Recorder:
    """Collects what finishes, and has it recorded in groups.

    Args:
        record: Makes a group safe: all of it or nothing. Raises where it cannot.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        record: Callable[[Sequence[Finished]], Awaitable[None]],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._record = record
        self._sleep = sleep
        self._group: list[Finished] = []
        self._bytes = 0
        self._some = asyncio.Event()
        self._turn = asyncio.Lock()

    async def add(self, finished: Finished) -> None:
        """Take a line. Waits while the disk is behind."""
        self._group.append(finished)
        self._bytes += len(finished.output)
        self._some.set()
        if len(self._group) >= GROUP_LINES or self._bytes >= GROUP_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Have all that was taken recorded. What it does not come to is left for the next time.

        Raises:
            BatchStorageFailed: It cannot be; nothing of the group is.
        """
        async with self._turn:
            group, size = self._group, self._bytes
            self._group, self._bytes = [], 0
            self._some.clear()
            if not group:
                return
            try:
                await self._record(group)
            except BaseException:
                self._group, self._bytes = group + self._group, size + self._bytes
                raise

    async def run(self) -> None:
        """Record what was taken, again and again, until cancelled.

        Raises:
            BatchStorageFailed: As `flush`.
        """
        while True:
            await self._some.wait()
            await self._sleep(GROUP_S)
            await self.flush()
