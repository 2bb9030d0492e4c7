"""How many lines may be in flight at the services."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from foundry_api.services import Service

__all__ = ["Allowance", "wanted_of"]


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
