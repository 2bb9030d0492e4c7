"""The newest outcome of something that may take longer than anybody wants to wait for it."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["Latest"]

_T = TypeVar("_T")


class Latest(Generic[_T]):
    """Makes one value at a time, in a task of its own that outlives whoever gives up waiting.

    Nothing of a finished event loop is kept, so the same object serves several, one after another.

    Attributes:
        value: What the last making that ended gave; None before the first.
    """

    def __init__(self) -> None:
        self.value: _T | None = None
        self._task: asyncio.Task[_T] | None = None

    @property
    def pending(self) -> bool:
        """Whether a making is under way."""
        return self._task is not None

    async def refresh(self, make: Callable[[], Coroutine[None, None, _T]], wait_s: float) -> bool:
        """Make the value anew, unless that is under way; whether it was done within the wait.

        Args:
            make: Makes it.
            wait_s: Seconds to wait.

        Raises:
            FoundryError: What `make` raised.
        """
        task = self._task
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            # What is made is nobody's own: a deadline around the first who asks must not end it.
            task = self._task = asyncio.create_task(make(), context=contextvars.Context())
            task.add_done_callback(_take_note)
        await asyncio.wait({task}, timeout=max(0.0, wait_s))
        if not task.done():
            return False
        if self._task is task:
            self._task = None
        self.value = task.result()
        return True

    async def forget(self) -> None:
        """Drop the value, and end a making that is under way."""
        self.value = None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})


def _take_note(task: asyncio.Task[_T]) -> None:
    """Everybody may have given up waiting: no "never retrieved" in the log."""
    if not task.cancelled():
        task.exception()
