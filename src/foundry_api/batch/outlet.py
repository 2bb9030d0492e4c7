"""Results that wait to be taken: as they finished, or in the order of the lines."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

__all__ = ["Outlet"]

_R = TypeVar("_R")

ROOM = 128
"""Results that may wait, so that the services are busy while somebody writes the last ones."""

REORDER = 512
"""Lines that may be begun ahead of the first one that is not finished, where order is kept."""


class Outlet(Generic[_R]):
    """Gives out results.

    Args:
        ordered: Whether in the order of their indexes, of which none may be missing.
    """

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._ready: deque[_R] = deque()
        self._early: dict[int, _R] = {}
        self._next = 0

    def __len__(self) -> int:
        """How many can be taken now."""
        return len(self._ready)

    @property
    def has_room(self) -> bool:
        """Whether more may be made."""
        return len(self._ready) < ROOM

    def admits(self, index: int) -> bool:
        """Whether a line may be begun."""
        return not self._ordered or index < self._next + REORDER

    def put(self, index: int, result: _R) -> None:
        """Let a result be taken, once it is its turn."""
        if not self._ordered:
            self._ready.append(result)
            return
        self._early[index] = result
        while self._next in self._early:
            self._ready.append(self._early.pop(self._next))
            self._next += 1

    def take(self) -> _R:
        """The next result; there is one if this has a length."""
        return self._ready.popleft()
