"""A completion of a few tokens, to see whether the service can. Callers come first."""

from __future__ import annotations

import asyncio
import contextvars
import time
from typing import TYPE_CHECKING

from foundry_api.core.call import CallContext, CallRequest
from foundry_api.core.chat import make_chat_call
from foundry_api.core.service_pool import ServiceHandle, ServicePool
from foundry_api.monitor.types import Canary
from foundry_api.resilience.backoff import Backoff
from foundry_api.resilience.breaker import CircuitBreaker
from foundry_api.resilience.deadline import Deadline
from foundry_api.resilience.latency import Latencies
from foundry_api.resilience.limiter import Limiter
from foundry_api.resilience.retry import Retry, RetryBudget
from foundry_api.types.errors import FoundryError
from foundry_api.types.events import CallStarted, EventBus
from foundry_api.types.messages import ChatRequest, Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.core.connection import Connection
    from foundry_api.monitor.types import Traffic
    from foundry_api.types.messages import Completion

__all__ = ["CanaryRunner", "complete"]

MAX_TOKENS = 4
PROMPT = "Say yes."


class CanaryRunner:
    """Decides when a canary is due, makes it beside everything else, and remembers how it went.

    It takes no turn of the limiter's, and is made only while a turn is free and nobody waits. A
    call that begins meanwhile ends it: that call's answer shows the same.

    Args:
        service: Whom to ask.
        events: The events of the client's calls.
        every: Looks from one canary to the next, 1 or more; one that was skipped or that failed is
            made again at the next look.
        timeout_s: Bound of a canary.
        clock: Seconds since the epoch.

    Attributes:
        last: The last one; None before the first.
        failure: The last one that was made or had a caller's answer in its place, if it failed.
        proven: Whether that one did not fail.
    """

    def __init__(
        self,
        service: ServiceHandle,
        events: EventBus,
        *,
        every: int,
        timeout_s: float,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.last: Canary | None = None
        self.failure: Canary | None = None
        self.proven = False
        self._service = service
        self._events = events
        self._every = every
        self._timeout_s = timeout_s
        self._wall_clock = wall_clock
        self._samples_left = 0
        self._task: asyncio.Task[None] | None = None

    def on_sample(self, connection: Connection, model: str, traffic: Traffic) -> None:
        """Make one if it is due, now that a look was answered. It goes on in a task of its own.

        Args:
            connection: What answered.
            model: Id of a model in memory; empty if there is none.
            traffic: What the client's own calls came to since the look before.
        """
        self._samples_left -= 1
        if traffic.answered:
            self._record(Canary(outcome="traffic", at=self._wall_clock()))
        elif self._samples_left <= 0 and self._task is None:
            if skip_reason := self._skip_reason(model):
                self._record(Canary(outcome="skipped", detail=skip_reason, at=self._wall_clock()))
            else:
                making = self._run(connection, model)
                # A deadline around whoever started the monitor is not the canary's.
                self._task = asyncio.create_task(making, context=contextvars.Context())

    def reset(self) -> None:
        """What was proven was another process."""
        self.last = self.failure = None
        self.proven = False
        self._samples_left = 0

    async def wait_finished(self) -> None:
        """Wait for the one that is under way, if any."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def aclose(self) -> None:
        """End the one that is under way."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    def _skip_reason(self, model: str) -> str:
        limiter = self._service.limiter.statistics()
        if limiter.queued or limiter.in_flight >= limiter.limit:
            return "callers have every turn"
        return "" if model else "no model is in memory"

    async def _run(self, connection: Connection, model: str) -> None:
        gave_way = asyncio.Event()
        unsubscribe = self._events.subscribe(lambda _: gave_way.set(), CallStarted)
        call = asyncio.create_task(complete(connection, model, self._timeout_s))
        caller = asyncio.create_task(gave_way.wait())
        try:
            await asyncio.wait({call, caller}, return_when=asyncio.FIRST_COMPLETED)
            if call.done():
                self._record(_to_canary(call, model, self._wall_clock()))
            else:
                detail = "a call began, which goes first"
                self._record(Canary(outcome="skipped", detail=detail, at=self._wall_clock()))
        finally:
            unsubscribe()
            self._task = None
            for task in (call, caller):
                task.cancel()
            await asyncio.wait({call, caller})

    def _record(self, canary: Canary) -> None:
        self.last = canary
        passed = canary.outcome in {"answered", "traffic"}
        self._samples_left = self._every if passed else 1
        if canary.outcome != "skipped":
            self.proven = passed
            self.failure = None if passed else canary


def _to_canary(call: asyncio.Task[Completion], model: str, at: float) -> Canary:
    try:
        timings = call.result().timings
    except FoundryError as error:
        return Canary(outcome="failed", model=model, detail=str(error), at=at)
    except asyncio.CancelledError:  # not of this task: of the call, which has ended
        detail = "its call was cancelled, and not by the monitor"
        return Canary(outcome="failed", model=model, detail=detail, at=at)
    return Canary(
        outcome="answered",
        model=model,
        time_to_first_token_s=timings.time_to_first_token_s,
        tokens_per_second=timings.tokens_per_second,
        at=at,
    )


async def complete(connection: Connection, model: str, timeout_s: float) -> Completion:
    """A few tokens from a service, past the guards of the client, and unseen by its metrics.

    Args:
        connection: Whom to ask.
        model: Id of a model in memory.
        timeout_s: Bound of the whole.

    Raises:
        FoundryError: There was no answer, or not in time.
    """

    async def get_connection() -> Connection:
        return connection

    service = ServiceHandle(
        connection.endpoint.base_url, get_connection, lambda: None, CircuitBreaker(), Limiter()
    )
    tools = CallContext(
        services=ServicePool([service], lambda: service),
        retry=Retry(0, Backoff(base_s=0.1, cap_s=1.0), RetryBudget()),
        events=EventBus(),
        latencies=Latencies(),
        is_closed=lambda: False,
    )
    order = CallRequest(
        models=(model,),
        request=ChatRequest(
            messages=(Message("user", PROMPT),), max_tokens=MAX_TOKENS, temperature=0
        ),
        timeout_s=timeout_s,
        deadline=Deadline.after(timeout_s),
    )
    try:
        return await make_chat_call(tools, order).result()
    finally:
        await service.aclose()
