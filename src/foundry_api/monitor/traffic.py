"""Hearing what the client's own calls came to."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from foundry_api.events import CallEnded, FirstToken
from foundry_api.monitor.sample import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.events import Event, Outcome

__all__ = ["TrafficMeter"]

MOST_VALUES = 2_000
"""Of each kind, between two looks. A median does not change much after that."""


class TrafficMeter:
    """A listener of the client's events that tells what came since it was asked last.

    Args:
        is_elsewhere: Tells of a service's base URL whether it is another than the watched one.
    """

    def __init__(self, is_elsewhere: Callable[[str | None], bool]) -> None:
        self._is_elsewhere = is_elsewhere
        self._begin()

    def __call__(self, event: Event) -> None:
        """Take note of a `FirstToken` or a `CallEnded`."""
        if isinstance(event, FirstToken) and not self._is_elsewhere(event.service):
            self._begun += 1
            if self._begun <= MOST_VALUES:
                self._first_token_s.append(event.time_to_first_token_s)
        elif isinstance(event, CallEnded) and not self._is_elsewhere(event.service):
            self._ended[event.outcome] += 1
            rate = event.timings.tokens_per_second
            if rate is not None and len(self._rates) < MOST_VALUES:
                self._rates.append(rate)

    def take(self) -> Traffic:
        """What came since the last time."""
        traffic = Traffic(
            answered=self._ended["answered"],
            failed=self._ended["failed"],
            cancelled=self._ended["cancelled"],
            first_tokens=self._begun,
            time_to_first_token_s=median(self._first_token_s) if self._first_token_s else None,
            tokens_per_second=median(self._rates) if self._rates else None,
        )
        self._begin()
        return traffic

    def _begin(self) -> None:
        self._begun = 0
        self._ended: dict[Outcome, int] = {"answered": 0, "failed": 0, "cancelled": 0}
        self._first_token_s: list[float] = []
        self._rates: list[float] = []
