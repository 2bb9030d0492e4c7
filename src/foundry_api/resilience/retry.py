"""Whether and when a failed attempt is followed by another one."""

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

RETRY_AFTER_CEILING_S = 30.0
"""A service that wants to be left alone for longer is asked again after this."""

PAUSE: ContextVar[Callable[[float], Awaitable[None]]] = ContextVar(
    "foundry_api_pause", default=asyncio.sleep
)
"""How to wait before the next attempt; `foundry_api.testing.skip_sleeps` puts another way in."""


async def backoff_sleep(seconds: float) -> None:
    """Wait before the next attempt."""
    await PAUSE.get()(seconds)


class RetryBudget:
    """A token bucket for all the retries of a client, so that an outage never multiplies its load.

    With the defaults a burst of 100 retries is possible; after it there is one for every five
    calls that succeed, and none while nothing succeeds.

    Args:
        capacity: Retries that the full bucket allows. It starts full.
        deposit: What each call that succeeds puts in, in retries.

    Attributes:
        capacity: Retries that the full bucket allows.
        left: Retries that are left.
    """

    def __init__(self, capacity: float = 100.0, deposit: float = 0.2) -> None:
        self.capacity = capacity
        self.left = capacity
        self._deposit = deposit

    def deposit(self) -> None:
        """A call succeeded."""
        self.left = min(self.capacity, self.left + self._deposit)

    def try_spend(self) -> bool:
        """Whether there is one left; then it is taken."""
        if self.left < 1:
            return False
        self.left -= 1
        return True


@dataclass(frozen=True, slots=True)
class Retry:
    """How a client tries again.

    Attributes:
        retries: Further attempts after the first; 0 means none.
        backoff: How soon, where the service does not say.
        budget: Shared by all the calls of a client.
        sleep: Waits for a number of seconds.
    """

    retries: int
    backoff: Backoff
    budget: RetryBudget
    sleep: Callable[[float], Awaitable[None]] = backoff_sleep

    def delay_s(self, error: FoundryError, failures: int) -> float:
        """Seconds until the next attempt: what the service asked for, and the backoff's jitter.

        Args:
            error: What ended the last attempt.
            failures: Attempts that failed so far.
        """
        asked_s = 0.0
        if isinstance(error, ServiceOverloaded | CircuitOpen):
            asked_s = min(error.retry_after_s or 0.0, RETRY_AFTER_CEILING_S)
        return asked_s + self.backoff.delay_s(failures)
