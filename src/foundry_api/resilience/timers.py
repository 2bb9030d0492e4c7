"""Timers that are kept for later work when the work that they were armed for has ended."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["Timer", "Timers"]


class Timers:
    """Timers for work of one kind. Those of ended work stay armed, for work that begins later.

    Later work has a new limit, but hardly ever an earlier one: its timer only fires too early, and
    is then armed again. Arming one for each call and cancelling it would cost as much as sending
    the request.
    """

    def __init__(self) -> None:
        self._unused: set[Timer] = set()

    def take(self, loop: asyncio.AbstractEventLoop, on_due: Callable[[], None]) -> Timer:
        """Return a timer, which may be armed already.

        It calls `on_due` at the time for which it was armed last, or earlier.
        """
        while self._unused:
            timer = self._unused.pop()
            if timer.loop is loop:  # those of another loop never fire
                timer.on_due = on_due
                return timer
        return Timer(self._unused, loop, on_due)

    def put_back(self, timer: Timer) -> None:
        """Give up a timer at the end of the work."""
        timer.on_due = None
        self._unused.add(timer)

    def cancel(self) -> None:
        """Cancel the timers of ended work."""
        while self._unused:
            self._unused.pop().cancel()


class Timer:
    """A timer of an event loop."""

    __slots__ = ("_handle", "_unused", "at", "loop", "on_due")

    def __init__(
        self, unused: set[Timer], loop: asyncio.AbstractEventLoop, on_due: Callable[[], None]
    ) -> None:
        self.at = math.inf  # when it fires
        self.loop = loop
        self.on_due: Callable[[], None] | None = on_due
        self._unused = unused
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, at: float) -> None:
        """Make it fire at a time of the event loop's clock, if it would not fire earlier."""
        if at < self.at:
            self.cancel()
            self.at = at
            self._handle = self.loop.call_at(at, self._fire)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _fire(self) -> None:
        self.at, self._handle = math.inf, None
        if self.on_due is None:
            self._unused.discard(self)
        else:
            self.on_due()
