"""The calls that use a model now, and turns: what is done to a model is done one at a time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable

    from foundry_api.types.models import Model

__all__ = ["KeyedLock", "ModelUsage"]


class ModelUsage:
    """What this client does with one model of one service.

    Attributes:
        calls: Calls in flight.
        waiting: Callers that wait for it to be loaded.
        starting: Those of them for whom it was loaded, and whose turn to run has not come yet.
        last_used: When the last one ended, or the model was loaded.
        last_ended: When the last one ended.
        held_until: Until when other clients leave it alone without being told again.
        renewed_at: When they were last told.
        idle_at: Not to be looked at for idleness before that.
        model: As it was last loaded or found; None before.
        loaded_here: Whether it was this client that loaded it.
        changed: Set when a call ends, for somebody who waits for that; None while nobody does.
    """

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
        self.calls = self.waiting = self.starting = 0
        self.last_used = self.held_until = self.renewed_at = self.idle_at = 0.0
        self.last_ended = float("-inf")
        self.model: Model | None = None
        self.loaded_here = False
        self.changed: asyncio.Event | None = None

    def idle_from(self, idle_s: float) -> float:
        """When it has to be looked at for idleness."""
        return max(self.last_used + idle_s, self.idle_at)

    def ended(self, now: float) -> None:
        """One call is over."""
        self.calls -= 1
        self.last_used = self.last_ended = now
        if self.changed is not None:
            self.changed.set()

    def on_loaded(self) -> None:
        """A caller who waited goes on, and may begin a call at once."""
        self.waiting -= 1
        self.starting = min(max(self.starting - 1, 0), self.waiting)
        if self.changed is not None:
            self.changed.set()

    async def wait_waiters_started(self, seconds: float) -> None:
        """Let those begin their calls for whom the model was just loaded.

        Two models that take each other's place would else never be called.
        """
        await self._until(lambda: not self.starting, seconds)

    async def drain(self, seconds: float) -> bool:
        """Wait until no call is in flight. False if there still was one after so many seconds."""
        return await self._until(lambda: not self.calls, seconds)

    async def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self.changed = asyncio.Event()
                    await self.changed.wait()
        except TimeoutError:
            return False
        finally:
            self.changed = None
        return True


class _Turn:
    __slots__ = ("lock", "waiters")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiters = 0


class KeyedLock:
    """A lock for each key, first come first served. One that nobody wants is not kept.

    So the same object serves several event loops, one after another.
    """

    def __init__(self) -> None:
        self._turns: dict[Hashable, _Turn] = {}

    @asynccontextmanager
    async def lock(self, key: Hashable) -> AsyncGenerator[None]:
        """Be the only one that does something to `key`."""
        turn = self._turns.setdefault(key, _Turn())
        turn.waiters += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.waiters -= 1
            if not turn.waiters:
                del self._turns[key]
