"""Single flight: callers that want the same thing at the same time share one making of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable

__all__ = ["SingleFlight"]

_T = TypeVar("_T")


class SingleFlight(Generic[_T]):
    """Runs one task for each key, however many callers wait for it.

    A caller that is cancelled leaves the others waiting; when the last one leaves, the task is
    cancelled too. A failure reaches every caller, and the next one tries anew.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, tuple[asyncio.Task[_T], list[object]]] = {}

    async def run(self, key: Hashable, make: Callable[[], Coroutine[None, None, _T]]) -> _T:
        """The result of `make`, called only when no other caller's is under way."""
        task, waiters = self._join(key, make)
        me = object()
        waiters.append(me)
        try:
            return await asyncio.shield(task)
        finally:
            waiters.remove(me)
            if not waiters and not task.done():
                task.cancel()
                self._flights.pop(key, None)

    def _join(
        self, key: Hashable, make: Callable[[], Coroutine[None, None, _T]]
    ) -> tuple[asyncio.Task[_T], list[object]]:
        flight = self._flights.get(key)
        if flight is None or flight[0].get_loop() is not asyncio.get_running_loop():
            task = asyncio.get_running_loop().create_task(make())
            flight = self._flights[key] = (task, [])
            task.add_done_callback(lambda done: self._land(key, done))
        return flight

    def _land(self, key: Hashable, task: asyncio.Task[_T]) -> None:
        if (flight := self._flights.get(key)) is not None and flight[0] is task:
            del self._flights[key]
        if not task.cancelled():
            task.exception()  # every waiter may have left: no "never retrieved" in the log
