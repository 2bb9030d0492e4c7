"""Share one run of a job between all callers that need its result at the same time."""

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

_ItemT = TypeVar("_ItemT")  # of a chat completion: a chunk
_ResultT = TypeVar("_ResultT")


class SharedJob(ABC, Generic[_ItemT, _ResultT]):
    """Work that yields items and has a result."""

    @abstractmethod
    async def run(self, receive: Callable[[list[_ItemT]], None]) -> _ResultT:
        """Do the work, call `receive` with the items as they arrive, and return the result."""

    @abstractmethod
    def extend_deadline(self, deadline: Deadline) -> None:
        """Allow the work to last until the deadline of a new caller, if that is later."""


class JobRun(Generic[_ItemT, _ResultT]):
    """A job that runs in a task, and the items that it has yielded."""

    def __init__(self, job: SharedJob[_ItemT, _ResultT]) -> None:
        self.job = job
        self.items: list[_ItemT] = []
        self.callers = 0
        self._progress = asyncio.Event()
        self._end_error: FoundryError | None = None
        # Without the deadline of the first caller, which would end the work for all of them.
        self.task = asyncio.create_task(job.run(self._receive), context=no_deadline())

    async def wait_for_more(self, count: int) -> bool:
        """Wait until there are more than `count` items. Return False if the job ends before."""
        while len(self.items) <= count and not self.task.done():
            await self._progress.wait()
        return len(self.items) > count

    async def result(self) -> _ResultT:
        try:
            return await asyncio.shield(self.task)
        except FoundryError as error:
            # Each caller adds its own context to the error, so each gets a copy.
            raise copy_error(error) from error.__cause__
        except asyncio.CancelledError:
            # Either `end` cancelled the task, or this caller is cancelled.
            caller = asyncio.current_task()
            if self._end_error is None or (caller is not None and caller.cancelling()):
                raise
            raise copy_error(self._end_error) from None

    async def end(self, error: FoundryError | None = None) -> None:
        """Cancel the job and wait for its cleanup. Callers that still wait get the error."""
        self._end_error = error
        self.task.cancel()
        await asyncio.wait((self.task,))

    def notify(self) -> None:
        """Wake up all the callers that wait for more items."""
        self._progress.set()
        self._progress.clear()

    def _receive(self, items: list[_ItemT]) -> None:
        self.items += items
        self.notify()


class JobDeduplicator(Generic[_ItemT, _ResultT]):
    """Runs one job per key, however many callers need it.

    Every caller gets all items from the first one on, at its own pace. The job outlives the caller
    that started it, and ends early only when the last caller leaves. An error goes to all callers,
    and the next caller starts a new run.
    """

    def __init__(self) -> None:
        self._runs: dict[Hashable, JobRun[_ItemT, _ResultT]] = {}

    def get_running(self, key: Hashable) -> JobRun[_ItemT, _ResultT] | None:
        """Return the run of a key, if one is in progress on this event loop."""
        run = self._runs.get(key)
        if run is None or run.task.done():
            return None
        return run if run.task.get_loop() is asyncio.get_running_loop() else None

    @asynccontextmanager
    async def join(
        self, key: Hashable, make_job: Callable[[], SharedJob[_ItemT, _ResultT]]
    ) -> AsyncGenerator[JobRun[_ItemT, _ResultT]]:
        """Join the run of a key, which is started if there is none."""
        run = self.get_running(key) or self._start(key, make_job())
        run.callers += 1
        try:
            yield run
        finally:
            run.callers -= 1
            if not run.callers and not run.task.done():
                self._forget(key, run)  # first, so that no new caller joins a run that ends
                await run.end()

    async def end(self, error: FoundryError) -> None:
        """End all runs. Callers that still wait get the error."""
        for key in list(self._runs):
            if (run := self.get_running(key)) is not None:
                await run.end(error)

    def _start(self, key: Hashable, job: SharedJob[_ItemT, _ResultT]) -> JobRun[_ItemT, _ResultT]:
        run = self._runs[key] = JobRun(job)

        def finish(task: asyncio.Task[_ResultT]) -> None:
            self._forget(key, run)
            if not task.cancelled():
                # If all callers have left, nothing else retrieves it, and asyncio would log that.
                task.exception()
            run.notify()

        run.task.add_done_callback(finish)
        return run

    def _forget(self, key: Hashable, run: JobRun[_ItemT, _ResultT]) -> None:
        if self._runs.get(key) is run:  # else a newer run has taken its place
            del self._runs[key]
