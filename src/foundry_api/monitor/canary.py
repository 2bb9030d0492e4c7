"""Canaries: completions of a few tokens that check whether a service can generate."""

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
from foundry_api.resilience.limiter import Limiter
from foundry_api.resilience.retry import Retry, RetryBudget
from foundry_api.resilience.timeouts import Latencies
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
    """Runs a canary in the background when one is due.

    `every` is the number of checks from one canary to the next, 1 or more.

    Attributes:
        last: The last canary; None before the first.
        failure: The last canary that was not skipped, if it failed.
        has_passed: Whether that one was answered.
    """

    # Calls have priority. A canary takes no slot of the limiter, runs only while a slot is free and
    # no call waits, and is cancelled when a call starts, whose result shows the same.

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
        self.has_passed = False
        self._service = service
        self._events = events
        self._every = every
        self._timeout_s = timeout_s
        self._wall_clock = wall_clock
        self._checks_left = 0
        self._task: asyncio.Task[None] | None = None

    def on_sample(self, connection: Connection, model: str, traffic: Traffic) -> None:
        """Start a canary if one is due, after a check that was answered.

        `model` is the id of a model in memory, or empty; `traffic` is since the previous check.
        """
        self._checks_left -= 1
        if traffic.answered:
            self._record(Canary(outcome="traffic", at=self._wall_clock()))
        elif self._checks_left <= 0 and self._task is None:
            limiter = self._service.limiter.statistics()
            if limiter.queued or limiter.in_flight >= limiter.limit:
                self._skip("callers use every slot")
            elif not model:
                self._skip("no model is in memory")
            else:
                # An empty context: a deadline around the code that started the monitor must not
                # apply to the canary.
                self._task = asyncio.create_task(
                    self._run(connection, model), context=contextvars.Context()
                )

    def reset(self) -> None:
        """Forget the results, which were those of another process."""
        self.last = self.failure = None
        self.has_passed = False
        self._checks_left = 0

    async def wait_finished(self) -> None:
        """Wait for the canary that runs, if any."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def aclose(self) -> None:
        """Cancel the canary that runs, if any."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _run(self, connection: Connection, model: str) -> None:
        call_started = asyncio.Event()
        unsubscribe = self._events.subscribe(lambda _: call_started.set(), CallStarted)
        canary = asyncio.create_task(complete(connection, model, self._timeout_s))
        other_call = asyncio.create_task(call_started.wait())
        try:
            await asyncio.wait({canary, other_call}, return_when=asyncio.FIRST_COMPLETED)
            if canary.done():
                self._record(_to_canary(canary, model, self._wall_clock()))
            else:
                self._skip("a call started, which has priority")
        finally:
            unsubscribe()
            self._task = None
            for task in (canary, other_call):
                task.cancel()
            await asyncio.wait({canary, other_call})

    def _skip(self, reason: str) -> None:
        self._record(Canary(outcome="skipped", detail=reason, at=self._wall_clock()))

    def _record(self, canary: Canary) -> None:
        self.last = canary
        passed = canary.outcome in {"answered", "traffic"}
        # A canary that failed or was skipped is repeated at the next check.
        self._checks_left = self._every if passed else 1
        if canary.outcome != "skipped":
            self.has_passed = passed
            self.failure = None if passed else canary


def _to_canary(call: asyncio.Task[Completion], model: str, at: float) -> Canary:
    try:
        timings = call.result().timings
    except FoundryError as error:
        return Canary(outcome="failed", model=model, detail=str(error), at=at)
    except asyncio.CancelledError:  # of the call, not of this task
        detail = "its call was cancelled, but not by the monitor"
        return Canary(outcome="failed", model=model, detail=detail, at=at)
    return Canary(
        outcome="answered",
        model=model,
        time_to_first_token_s=timings.time_to_first_token_s,
        tokens_per_second=timings.tokens_per_second,
        at=at,
    )


async def complete(connection: Connection, model: str, timeout_s: float) -> Completion:
    """Generate a few tokens, without the client's limits, retries, events and metrics."""

    async def get_connection() -> Connection:
        return connection

    service = ServiceHandle(
        connection.endpoint.base_url, get_connection, lambda: None, CircuitBreaker(), Limiter()
    )
    context = CallContext(
        services=ServicePool([service], lambda: service),
        retry=Retry(0, Backoff(base_s=0.1, cap_s=1.0), RetryBudget()),
        events=EventBus(),
        latencies=Latencies(),
        is_closed=lambda: False,
    )
    call_request = CallRequest(
        models=(model,),
        request=ChatRequest(
            messages=(Message("user", PROMPT),), max_tokens=MAX_TOKENS, temperature=0
        ),
        timeout_s=timeout_s,
        deadline=Deadline.after(timeout_s),
    )
    try:
        return await make_chat_call(context, call_request).result()
    finally:
        await service.aclose()
