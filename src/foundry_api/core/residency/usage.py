"""What this client does with a model, and locks by key."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable

    from foundry_api.types.models import Model

__all__ = ["KeyedLock", "ModelUsage"]


class ModelUsage:
    """The use of one model of one service by this client. Times are monotonic."""

    __slots__ = (
        "calls",
        "changed",
        "held_until",
        "idle_at",
        "last_ended",
        "last_used",
        "loaded_here",
        "model",
        "renewed_at",
        "starting",
        "waiting",
    )

    def __init__(self) -> None:
        self.calls = 0  # in flight
        self.waiting = 0  # callers that wait for the model to be loaded
        self.starting = 0  # those of them whose model is loaded, and that have not continued yet
        self.last_used = 0.0  # when the last call ended or the model was loaded
        self.last_ended = float("-inf")  # when the last call ended
        self.held_until = 0.0  # until then, other clients leave the model alone
        self.renewed_at = 0.0  # when the claim was last renewed
        self.idle_at = 0.0  # the model does not count as idle before
        self.model: Model | None = None  # as it was last loaded or found
        self.loaded_here = False  # whether this client has loaded it
        self.changed: asyncio.Event | None = None  # None while nothing waits for a call to end

    def idle_from(self, idle_s: float) -> float:
        """Return the time from which the model counts as idle."""
        return max(self.last_used + idle_s, self.idle_at)

    def end_call(self, now: float) -> None:
        """Record that a call has ended."""
        self.calls -= 1
        self.last_used = self.last_ended = now
        if self.changed is not None:
            self.changed.set()

    def end_waiting(self) -> None:
        """Record that a waiting caller continues. It may start its call at once."""
        self.waiting -= 1
        self.starting = min(max(self.starting - 1, 0), self.waiting)
        if self.changed is not None:
            self.changed.set()

    async def wait_for_starting_calls(self, timeout_s: float) -> None:
        """Wait until the callers for which the model was just loaded have continued."""
        await self._wait_until(lambda: not self.starting, timeout_s)

    async def drain(self, timeout_s: float) -> bool:
        """Wait until no call is in flight. Return False on a timeout."""
        return await self._wait_until(lambda: not self.calls, timeout_s)

    async def _wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self.changed = asyncio.Event()
                    await self.changed.wait()
        except TimeoutError:
            return False
        finally:
            self.changed = None
        return True


class _CountedLock:
    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class KeyedLock:
    """A lock per key, first come, first served."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, _CountedLock] = {}

    @asynccontextmanager
    async def lock(self, key: Hashable) -> AsyncGenerator[None]:
        entry = self._locks.setdefault(key, _CountedLock())
        entry.users += 1
        try:
            async with entry.lock:
                yield
        finally:
            entry.users -= 1
            # An asyncio lock belongs to one event loop. Without the unused ones, the same object
            # can be used on several loops, one after another.
            if not entry.users:
                del self._locks[key]
