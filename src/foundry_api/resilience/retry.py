"""The retry policy: how often and how soon failed calls are sent again."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_api.types.errors import CircuitOpen, FoundryError, ServiceOverloaded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from foundry_api.resilience.backoff import Backoff

__all__ = ["PAUSE", "Retry", "RetryBudget", "backoff_sleep"]

# A longer Retry-After of a service is cut to this.
RETRY_AFTER_CEILING_S = 30.0

# The function that waits before a retry; `foundry_api.testing.skip_sleeps` replaces it.
PAUSE: ContextVar[Callable[[float], Awaitable[None]]] = ContextVar(
    "foundry_api_pause", default=asyncio.sleep
)


async def backoff_sleep(seconds: float) -> None:
    await PAUSE.get()(seconds)


class RetryBudget:
    """A token bucket for all retries of a client; it starts full.

    Attributes:
        capacity: Maximum number of retries in the bucket.
        left: Retries left in the bucket.
    """

    # So that retries do not multiply the load of a failing service: the defaults allow a burst of
    # 100 retries, then one for every five successful calls, and none while no call succeeds.
    def __init__(self, capacity: float = 100.0, deposit: float = 0.2) -> None:
        self.capacity = capacity
        self.left = capacity
        self._deposit = deposit

    def deposit(self) -> None:
        """Add the share of a successful call."""
        self.left = min(self.capacity, self.left + self._deposit)

    def try_spend(self) -> bool:
        """Take one retry from the bucket; return False if there is none."""
        if self.left < 1:
            return False
        self.left -= 1
        return True


@dataclass(frozen=True, slots=True)
class Retry:
    """How a client retries.

    Attributes:
        retries: Maximum number of retries per call.
        backoff: The delays between attempts.
        budget: Shared by all calls of a client.
        sleep: Waits for a number of seconds.
    """

    retries: int
    backoff: Backoff
    budget: RetryBudget
    sleep: Callable[[float], Awaitable[None]] = backoff_sleep

    def delay_s(self, error: FoundryError, failures: int) -> float:
        """Return the delay before the next attempt, after `failures` failed ones."""
        retry_after_s = 0.0
        if isinstance(error, ServiceOverloaded | CircuitOpen):
            retry_after_s = min(error.retry_after_s or 0.0, RETRY_AFTER_CEILING_S)
        # The backoff is added to Retry-After, so that its jitter spreads the clients.
        return retry_after_s + self.backoff.delay_s(failures)
