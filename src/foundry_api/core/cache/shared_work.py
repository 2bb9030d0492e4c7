"""Single flight for work that tells of its pieces as they come."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

from foundry_api.resilience.deadline import no_deadline
from foundry_api.resilience.single_flight import copy_error
from foundry_api.types.errors import FoundryError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable

    from foundry_api.resilience.deadline import Deadline

__all__ = ["JobDeduplicator", "JobRun", "SharedJob"]

_T = TypeVar("_T")
_R = TypeVar("_R")


class SharedJob(ABC, Generic[_T, _R]):
    """What is done once for all who want it."""

    @abstractmethod
    async def run(self, receive: Callable[[list[_T]], None]) -> _R:
        """Do it.

        Args:
            receive: Called with pieces as they come.

        Returns:
            What it comes to.
        """

    @abstractmethod
    def extend_deadline(self, deadline: Deadline) -> None:
        """Somebody wants it who may have more time than those before."""


class JobRun(Generic[_T, _R]):
    """Work under way.

    Args:
        work: What is done.

    Attributes:
        work: As above.
        items: All pieces so far.
        waiters: How many want it.
        task: Does it.
    """

    def __init__(self, work: SharedJob[_T, _R]) -> None:
        self.work = work
        self.items: list[_T] = []
        self.waiters = 0
        self._news = asyncio.Event()
        self._why: FoundryError | None = None
        self.task = asyncio.create_task(work.run(self._receive), context=no_deadline())

    async def wait_for_more(self, than: int) -> bool:
        """Wait until more pieces came; whether any did before the end."""
        while len(self.items) <= than and not self.task.done():
            await self._news.wait()
        return len(self.items) > than

    async def result(self) -> _R:
        """What it comes to. Everybody gets his own copy of a failure."""
        try:
            return await asyncio.shield(self.task)
        except FoundryError as error:
            raise copy_error(error) from error.__cause__
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if self._why is None or (caller is not None and caller.cancelling()):
                raise
            raise copy_error(self._why) from None

    async def end(self, why: FoundryError | None = None) -> None:
        """End it early, with its cleaning up.

        Args:
            why: What those who still want it are told.
        """
        self._why = why
        self.task.cancel()
        await asyncio.wait((self.task,))

    def notify(self) -> None:
        """Wake up everybody who waits for more."""
        self._news.set()
        self._news.clear()

    def _receive(self, pieces: list[_T]) -> None:
        self.items += pieces
        self.notify()


class JobDeduplicator(Generic[_T, _R]):
    """Does one piece of work for each key, however many callers want it.

    Everybody gets all of its pieces from the beginning, however late he came, as fast as he takes
    them. The work belongs to nobody: a caller that leaves, and his deadline, do not end it for the
    others. With the last one it is ended, which waits for its cleaning up. A failure reaches
    everybody, and the next caller tries anew.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, JobRun[_T, _R]] = {}

    def running(self, key: Hashable) -> JobRun[_T, _R] | None:
        """What is under way."""
        flight = self._flights.get(key)
        if flight is None or flight.task.done():
            return None
        return flight if flight.task.get_loop() is asyncio.get_running_loop() else None

    @asynccontextmanager
    async def join(
        self, key: Hashable, work: Callable[[], SharedJob[_T, _R]]
    ) -> AsyncGenerator[JobRun[_T, _R]]:
        """Want some work, which is begun only if it is not under way."""
        flight = self.running(key) or self._start(key, work())
        flight.waiters += 1
        try:
            yield flight
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                self._forget(key, flight)
                await flight.end()

    async def end(self, why: FoundryError) -> None:
        """End all that is under way.

        Args:
            why: What those who want it are told.
        """
        for key in list(self._flights):
            if (flight := self.running(key)) is not None:
                await flight.end(why)

    def _start(self, key: Hashable, work: SharedJob[_T, _R]) -> JobRun[_T, _R]:
        flight = self._flights[key] = JobRun(work)
        flight.task.add_done_callback(lambda _: self._land(key, flight))
        return flight

    def _land(self, key: Hashable, flight: JobRun[_T, _R]) -> None:
        self._forget(key, flight)
        if not flight.task.cancelled():
            flight.task.exception()  # every caller may have left: no "never retrieved" in the log
        flight.notify()

    def _forget(self, key: Hashable, flight: JobRun[_T, _R]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
