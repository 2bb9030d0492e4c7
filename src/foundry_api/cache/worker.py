"""The one thread that works on a file of answers, so that no event loop waits for a disk."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.cache.shelf import Shelf
    from foundry_api.events import CacheTrouble

__all__ = ["Worker"]

_T = TypeVar("_T")


class Worker:
    """Runs questions to a file one after another.

    Args:
        open_shelf: Makes the file's shelf, in the thread.

    Attributes:
        troubles: What went wrong, for the event loop to take.
    """

    def __init__(self, open_shelf: Callable[[deque[CacheTrouble]], Shelf]) -> None:
        self.troubles: deque[CacheTrouble] = deque()
        self._open_shelf = open_shelf
        self._shelf: Shelf | None = None
        self._thread = ThreadPoolExecutor(1, "foundry-api-cache")

    async def run(self, question: Callable[[Shelf], _T]) -> _T:
        """The answer to a question. A caller who is cancelled waits until it is done: ms."""
        return await self._run(lambda: question(self._shelf_of_mine()))

    async def close(self) -> None:
        """Close the file, and end the thread."""
        try:
            await self._run(self._close)
        finally:
            self._thread.shutdown()  # its last work is done: this takes microseconds

    async def _run(self, work: Callable[[], _T]) -> _T:
        asked = asyncio.wrap_future(self._thread.submit(work))
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            await asyncio.wait((asked,))
            if not asked.cancelled():
                asked.exception()  # nobody wants to know any more
            raise

    def _shelf_of_mine(self) -> Shelf:
        if self._shelf is None:
            self._shelf = self._open_shelf(self.troubles)
        return self._shelf

    def _close(self) -> None:
        if self._shelf is not None:
            self._shelf.close()
