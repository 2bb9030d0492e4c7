"""Run the tasks of a batch concurrently: start, retry and finish them, and keep services busy."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from foundry_api.batch.async_tools import closing_iter
from foundry_api.batch.failures import (
    Outage,
    WithheldFailures,
    affects_all_lines,
    is_service_fault,
    next_action,
)
from foundry_api.batch.queues import GroupedQueue, ResultBuffer
from foundry_api.batch.task import TaskState
from foundry_api.types.errors import BatchError, ClientClosed, FoundryError, ReadTimeout
from foundry_api.types.user_code import UserCode, describe

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable

    from foundry_api.batch.dedupe import LruResults
    from foundry_api.batch.protocol import BatchClient
    from foundry_api.batch.task import BatchTask

__all__ = ["ConcurrencyWindow", "Scheduler", "make_scheduler"]

_R = TypeVar("_R")

log = logging.getLogger("foundry_api")


class Scheduler(Generic[_R]):
    """Runs tasks until each has a result, sharing results between tasks with the same key."""

    # Everything happens in callbacks of one event loop: a task that ends starts the next one,
    # whether or not a caller is waiting for its result.

    def __init__(
        self,
        window: ConcurrencyWindow,
        outage: Outage,
        *,
        max_attempts: int,
        is_reachable: Callable[[], Awaitable[bool]],
        shared_results: LruResults[_R] | None = None,
        ordered: bool = False,
    ) -> None:
        self._window = window
        self._outage = outage
        self._max_attempts = max_attempts
        self._is_reachable = is_reachable
        self._shared_results = shared_results
        self._buffer: ResultBuffer[_R] = ResultBuffer(ordered=ordered)
        self._withheld: WithheldFailures[tuple[TaskState[_R], _R]] = WithheldFailures()
        self._queue: GroupedQueue[TaskState[_R]] = GroupedQueue()
        self._quarantine: deque[TaskState[_R]] = deque()
        self._in_flight: dict[TaskState[_R], asyncio.Task[_R]] = {}
        self._groups: Counter[str] = Counter()
        self._leaders: dict[bytes, TaskState[_R]] = {}
        self._follower_count = 0
        # Nothing starts before every task in flight has ended.
        self._waiting_for_idle = False
        # The task in flight has to be the only one.
        self._isolation_active = False
        # After a line failed for crashing the service, another line has to succeed, which shows
        # that the service does not crash on every line.
        self._needs_liveness_check = False
        self._pause: asyncio.Task[None] | None = None
        self._input_done = False
        self._is_draining = False  # no task starts any more, but those in flight finish
        self._failure: BaseException | None = None
        self._source_error: BaseException | None = None  # raised by the source of the tasks
        self._capacity_event, self._progress_event = asyncio.Event(), asyncio.Event()

    @property
    def queued(self) -> int:
        """The number of tasks that were read and have not started."""
        return len(self._queue) + len(self._quarantine) + self._follower_count

    async def run(self, tasks: AsyncIterable[BatchTask[_R]]) -> AsyncGenerator[_R]:
        """Yield the results. Closing the generator cancels the tasks in flight."""
        feeder = asyncio.create_task(self._feed(tasks))
        feeder.add_done_callback(self._on_input_end)
        try:
            while True:
                while self._buffer:
                    result = self._buffer.take()
                    self._start_tasks()
                    yield result
                if self._failure is not None:
                    raise self._failure
                if self._is_finished():
                    # A drained batch leaves withheld failures unfinished, like waiting tasks.
                    if not self._is_draining:
                        self._release_withheld()
                    if self._buffer:
                        continue
                    if self._source_error is not None:
                        raise self._source_error
                    return
                self._progress_event.clear()
                await self._progress_event.wait()
        finally:
            self._failure = self._failure or ClientClosed("the batch was closed")
            unfinished: list[asyncio.Task[Any]] = [feeder, *self._in_flight.values()]
            unfinished += [self._pause] if self._pause else []
            for task in unfinished:
                task.cancel()
            await asyncio.wait(unfinished)

    def drain(self) -> None:
        """Start no more tasks; those in flight still finish."""
        self._is_draining = True
        self._progress_event.set()

    async def _feed(self, tasks: AsyncIterable[BatchTask[_R]]) -> None:
        code = UserCode()
        try:
            async with closing_iter(tasks):
                async for task in tasks:
                    while self.queued >= self._queue.capacity or not self._buffer.accepts(
                        task.index
                    ):
                        self._capacity_event.clear()
                        await self._capacity_event.wait()
                    self._queue.put(TaskState(task), task.group)
                    self._start_tasks()
        except (asyncio.CancelledError, GeneratorExit) as error:
            # The caller's iterable may raise these too. They must not look like the end of the
            # input, or of the batch.
            if not code.is_own_failure(error):
                raise
            raise BatchError(
                f"the requests ended with {describe(error)}, although the batch was not cancelled",
                hint="See the cause of this exception, and correct the iterable of requests.",
            ) from error

    def _on_input_end(self, feeder: asyncio.Task[None]) -> None:
        self._input_done = True
        if not feeder.cancelled() and (error := feeder.exception()) is not None:
            self._source_error = error
            self._is_draining = True  # tasks in flight still finish before the error is raised
        self._progress_event.set()

    def _is_finished(self) -> bool:
        if self._is_draining:
            return not self._in_flight
        return self._input_done and not (self._in_flight or self._pause or self.queued)

    def _start_tasks(self) -> None:
        """Start as many tasks as may be in flight."""
        while (state := self._next_task()) is not None:
            if not self._dedupe(state):
                self._start_task(state)
        self._capacity_event.set()

    def _next_task(self) -> TaskState[_R] | None:
        if self._failure is not None or self._pause is not None or self._is_draining:
            return None
        if not self._buffer.has_capacity:
            return None
        if self._quarantine or self._waiting_for_idle or self._isolation_active:
            if self._in_flight:
                return None
            self._waiting_for_idle, self._isolation_active = False, bool(self._quarantine)
            if self._needs_liveness_check and len(self._queue):
                self._needs_liveness_check = False
                return self._queue.take()
            # A suspect in quarantine runs alone.
            return self._quarantine.popleft() if self._quarantine else self._queue.take()
        if not len(self._queue) or len(self._in_flight) >= self._window.current:
            return None
        return self._queue.take()

    def _dedupe(self, state: TaskState[_R]) -> bool:
        """Return whether the task got an identical task's result, or now waits for one."""
        task, shared_results = state.task, self._shared_results
        if shared_results is None or task.key is None:
            return False
        if (result := shared_results.get(task.key)) is not None:
            self._buffer.put(task.index, task.make_shared_result(result))
            self._progress_event.set()
            return True
        leader = self._leaders.setdefault(task.key, state)
        if leader is state:
            return False
        leader.followers.append(task)
        self._follower_count += 1
        return True

    def _start_task(self, state: TaskState[_R]) -> None:
        in_flight, group = self._in_flight, state.task.group
        state.ran_alone = not in_flight
        if len(in_flight) == 1:  # with more in flight, none of them is marked any more
            next(iter(in_flight)).ran_alone = False
        state.ran_with_other_models = len(self._groups) > (group in self._groups)
        state.service_unreachable = False
        self._groups[group] += 1
        in_flight[state] = task = asyncio.create_task(self._run_task(state))
        task.add_done_callback(partial(self._on_task_done, state))

    async def _run_task(self, state: TaskState[_R]) -> _R:
        try:
            return await state.task.run()
        except ReadTimeout:
            # Find out whether only this line takes too long, or the service hangs.
            state.service_unreachable = not await self._is_reachable()
            raise

    def _on_task_done(self, state: TaskState[_R], done: asyncio.Task[_R]) -> None:
        del self._in_flight[state]
        group = state.task.group
        self._groups[group] -= 1
        if not self._groups[group]:
            del self._groups[group]
        if done.cancelled():
            self._abort(ClientClosed("the calls of the batch were cancelled"))
        elif (error := done.exception()) is None:
            self._handle_success(state, done.result())
        elif isinstance(error, FoundryError):
            self._handle_failure(state, error)
        else:  # a bug of this package
            self._abort(error)
        self._start_tasks()
        self._progress_event.set()

    def _handle_success(self, state: TaskState[_R], result: _R) -> None:
        self._needs_liveness_check = False
        self._outage.on_answered()
        self._window.on_answered()
        self._release_withheld()
        if self._shared_results is not None and state.task.key is not None:
            self._shared_results.put(state.task.key, result)
        self._finish(state, result)

    def _handle_failure(self, state: TaskState[_R], error: FoundryError) -> None:
        action = next_action(state, error, self._max_attempts)
        if action == "fail":
            self._handle_final_failure(state, error)
        elif action == "stop":
            self._abort(error)
        elif action == "isolate":
            self._quarantine.append(state)
        elif action == "requeue":
            self._outage.on_reached()
            self._queue.put(state, state.task.group)
        else:
            self._queue.push_front(state, state.task.group)
            if action == "wait_for_idle":
                self._waiting_for_idle = True
            elif action == "reduce" and self._in_flight:
                self._window.reduce(len(self._in_flight))
            elif self._pause is None:  # one pause for all tasks that failed together
                self._window.reduce(1)
                self._pause_for_outage(error)

    def _pause_for_outage(self, error: FoundryError) -> None:
        try:
            pause_s = self._outage.next_pause_s(error)
        except FoundryError as final:
            self._abort(final)
            return

        async def resume() -> None:
            await asyncio.sleep(pause_s)
            self._pause = None
            self._start_tasks()
            self._progress_event.set()

        # One warning per outage, not one per attempt.
        level = logging.WARNING if self._outage.is_first_pause else logging.DEBUG
        log.log(level, "the batch is waiting for a service: %s", error)
        self._pause = asyncio.create_task(resume())

    def _handle_final_failure(self, state: TaskState[_R], error: FoundryError) -> None:
        result = state.task.make_failed_result(error)
        self._needs_liveness_check = is_service_fault(error)
        # With several models, an error of one of them does not concern the lines of the others.
        if not affects_all_lines(error) or (
            self._queue.has_several_groups and not is_service_fault(error)
        ):
            self._finish(state, result)
            return
        try:
            released = self._withheld.add(error, (state, result))
        except FoundryError as final:
            self._abort(final)
            return
        for withheld in released:
            self._finish(*withheld)

    def _release_withheld(self) -> None:
        for withheld in self._withheld.release():
            self._finish(*withheld)

    def _finish(self, state: TaskState[_R], result: _R) -> None:
        task = state.task
        self._buffer.put(task.index, result)
        if self._leaders.get(task.key or b"") is state:
            del self._leaders[task.key or b""]
        for follower in state.followers:
            self._follower_count -= 1
            self._buffer.put(follower.index, follower.make_shared_result(result))

    def _abort(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._progress_event.set()


class ConcurrencyWindow:
    """The number of tasks in flight: as desired, but reduced for a while after an overload."""

    def __init__(self, get_desired: Callable[[], int]) -> None:
        self._get_desired = get_desired
        self._cap: float | None = None

    @property
    def current(self) -> int:
        desired = self._get_desired()
        if self._cap is None:
            return desired
        if self._cap >= desired:
            self._cap = None
            return desired
        return int(self._cap)

    def reduce(self, limit: int) -> None:
        self._cap = max(1, limit)

    def on_answered(self) -> None:
        # One more task once as many were answered as may be in flight.
        if self._cap is not None:
            self._cap += 1 / self._cap


def make_scheduler(
    client: BatchClient,
    *,
    max_attempts: int,
    patience_s: float,
    shared_results: LruResults[_R] | None = None,
    ordered: bool = False,
    max_in_flight: int | None = None,
) -> Scheduler[_R]:
    """Create a scheduler that keeps a client's services busy with up to `max_in_flight` tasks."""

    async def is_reachable() -> bool:
        for service in client.services:
            try:
                await service.probe()
            except FoundryError:
                continue
            return True
        return False

    def get_desired_concurrency() -> int:
        # Those in flight and as many again that wait: a limiter adjusts its limit only while calls
        # wait all the time, and all calls in flight may end at the same moment. An unreachable
        # service gets no calls, unless all are.
        desired = 0
        for service in client.services:
            if service.breaker.state == "closed" or service.breaker.is_probe_due:
                desired += 2 * service.limiter.limit + 2
        desired = desired or 1
        return desired if max_in_flight is None else min(desired, max_in_flight)

    return Scheduler(
        ConcurrencyWindow(get_desired_concurrency),
        Outage(patience_s, time.monotonic),
        max_attempts=max_attempts,
        is_reachable=is_reachable,
        shared_results=shared_results,
        ordered=ordered,
    )
