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

from foundry_api.batch.async_tools import closed_after
from foundry_api.batch.failures import Doubt, Outage, is_for_all, is_of_service, next_step
from foundry_api.batch.queues import Outlet, Waiting
from foundry_api.batch.task import Ticket
from foundry_api.types.errors import BatchError, ClientClosed, FoundryError, SilenceTimeout
from foundry_api.types.user_code import UserCode, describe

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable

    from foundry_api.batch.dedupe import Kept
    from foundry_api.batch.task import BatchTask
    from foundry_api.client.client import FoundryAPIClient
    from foundry_api.core.service_pool import Service

__all__ = ["Allowance", "Conditions", "Pump", "pump_of", "wanted_of"]


_R = TypeVar("_R")

log = logging.getLogger("foundry_api")


class Pump(Generic[_R]):
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
        allowance: Allowance,
        outage: Outage,
        *,
        attempts: int,
        reachable: Callable[[], Awaitable[bool]],
        kept: Kept[_R] | None = None,
        ordered: bool = False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._allowance = allowance
        self._outage = outage
        self._attempts = attempts
        self._reachable = reachable
        self._kept = kept
        self._sleep = sleep
        self._outlet: Outlet[_R] = Outlet(ordered=ordered)
        self._doubt: Doubt[tuple[Ticket[_R], _R]] = Doubt()
        self._waiting: Waiting[Ticket[_R]] = Waiting()
        self._suspects: deque[Ticket[_R]] = deque()
        self._flying: dict[Ticket[_R], asyncio.Task[_R]] = {}
        self._groups: Counter[str] = Counter()
        self._leaders: dict[bytes, Ticket[_R]] = {}
        self._following = 0
        self._quiet = False  # nothing is started before all that is in flight has ended
        self._isolated = False  # what is in flight has to be alone
        self._witness = False  # after a conviction another line has to show that the service lives
        self._pause: asyncio.Task[None] | None = None
        self._fed = False
        self._draining = False
        self._failure: BaseException | None = None
        self._broken: BaseException | None = None  # what the source of the tasks raised
        self._room, self._news = asyncio.Event(), asyncio.Event()

    @property
    def queued(self) -> int:
        """Tasks that were taken and wait for their turn."""
        return len(self._waiting) + len(self._suspects) + self._following

    async def results(self, tasks: AsyncIterable[BatchTask[_R]]) -> AsyncGenerator[_R]:
        """The results. Closing this ends what is in flight.

        Raises:
            BaseException: What the tasks' source raised, once what was in flight has ended.
            BatchError: The source was cancelled though nobody cancelled the batch.
            FoundryError: The services were away for too long, or no task can be answered.
        """
        feeder = asyncio.create_task(self._feed(tasks))
        feeder.add_done_callback(self._end_of_feed)
        try:
            while True:
                while self._outlet:
                    result = self._outlet.take()
                    self._start()
                    yield result
                if self._failure is not None:
                    raise self._failure
                if self._is_over():
                    if not self._draining:  # else what is in doubt is left, like what waits
                        self._release()
                    if self._outlet:
                        continue
                    if self._broken is not None:
                        raise self._broken
                    return
                self._news.clear()
                await self._news.wait()
        finally:
            await self._end(feeder)

    def drain(self) -> None:
        """Begin nothing more; what is in flight still gives its results."""
        self._draining = True
        self._news.set()

    async def _feed(self, tasks: AsyncIterable[BatchTask[_R]]) -> None:
        code = UserCode()
        try:
            async with closed_after(tasks):
                async for task in tasks:
                    while not self._admits(task):
                        self._room.clear()
                        await self._room.wait()
                    self._waiting.put(Ticket(task), task.group)
                    self._start()
        except (asyncio.CancelledError, GeneratorExit) as error:
            if not code.raised(error):
                raise
            raise BatchError(
                f"the requests broke off with {describe(error)}, though nobody ended the batch",
                hint="See the exception that this was raised from, and correct their source.",
            ) from error

    def _admits(self, task: BatchTask[_R]) -> bool:
        return self.queued < self._waiting.bound and self._outlet.admits(task.index)

    def _end_of_feed(self, feeder: asyncio.Task[None]) -> None:
        self._fed = True
        if not feeder.cancelled() and (error := feeder.exception()) is not None:
            self._broken = error
            self._draining = True  # what is in flight still gives its results
        self._news.set()

    def _is_over(self) -> bool:
        if self._draining:
            return not self._flying
        return self._fed and not (self._flying or self._pause or self.queued)

    def _start(self) -> None:
        """Start as many as may be in flight."""
        while (ticket := self._next()) is not None:
            if not self._share(ticket):
                self._begin(ticket)
        self._room.set()

    def _next(self) -> Ticket[_R] | None:
        if self._failure is not None or self._pause is not None or self._draining:
            return None
        if not self._outlet.has_room:
            return None
        if self._suspects or self._quiet or self._isolated:
            return None if self._flying else self._next_alone()
        if not len(self._waiting) or len(self._flying) >= self._allowance.now:
            return None
        return self._waiting.take()

    def _next_alone(self) -> Ticket[_R] | None:
        """The next one, when nothing is in flight. A suspect is not joined by others."""
        self._quiet, self._isolated = False, bool(self._suspects)
        if self._witness and len(self._waiting):
            self._witness = False
            return self._waiting.take()
        return self._suspects.popleft() if self._suspects else self._waiting.take()

    def _share(self, ticket: Ticket[_R]) -> bool:
        """Whether an identical task's answer is known, or waited for now."""
        task, kept = ticket.task, self._kept
        if kept is None or task.key is None:
            return False
        if (result := kept.get(task.key)) is not None:
            self._outlet.put(task.index, task.shared(result))
            self._news.set()
            return True
        leader = self._leaders.setdefault(task.key, ticket)
        if leader is ticket:
            return False
        leader.followers.append(task)
        self._following += 1
        return True

    def _begin(self, ticket: Ticket[_R]) -> None:
        flying, group = self._flying, ticket.task.group
        ticket.alone = not flying
        if len(flying) == 1:
            next(iter(flying)).alone = False
        ticket.mixed = len(self._groups) > (group in self._groups)
        ticket.unreached = False
        self._groups[group] += 1
        flying[ticket] = task = asyncio.create_task(self._run(ticket))
        task.add_done_callback(partial(self._ended, ticket))

    async def _run(self, ticket: Ticket[_R]) -> _R:
        try:
            return await ticket.task.run()
        except SilenceTimeout:
            # Of one line that takes too long, or of a service that hangs with all of them?
            ticket.unreached = not await self._reachable()
            raise

    def _ended(self, ticket: Ticket[_R], done: asyncio.Task[_R]) -> None:
        del self._flying[ticket]
        self._left(ticket.task.group)
        if done.cancelled():
            self._stop(ClientClosed("the calls of the batch were cancelled"))
        elif (error := done.exception()) is None:
            self._answered(ticket, done.result())
        elif isinstance(error, FoundryError):
            self._after(ticket, error)
        else:  # a mistake of ours
            self._stop(error)
        self._start()
        self._news.set()

    def _left(self, group: str) -> None:
        self._groups[group] -= 1
        if not self._groups[group]:
            del self._groups[group]

    def _answered(self, ticket: Ticket[_R], result: _R) -> None:
        self._witness = False
        self._outage.ended()
        self._allowance.answered()
        self._release()
        if self._kept is not None and ticket.task.key is not None:
            self._kept.put(ticket.task.key, result)
        self._finish(ticket, result)

    def _after(self, ticket: Ticket[_R], error: FoundryError) -> None:
        step = next_step(ticket, error, self._attempts)
        group = ticket.task.group
        if step == "fail":
            self._fail(ticket, error)
        elif step == "stop":
            self._stop(error)
        elif step == "alone":
            self._suspects.append(ticket)
        elif step == "later":
            self._outage.reached()
            self._waiting.put(ticket, group)
        else:
            self._waiting.give_back(ticket, group)
            self._slow_down(step, error)

    def _slow_down(self, step: str, error: FoundryError) -> None:
        if step == "drain":
            self._quiet = True
        elif step == "fewer" and self._flying:
            self._allowance.cut(len(self._flying))
        elif self._pause is None:
            self._allowance.cut(1)
            self._wait(error)

    def _wait(self, error: FoundryError) -> None:
        try:
            pause_s = self._outage.pause_s(error)
        except FoundryError as final:
            self._stop(final)
            return
        level = logging.WARNING if self._outage.is_new else logging.DEBUG
        log.log(level, "the batch waits for a service: %s", error)
        self._pause = asyncio.create_task(self._pausing(pause_s))

    async def _pausing(self, seconds: float) -> None:
        await self._sleep(seconds)
        self._pause = None
        self._start()
        self._news.set()

    def _fail(self, ticket: Ticket[_R], error: FoundryError) -> None:
        result = ticket.task.failed(error)
        self._witness = is_of_service(error)
        if not is_for_all(error) or (self._waiting.several and not is_of_service(error)):
            self._finish(ticket, result)
            return
        try:
            released = self._doubt.failed(error, (ticket, result))
        except FoundryError as final:
            self._stop(final)
            return
        for each in released:
            self._finish(*each)

    def _release(self) -> None:
        for each in self._doubt.release():
            self._finish(*each)

    def _finish(self, ticket: Ticket[_R], result: _R) -> None:
        task = ticket.task
        self._outlet.put(task.index, result)
        if self._leaders.get(task.key or b"") is ticket:
            del self._leaders[task.key or b""]
        for follower in ticket.followers:
            self._following -= 1
            self._outlet.put(follower.index, follower.shared(result))

    def _stop(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._news.set()

    async def _end(self, feeder: asyncio.Task[None]) -> None:
        self._failure = self._failure or ClientClosed("the batch was left")
        tasks: list[asyncio.Task[Any]] = [feeder, *self._flying.values()]
        tasks += [self._pause] if self._pause else []
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def wanted_of(services: Iterable[Service]) -> int:
    """So many lines keep services busy: those in flight, and as many again that wait for a turn.

    A limiter judges its limit only while calls wait all along, and each of those in flight may
    end in the same moment. Nothing is planned for a service that is away, unless all are.
    """
    wanted = 0
    for service in services:
        if service.breaker.state == "closed" or service.breaker.due:
            wanted += 2 * service.limiter.limit + 2
    return wanted or 1


class Allowance:
    """What is wanted, and less for a while after the services had too much to do or were away.

    Args:
        wanted: How many keep the services busy, now.
    """

    def __init__(self, wanted: Callable[[], int]) -> None:
        self._wanted = wanted
        self._cap: float | None = None

    @property
    def now(self) -> int:
        """How many may be in flight."""
        wanted = self._wanted()
        if self._cap is None:
            return wanted
        if self._cap >= wanted:
            self._cap = None
            return wanted
        return int(self._cap)

    def cut(self, to: int) -> None:
        """Allow no more than so many, at least one."""
        self._cap = max(1, to)

    def answered(self) -> None:
        """A line was answered: once all of those in flight were, one more may be."""
        if self._cap is not None:
            self._cap += 1 / self._cap


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """When a line has failed for good, and when the services are gone for good.

    Attributes:
        attempts: How often a line that failed for a passing reason is begun.
        patience_s: Seconds that all services may be away.
        clock: Seconds of a monotonic clock.
        sleep: Waits for so many seconds.
    """

    attempts: int = 3
    patience_s: float = 600.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


def pump_of(
    client: FoundryAPIClient,
    conditions: Conditions,
    *,
    kept: Kept[_R] | None = None,
    ordered: bool = False,
) -> Pump[_R]:
    """A pump that keeps a client's services busy.

    Args:
        client: Makes the calls.
        conditions: When to give up.
        kept: Where answers are kept for identical lines.
        ordered: Whether the results keep the order of the lines.
    """
    return Pump(
        Allowance(lambda: wanted_of(client.services)),
        Outage(conditions.patience_s, conditions.clock),
        attempts=conditions.attempts,
        reachable=lambda: _reachable(client),
        kept=kept,
        ordered=ordered,
        sleep=conditions.sleep,
    )


async def _reachable(client: FoundryAPIClient) -> bool:
    """Whether one of the services tells its status."""
    for service in client.services:
        try:
            await service.probe()
        except FoundryError:
            continue
        return True
    return False
