"""Single flight: callers that want the same thing at the same time share one making of it."""

from __future__ import annotations

import asyncio
import contextvars
import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from foundry_api.types.errors import FoundryError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable

__all__ = ["SingleFlight", "copy_error"]

_T = TypeVar("_T")


@dataclass(slots=True)
class _Entry(Generic[_T]):
    task: asyncio.Task[_T]
    waiters: int = 0


class SingleFlight(Generic[_T]):
    """Runs one task for each key, however many callers wait for it.

    A caller that is cancelled leaves the others waiting; with the last one the task is cancelled
    too, and the cancellation waits for its cleaning up. A failure reaches every caller, and the
    next one tries anew. Nothing of a finished event loop is kept, so the same object serves
    several of them, one after another.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Entry[_T]] = {}

    async def run(self, key: Hashable, make: Callable[[], Coroutine[None, None, _T]]) -> _T:
        """The result of `make`, called only when no other caller's is under way."""
        flight = self._join(key, make)
        flight.waiters += 1
        may_wait = True
        try:
            return await asyncio.shield(flight.task)
        except FoundryError as error:
            raise copy_error(error) from error.__cause__
        except GeneratorExit:
            may_wait = False  # the coroutine is closed: its event loop was dropped, most likely
            raise
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                self._remove(key, flight)
                if not flight.task.get_loop().is_closed():
                    flight.task.cancel()
                if may_wait:
                    await asyncio.wait((flight.task,))

    def _join(self, key: Hashable, make: Callable[[], Coroutine[None, None, _T]]) -> _Entry[_T]:
        flight = self._flights.get(key)
        if flight is None or flight.task.get_loop() is not asyncio.get_running_loop():
            # Shared work is nobody's own: the first caller's deadline must not end it for the rest.
            task = asyncio.create_task(make(), context=contextvars.Context())
            started = flight = self._flights[key] = _Entry(task)
            flight.task.add_done_callback(lambda _: self._remove(key, started))
        return flight

    def _remove(self, key: Hashable, flight: _Entry[_T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if flight.task.done() and not flight.task.cancelled():
            flight.task.exception()  # every waiter may have left: no "never retrieved" in the log


def copy_error(error: FoundryError) -> FoundryError:
    """Every caller completes the error with what he alone knows, such as his attempts."""
    return copy.copy(error).with_traceback(error.__traceback__)
