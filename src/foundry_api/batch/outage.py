"""Waiting for services that are away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.backoff import Backoff
from foundry_api.errors import CircuitOpen, ServiceOverloaded, ServiceStartFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.errors import FoundryError

__all__ = ["Outage"]

BACKOFF = Backoff(base_s=0.2, cap_s=5.0)
LONGEST_ASKED_S = 30.0

START_PATIENCE_S = 30.0
"""A service that was never there may have another address: that is not waited for as long."""


class Outage:
    """Tells how long to wait until the next call is tried, and when to wait no more.

    Args:
        patience_s: Seconds that all services may be away.
        clock: Seconds of a monotonic clock.
        backoff: Between two tries.
    """

    def __init__(
        self, patience_s: float, clock: Callable[[], float], backoff: Backoff = BACKOFF
    ) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._backoff = backoff
        self._began: float | None = None
        self._tries = 0
        self._answered = False

    @property
    def is_new(self) -> bool:
        """Whether there was one pause at most since a service was there."""
        return self._tries <= 1

    def ended(self) -> None:
        """A service gave an answer."""
        self._answered = True
        self.reached()

    def reached(self) -> None:
        """A service is there, whatever it said."""
        self._began = None
        self._tries = 0

    def pause_s(self, error: FoundryError) -> float:
        """Seconds until the next try.

        Args:
            error: What the last try came to.

        Raises:
            FoundryError: The error, if the services were away for too long. An engine that cannot
                even be started the first time is not waited for.
        """
        now = self._clock()
        began = self._began = now if self._began is None else self._began
        left_s = began + self._patience - now
        if left_s <= 0 or (isinstance(error, ServiceStartFailed) and not self._answered):
            raise self._told(error, now - began)
        self._tries += 1
        pause_s = max(_asked_s(error), self._backoff.delay_s(self._tries))
        return min(pause_s, left_s)

    @property
    def _patience(self) -> float:
        return self._patience_s if self._answered else min(self._patience_s, START_PATIENCE_S)

    def _told(self, error: FoundryError, away_s: float) -> FoundryError:
        if away_s:
            error.hint = f"It was away for {away_s:.0f} s. {error.hint}"
        return error


def _asked_s(error: FoundryError) -> float:
    """How long the service, or the breaker in front of it, wants to be left alone."""
    if not isinstance(error, CircuitOpen | ServiceOverloaded):
        return 0.0
    return min(error.retry_after_s or 0.0, LONGEST_ASKED_S)
