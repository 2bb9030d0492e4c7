"""A value that is refreshed in the background."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["BackgroundValue"]

_T = TypeVar("_T")


class BackgroundValue(Generic[_T]):
    """Refreshes a value in a task, which continues when a caller stops waiting for it.

    `value` is the last result; None before the first. The object may be used on one event loop
    after another.
    """

    def __init__(self) -> None:
        self.value: _T | None = None
        self._task: asyncio.Task[_T] | None = None

    @property
    def is_pending(self) -> bool:
        return self._task is not None

    async def refresh(self, load: Callable[[], Coroutine[None, None, _T]], wait_s: float) -> bool:
        """Start a refresh unless one runs, and return whether it was done within `wait_s`.

        Raises what `load` raised.
        """
        task = self._task
        # A task of a finished event loop will never be done.
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            # An empty context: the deadline of one caller must not end the refresh for the others.
            task = self._task = asyncio.create_task(load(), context=contextvars.Context())
            task.add_done_callback(_consume_exception)
        await asyncio.wait({task}, timeout=max(0.0, wait_s))
        if not task.done():
            return False
        if self._task is task:
            self._task = None
        self.value = task.result()
        return True

    async def reset(self) -> None:
        """Drop the value and cancel a running refresh."""
        self.value = None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})


def _consume_exception(task: asyncio.Task[_T]) -> None:
    # If no caller waits any more, asyncio would log "exception was never retrieved".
    if not task.cancelled():
        task.exception()
