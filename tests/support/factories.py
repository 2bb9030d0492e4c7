"""Assemble services and call contexts as the client does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from foundry_api.core.call import CallContext
from foundry_api.core.service_pool import ServiceHandle, ServicePool
from foundry_api.resilience.backoff import Backoff
from foundry_api.resilience.breaker import BreakerSettings, CircuitBreaker
from foundry_api.resilience.limiter import Limiter
from foundry_api.resilience.retry import Retry, RetryBudget
from foundry_api.resilience.timeouts import Latencies
from foundry_api.types.events import EventBus

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from foundry_api.core.connection import Connection
    from foundry_api.types.events import Listener


def make_service_handle(
    name: str,
    connect: Callable[[], Coroutine[None, None, Connection]],
    on_invalidate: Callable[[], None],
) -> ServiceHandle:
    """Make a service whose breaker does not open."""
    breaker = CircuitBreaker(BreakerSettings(window_calls=1000, minimum_calls=1000))
    return ServiceHandle(name, connect, on_invalidate, breaker, Limiter())


def make_call_context(
    *services: ServiceHandle,
    retries: int,
    sleep: Callable[[float], Awaitable[None]],
    monotonic: Callable[[], float] = time.perf_counter,
    listener: Listener = lambda _: None,
) -> CallContext:
    """Make the context of a client's calls, with a fixed backoff of 0.1, 0.2, 0.4 s, …"""
    backoff = Backoff(0.1, 5.0, uniform=lambda _, high: high)
    return CallContext(
        services=ServicePool(services, lambda: services[0]),
        retry=Retry(retries, backoff, RetryBudget(), sleep),
        events=EventBus(listener),
        latencies=Latencies(),
        is_closed=lambda: False,
        monotonic=monotonic,
    )
