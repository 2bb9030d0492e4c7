"""Lines that wait for their turn: those for the same model together."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

__all__ = ["Waiting"]

_T = TypeVar("_T")

FOR_ONE_MODEL = 64
"""Lines that wait where all are for the same model: enough never to wait for the reading."""

FOR_SEVERAL = 512
"""Lines among which those for the same model are found. A model that is loaded answers twice as
many until it is unloaded: those that come meanwhile are found too."""

MOST_OVERTAKEN = 8 * FOR_SEVERAL
"""Lines of the present model that may overtake the first one of another."""


class Waiting(Generic[_T]):
    """A bounded queue that changes from one group to the next as seldom as it can.

    In each group it is first in, first out, but for those that are given back: they are the next.
    """

    def __init__(self) -> None:
        self._groups: dict[str, deque[_T]] = {}
        self._present: str | None = None
        self._first: str | None = None
        self._several = False
        self._count = 0
        self._overtaken = 0

    def __len__(self) -> int:
        return self._count

    @property
    def bound(self) -> int:
        """How many may wait. That is for who puts to heed."""
        return FOR_SEVERAL if self._several else FOR_ONE_MODEL

    @property
    def several(self) -> bool:
        """Whether there was more than one group so far."""
        return self._several

    def put(self, item: _T, group: str) -> None:
        """Let something wait."""
        self._group(group).append(item)

    def give_back(self, item: _T, group: str) -> None:
        """Let something that had its turn wait ahead of its group."""
        self._group(group).appendleft(item)

    def take(self) -> _T | None:
        """What comes next; None if nothing waits."""
        if not self._count:
            return None
        group = self._next_group()
        queue = self._groups[group]
        item = queue.popleft()
        if not queue:
            del self._groups[group]
        self._count -= 1
        return item

    def _next_group(self) -> str:
        present = self._present
        if present in self._groups and (len(self._groups) == 1 or self._may_overtake()):
            return present
        # The first one is not the present one, which went to the end when its turn began.
        chosen = self._present = next(iter(self._groups))
        self._groups[chosen] = self._groups.pop(chosen)
        self._overtaken = 0
        return chosen

    def _may_overtake(self) -> bool:
        self._overtaken += 1
        return self._overtaken <= MOST_OVERTAKEN

    def _group(self, group: str) -> deque[_T]:
        self._count += 1
        self._first = self._first or group
        self._several = self._several or group != self._first
        return self._groups.setdefault(group, deque())
