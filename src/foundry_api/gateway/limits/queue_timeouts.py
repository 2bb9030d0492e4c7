"""The time limit of the calls that wait for a slot: one timer for all of them."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

__all__ = ["QueueTimeouts"]


class QueueTimeouts:
    """Ends waits that take too long.

    All have the same limit, so those that began first end first. A timer for each of thousands of
    waiting calls would need more memory than the rest of their waits.

    Args:
        limit_s: Seconds that a call may wait.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._waits: OrderedDict[asyncio.Future[bool], float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, wait: asyncio.Future[bool]) -> None:
        """Set the result False unless the wait has ended by then."""
        loop = wait.get_loop()
        self._waits[wait] = due_at = loop.time() + self.limit_s
        if self._timer is None:
            self._timer = loop.call_at(due_at, self._end_due)

    def remove(self, wait: asyncio.Future[bool]) -> None:
        """Forget a wait that has ended."""
        self._waits.pop(wait, None)

    def cancel(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_due(self) -> None:
        self._timer = None
        while self._waits:
            wait, due_at = next(iter(self._waits.items()))
            loop = wait.get_loop()
            if due_at > loop.time():
                self._timer = loop.call_at(due_at, self._end_due)
                return
            del self._waits[wait]
            if not wait.done():
                wait.set_result(False)
