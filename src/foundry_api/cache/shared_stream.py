"""Single flight for streams: callers that want the same at the same time share one making of it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Generic, TypeVar

from foundry_api.errors import FoundryError
from foundry_api.flight import own_copy
from foundry_api.resilience.deadline import unbounded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable

__all__ = ["SharedStreams"]

_T = TypeVar("_T")


class _Flight(Generic[_T]):
    """One stream under way, with all that came of it."""

    def __init__(self, make: Callable[[], AsyncGenerator[_T]]) -> None:
        self.waiters = 0
        self._why: FoundryError | None = None
        self._came: list[_T] = []
        self._news = asyncio.Event()
        self.task = asyncio.create_task(self._run(make), context=unbounded())

    async def items(self) -> AsyncGenerator[_T]:
        """All of it, from its beginning; then what ended it, if it broke off."""
        position = 0
        while True:
            while position < len(self._came):
                yield self._came[position]
                position += 1
            if self.task.done():
                break
            await self._news.wait()
        if self._why is not None:
            raise own_copy(self._why)
        try:
            await self.task
        except FoundryError as error:
            raise own_copy(error) from error.__cause__

    async def end(self, why: FoundryError | None = None) -> None:
        """End it early, with its cleaning up.

        Args:
            why: What those who still follow are told.
        """
        self._why = why
        self.task.cancel()
        await asyncio.wait((self.task,))

    def tell(self) -> None:
        """Wake up everybody who waits now."""
        self._news.set()
        self._news.clear()

    async def _run(self, make: Callable[[], AsyncGenerator[_T]]) -> None:
        async with aclosing(make()) as items:
            async for item in items:
                self._came.append(item)
                self.tell()


class SharedStreams(Generic[_T]):
    """Runs one stream for each key, however many callers follow it.

    Everybody gets all of it from its beginning, however late he came, as fast as he takes it. The
    stream belongs to nobody: a caller that leaves, and his deadline, do not end it for the others.
    With the last one it is ended, which waits for its cleaning up. A failure reaches everybody
    behind what came before it, and the next caller tries anew.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[_T]] = {}

    def running(self, key: Hashable) -> bool:
        """Whether there is one to follow."""
        return self._of(key) is not None

    async def follow(
        self, key: Hashable, make: Callable[[], AsyncGenerator[_T]]
    ) -> AsyncGenerator[_T]:
        """All items of a stream, which `make` makes only when no other caller's is under way."""
        flight = self._of(key) or self._start(key, make)
        flight.waiters += 1
        try:
            async with aclosing(flight.items()) as items:
                async for item in items:
                    yield item
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                self._forget(key, flight)
                await flight.end()

    async def end(self, why: FoundryError) -> None:
        """End all that is under way.

        Args:
            why: What those who follow are told.
        """
        here = asyncio.get_running_loop()
        for flight in list(self._flights.values()):
            if flight.task.get_loop() is here and not flight.task.done():
                await flight.end(why)

    def _of(self, key: Hashable) -> _Flight[_T] | None:
        flight = self._flights.get(key)
        if flight is None or flight.task.done():
            return None
        return flight if flight.task.get_loop() is asyncio.get_running_loop() else None

    def _start(self, key: Hashable, make: Callable[[], AsyncGenerator[_T]]) -> _Flight[_T]:
        flight = self._flights[key] = _Flight(make)
        flight.task.add_done_callback(lambda _: self._land(key, flight))
        return flight

    def _land(self, key: Hashable, flight: _Flight[_T]) -> None:
        self._forget(key, flight)
        if not flight.task.cancelled():
            flight.task.exception()  # every caller may have left: no "never retrieved" in the log
        flight.tell()

    def _forget(self, key: Hashable, flight: _Flight[_T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
