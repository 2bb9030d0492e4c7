"""Many tasks, as many at once as the services gain by: started, tried again, given back, ended.

All of it happens on one event loop, in callbacks: a task that ends starts the next one, whether or
not somebody waits for its result.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from dataclasses import dataclass
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
    from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable

    from foundry_api.batch.dedupe import LruResults
    from foundry_api.batch.protocol import BatchClient
    from foundry_api.batch.task import BatchTask
    from foundry_api.core.service_pool import ServiceHandle

__all__ = ["ConcurrencyWindow", "RetryPolicy", "Scheduler", "desired_concurrency", "make_scheduler"]


_R = TypeVar("_R")

log = logging.getLogger("foundry_api")


class Scheduler(Generic[_R]):
    """Answers tasks, once.

    Args:
        allowance: How many may be in flight.
        outage: How long to wait for services that are away.
        attempts: How often a task that failed for a passing reason is begun.
        reachable: Whether a service tells its status.
        kept: Where answers are kept for identical tasks; None if none are shared.
        ordered: Whether the results keep the order of the tasks.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        window: ConcurrencyWindow,
        outage: Outage,
        *,
        max_attempts: int,
        is_reachable: Callable[[], Awaitable[bool]],
        shared_results: LruResults[_R] | None = None,
        ordered: bool = False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._window = window
        self._outage = outage
        self._max_attempts = max_attempts
        self._is_reachable = is_reachable
        self._shared_results = shared_results
        self._sleep = sleep
        self._buffer: ResultBuffer[_R] = ResultBuffer(ordered=ordered)
        self._withheld: WithheldFailures[tuple[TaskState[_R], _R]] = WithheldFailures()
        self._queue: GroupedQueue[TaskState[_R]] = GroupedQueue()
        self._quarantine: deque[TaskState[_R]] = deque()
        self._in_flight: dict[TaskState[_R], asyncio.Task[_R]] = {}
        self._groups: Counter[str] = Counter()
        self._leaders: dict[bytes, TaskState[_R]] = {}
        self._follower_count = 0
        self._draining_for_isolation = (
            False  # nothing is started before all that is in flight has ended
        )
        self._isolation_active = False  # what is in flight has to be alone
        self._needs_liveness_check = (
            False  # after a conviction another line has to show that the service lives
        )
        self._pause: asyncio.Task[None] | None = None
        self._input_done = False
        self._draining = False
        self._failure: BaseException | None = None
        self._source_error: BaseException | None = None  # what the source of the tasks raised
        self._capacity_event, self._progress_event = asyncio.Event(), asyncio.Event()

    @property
    def queued(self) -> int:
        """Tasks that were taken and wait for their turn."""
        return len(self._queue) + len(self._quarantine) + self._follower_count

    async def run(self, tasks: AsyncIterable[BatchTask[_R]]) -> AsyncGenerator[_R]:
        """The results. Closing this ends what is in flight.

        Raises:
            BaseException: What the tasks' source raised, once what was in flight has ended.
            BatchError: The source was cancelled though nobody cancelled the batch.
            FoundryError: The services were away for too long, or no task can be answered.
        """
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
                    if not self._draining:  # else what is in doubt is left, like what waits
                        self._release_withheld()
                    if self._buffer:
                        continue
                    if self._source_error is not None:
                        raise self._source_error
                    return
                self._progress_event.clear()
                await self._progress_event.wait()
        finally:
            await self._aclose(feeder)

    def drain(self) -> None:
        """Begin nothing more; what is in flight still gives its results."""
        self._draining = True
        self._progress_event.set()

    async def _feed(self, tasks: AsyncIterable[BatchTask[_R]]) -> None:
        code = UserCode()
        try:
            async with closing_iter(tasks):
                async for task in tasks:
                    while not self._can_accept(task):
                        self._capacity_event.clear()
                        await self._capacity_event.wait()
                    self._queue.put(TaskState(task), task.group)
                    self._start_tasks()
        except (asyncio.CancelledError, GeneratorExit) as error:
            if not code.is_own_failure(error):
                raise
            raise BatchError(
                f"the requests broke off with {describe(error)}, though nobody ended the batch",
                hint="See the exception that this was raised from, and correct their source.",
            ) from error

    def _can_accept(self, task: BatchTask[_R]) -> bool:
        return self.queued < self._queue.capacity and self._buffer.accepts(task.index)

    def _on_input_end(self, feeder: asyncio.Task[None]) -> None:
        self._input_done = True
        if not feeder.cancelled() and (error := feeder.exception()) is not None:
            self._source_error = error
            self._draining = True  # what is in flight still gives its results
        self._progress_event.set()

    def _is_finished(self) -> bool:
        if self._draining:
            return not self._in_flight
        return self._input_done and not (self._in_flight or self._pause or self.queued)

    def _start_tasks(self) -> None:
        """Start as many as may be in flight."""
        while (state := self._next_task()) is not None:
            if not self._dedupe(state):
                self._start_task(state)
        self._capacity_event.set()

    def _next_task(self) -> TaskState[_R] | None:
        if self._failure is not None or self._pause is not None or self._draining:
            return None
        if not self._buffer.has_capacity:
            return None
        if self._quarantine or self._draining_for_isolation or self._isolation_active:
            return None if self._in_flight else self._next_isolated()
        if not len(self._queue) or len(self._in_flight) >= self._window.current:
            return None
        return self._queue.take()

    def _next_isolated(self) -> TaskState[_R] | None:
        """The next one, when nothing is in flight. A suspect is not joined by others."""
        self._draining_for_isolation, self._isolation_active = False, bool(self._quarantine)
        if self._needs_liveness_check and len(self._queue):
            self._needs_liveness_check = False
            return self._queue.take()
        return self._quarantine.popleft() if self._quarantine else self._queue.take()

    def _dedupe(self, state: TaskState[_R]) -> bool:
        """Whether an identical task's answer is known, or waited for now."""
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
        if len(in_flight) == 1:
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
            # Of one line that takes too long, or of a service that hangs with all of them?
            state.service_unreachable = not await self._is_reachable()
            raise

    def _on_task_done(self, state: TaskState[_R], done: asyncio.Task[_R]) -> None:
        del self._in_flight[state]
        self._on_group_left(state.task.group)
        if done.cancelled():
            self._abort(ClientClosed("the calls of the batch were cancelled"))
        elif (error := done.exception()) is None:
            self._on_success(state, done.result())
        elif isinstance(error, FoundryError):
            self._handle_failure(state, error)
        else:  # a mistake of ours
            self._abort(error)
        self._start_tasks()
        self._progress_event.set()

    def _on_group_left(self, group: str) -> None:
        self._groups[group] -= 1
        if not self._groups[group]:
            del self._groups[group]

    def _on_success(self, state: TaskState[_R], result: _R) -> None:
        self._needs_liveness_check = False
        self._outage.on_answered()
        self._window.on_answered()
        self._release_withheld()
        if self._shared_results is not None and state.task.key is not None:
            self._shared_results.put(state.task.key, result)
        self._finish(state, result)

    def _handle_failure(self, state: TaskState[_R], error: FoundryError) -> None:
        action = next_action(state, error, self._max_attempts)
        group = state.task.group
        if action == "fail":
            self._handle_final_failure(state, error)
        elif action == "stop":
            self._abort(error)
        elif action == "isolate":
            self._quarantine.append(state)
        elif action == "requeue":
            self._outage.on_reached()
            self._queue.put(state, group)
        else:
            self._queue.push_front(state, group)
            self._throttle(action, error)

    def _throttle(self, action: str, error: FoundryError) -> None:
        if action == "drain":
            self._draining_for_isolation = True
        elif action == "reduce" and self._in_flight:
            self._window.reduce(len(self._in_flight))
        elif self._pause is None:
            self._window.reduce(1)
            self._pause_for_outage(error)

    def _pause_for_outage(self, error: FoundryError) -> None:
        try:
            pause_s = self._outage.next_pause_s(error)
        except FoundryError as final:
            self._abort(final)
            return
        level = logging.WARNING if self._outage.is_first_pause else logging.DEBUG
        log.log(level, "the batch waits for a service: %s", error)
        self._pause = asyncio.create_task(self._resume_after(pause_s))

    async def _resume_after(self, seconds: float) -> None:
        await self._sleep(seconds)
        self._pause = None
        self._start_tasks()
        self._progress_event.set()

    def _handle_final_failure(self, state: TaskState[_R], error: FoundryError) -> None:
        result = state.task.make_failed_result(error)
        self._needs_liveness_check = is_service_fault(error)
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

    async def _aclose(self, feeder: asyncio.Task[None]) -> None:
        self._failure = self._failure or ClientClosed("the batch was left")
        tasks: list[asyncio.Task[Any]] = [feeder, *self._in_flight.values()]
        tasks += [self._pause] if self._pause else []
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def desired_concurrency(services: Iterable[ServiceHandle]) -> int:
    """So many lines keep services busy: those in flight, and as many again that wait for a turn.

    A limiter judges its limit only while calls wait all along, and each of those in flight may
    end in the same moment. Nothing is planned for a service that is away, unless all are.
    """
    desired = 0
    for service in services:
        if service.breaker.state == "closed" or service.breaker.is_probe_due:
            desired += 2 * service.limiter.limit + 2
    return desired or 1


class ConcurrencyWindow:
    """What is wanted, and less for a while after the services had too much to do or were away.

    Args:
        wanted: How many keep the services busy, now.
    """

    def __init__(self, get_desired: Callable[[], int]) -> None:
        self._get_desired = get_desired
        self._cap: float | None = None

    @property
    def current(self) -> int:
        """How many may be in flight."""
        desired = self._get_desired()
        if self._cap is None:
            return desired
        if self._cap >= desired:
            self._cap = None
            return desired
        return int(self._cap)

    def reduce(self, limit: int) -> None:
        """Allow no more than so many, at least one."""
        self._cap = max(1, limit)

    def on_answered(self) -> None:
        """A line was answered: once all of those in flight were, one more may be."""
        if self._cap is not None:
            self._cap += 1 / self._cap


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a line has failed for good, and when the services are gone for good.

    Attributes:
        max_attempts: How often a line that failed for a passing reason is begun.
        patience_s: Seconds that all services may be away.
        monotonic: Seconds of a monotonic clock.
        sleep: Waits for so many seconds.
    """

    max_attempts: int = 3
    patience_s: float = 600.0
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


def make_scheduler(
    client: BatchClient,
    policy: RetryPolicy,
    *,
    shared_results: LruResults[_R] | None = None,
    ordered: bool = False,
) -> Scheduler[_R]:
    """A pump that keeps a client's services busy.

    Args:
        client: Makes the calls.
        policy: When to give up.
        shared_results: Where answers are kept for identical lines.
        ordered: Whether the results keep the order of the lines.
    """
    return Scheduler(
        ConcurrencyWindow(lambda: desired_concurrency(client.services)),
        Outage(policy.patience_s, policy.monotonic),
        max_attempts=policy.max_attempts,
        is_reachable=lambda: _is_reachable(client),
        shared_results=shared_results,
        ordered=ordered,
        sleep=policy.sleep,
    )


async def _is_reachable(client: BatchClient) -> bool:
    """Whether one of the services tells its status."""
    for service in client.services:
        try:
            await service.probe()
        except FoundryError:
            continue
        return True
    return False
