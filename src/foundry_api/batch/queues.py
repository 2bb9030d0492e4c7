"""Lines that wait for their turn: those for the same model together."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from foundry_api.batch.types import BatchLineResult

__all__ = ["GroupedQueue", "ReorderBuffer", "ResultBuffer"]


_T = TypeVar("_T")

ONE_GROUP_CAPACITY = 64
"""Lines that wait where all are for the same model: enough never to wait for the reading."""

SEVERAL_GROUPS_CAPACITY = 512
"""Lines among which those for the same model are found. A model that is loaded answers twice as
many until it is unloaded: those that come meanwhile are found too."""

MAX_SKIPS = 8 * SEVERAL_GROUPS_CAPACITY
"""Lines of the present model that may overtake the first one of another."""


class GroupedQueue(Generic[_T]):
    """A bounded queue that changes from one group to the next as seldom as it can.

    In each group it is first in, first out, but for those that are given back: they are the next.
    """

    def __init__(self) -> None:
        self._groups: dict[str, deque[_T]] = {}
        self._current_group: str | None = None
        self._first_group: str | None = None
        self._has_several_groups = False
        self._count = 0
        self._skips = 0

    def __len__(self) -> int:
        return self._count

    @property
    def capacity(self) -> int:
        """How many may wait. That is for who puts to heed."""
        return SEVERAL_GROUPS_CAPACITY if self._has_several_groups else ONE_GROUP_CAPACITY

    @property
    def has_several_groups(self) -> bool:
        """Whether there was more than one group so far."""
        return self._has_several_groups

    def put(self, item: _T, group: str) -> None:
        """Let something wait."""
        self._get_queue(group).append(item)

    def push_front(self, item: _T, group: str) -> None:
        """Let something that had its turn wait ahead of its group."""
        self._get_queue(group).appendleft(item)

    def take(self) -> _T | None:
        """What comes next; None if nothing waits."""
        if not self._count:
            return None
        group = self._select_group()
        queue = self._groups[group]
        item = queue.popleft()
        if not queue:
            del self._groups[group]
        self._count -= 1
        return item

    def _select_group(self) -> str:
        current = self._current_group
        if current in self._groups and (len(self._groups) == 1 or self._may_stay_in_group()):
            return current
        # The first one is not the present one, which went to the end when its turn began.
        chosen = self._current_group = next(iter(self._groups))
        self._groups[chosen] = self._groups.pop(chosen)
        self._skips = 0
        return chosen

    def _may_stay_in_group(self) -> bool:
        self._skips += 1
        return self._skips <= MAX_SKIPS

    def _get_queue(self, group: str) -> deque[_T]:
        self._count += 1
        self._first_group = self._first_group or group
        self._has_several_groups = self._has_several_groups or group != self._first_group
        return self._groups.setdefault(group, deque())


_R = TypeVar("_R")

MAX_READY = 128
"""Results that may wait, so that the services are busy while somebody writes the last ones."""

REORDER_WINDOW = 512
"""Lines that may be begun ahead of the first one that is not finished, where order is kept."""


class ResultBuffer(Generic[_R]):
    """Gives out results.

    Args:
        ordered: Whether in the order of their indexes, of which none may be missing.
    """

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._ready: deque[_R] = deque()
        self._out_of_order: dict[int, _R] = {}
        self._next_index = 0

    def __len__(self) -> int:
        """How many can be taken now."""
        return len(self._ready)

    @property
    def has_capacity(self) -> bool:
        """Whether more may be made."""
        return len(self._ready) < MAX_READY

    def accepts(self, index: int) -> bool:
        """Whether a line may be begun."""
        return not self._ordered or index < self._next_index + REORDER_WINDOW

    def put(self, index: int, result: _R) -> None:
        """Let a result be taken, once it is its turn."""
        if not self._ordered:
            self._ready.append(result)
            return
        self._out_of_order[index] = result
        while self._next_index in self._out_of_order:
            self._ready.append(self._out_of_order.pop(self._next_index))
            self._next_index += 1

    def take(self) -> _R:
        """The next result; there is one if this has a length."""
        return self._ready.popleft()


class ReorderBuffer:
    """Holds lines back until all before them have come, within the bounded window of an outlet."""

    def __init__(self) -> None:
        self._buffer = ResultBuffer["BatchLineResult"](ordered=True)
        self._advanced = asyncio.Event()

    async def wait_for_capacity(self, index: int) -> None:
        """Wait until a line may begin. Lines begin in their order."""
        while not self._buffer.accepts(index):
            self._advanced.clear()
            await self._advanced.wait()

    def put(self, result: BatchLineResult) -> list[BatchLineResult]:
        """Take a line; those whose turn has come are given back, in order."""
        self._buffer.put(result.index, result)
        ready = [self._buffer.take() for _ in range(len(self._buffer))]
        if ready:
            self._advanced.set()
        return ready
