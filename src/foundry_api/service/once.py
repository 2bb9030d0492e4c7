"""Doing a thing once, however many tasks ask for it at the same time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["SingleFlight"]

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Lets concurrent callers share one run of a coroutine.

    A caller that is cancelled leaves the others waiting; with the last one the run itself is
    cancelled, and the cancellation waits for its cleaning up. Nothing of a finished event loop is
    kept, so the same object serves several of them, one after another.
    """

    def __init__(self) -> None:
        self._run: asyncio.Task[T] | None = None
        self._waiting = 0

    async def __call__(self, work: Callable[[], Coroutine[None, None, T]]) -> T:
        """The result of `work()`, or of the run of it that is under way."""
        run = self._run
        if run is None or run.done() or run.get_loop() is not asyncio.get_running_loop():
            run = self._run = asyncio.create_task(work())
            self._waiting = 0
        self._waiting += 1
        try:
            return await asyncio.shield(run)
        finally:
            self._waiting -= 1
            if not self._waiting and not run.done():
                run.cancel()
                await asyncio.wait((run,))
