"""Single flight: concurrent callers with the same key share one task."""

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

_T = TypeVar("_T")  # the result of a task


@dataclass(slots=True)
class _Entry(Generic[_T]):
    task: asyncio.Task[_T]
    waiters: int = 0


class SingleFlight(Generic[_T]):
    """Runs at most one task per key at a time; all callers of the key get its result or error.

    The task is cancelled when its last caller is. An object may be used on several event loops,
    one after the other.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Entry[_T]] = {}

    async def run(self, key: Hashable, make: Callable[[], Coroutine[None, None, _T]]) -> _T:
        """Return the result of `make()`; call it only if no task for the key is running."""
        flight = self._flights.get(key)
        # A task of an event loop that has ended never finishes.
        if flight is None or flight.task.get_loop() is not asyncio.get_running_loop():
            # In an empty context: the first caller's deadline must not end the task of the others.
            task = asyncio.create_task(make(), context=contextvars.Context())
            started = flight = self._flights[key] = _Entry(task)
            task.add_done_callback(lambda _: self._remove(key, started))
        flight.waiters += 1
        may_wait = True
        try:
            return await asyncio.shield(flight.task)
        except FoundryError as error:
            raise copy_error(error) from error.__cause__
        except GeneratorExit:
            # A coroutine that is being closed must not await; its event loop has usually ended.
            may_wait = False
            raise
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                self._remove(key, flight)
                if not flight.task.get_loop().is_closed():
                    flight.task.cancel()
                if may_wait:
                    await asyncio.wait((flight.task,))  # for the cleanup of the cancelled task

    def _remove(self, key: Hashable, flight: _Entry[_T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if flight.task.done() and not flight.task.cancelled():
            # All callers may have left; asyncio would log "exception was never retrieved".
            flight.task.exception()


def copy_error(error: FoundryError) -> FoundryError:
    """Copy an error that several callers receive: each adds its own details, such as attempts."""
    return copy.copy(error).with_traceback(error.__traceback__)
