"""Lines that wait for their turn: those for the same model together."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from foundry_api.batch.types import Finished

__all__ = ["InOrder", "Outlet", "Waiting"]


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


class InOrder:
    """Holds lines back until all before them have come, within the bounded window of an outlet."""

    def __init__(self) -> None:
        self._outlet = Outlet["Finished"](ordered=True)
        self._moved = asyncio.Event()

    async def room(self, index: int) -> None:
        """Wait until a line may begin. Lines begin in their order."""
        while not self._outlet.admits(index):
            self._moved.clear()
            await self._moved.wait()

    def put(self, finished: Finished) -> list[Finished]:
        """Take a line; those whose turn has come are given back, in order."""
        self._outlet.put(finished.index, finished)
        ready = [self._outlet.take() for _ in range(len(self._outlet))]
        if ready:
            self._moved.set()
        return ready
