"""Queues for lines that wait for an engine, and buffers for results that wait for a reader."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from foundry_api.batch.types import BatchLineResult

__all__ = ["GroupedQueue", "ReorderBuffer", "ResultBuffer"]

# Enough lines of a single model that the engine never waits for the reader of the input.
ONE_GROUP_CAPACITY = 64

# Lines among which those for the same model are found. A loaded model answers twice as many before
# it is unloaded: lines that arrive meanwhile are found too.
SEVERAL_GROUPS_CAPACITY = 512

# Lines of the current model that may overtake the first line of another, which would otherwise
# starve.
MAX_SKIPS = 8 * SEVERAL_GROUPS_CAPACITY

# Results that may wait, so that the services stay busy while the last ones are being written.
MAX_READY = 128

# If results are ordered, lines that may start ahead of the first unfinished one.
REORDER_WINDOW = 512

_T = TypeVar("_T")
_R = TypeVar("_R")


class GroupedQueue(Generic[_T]):
    """A queue that is FIFO within each group, and changes between groups as rarely as possible."""

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
        """The number of items that may wait. Callers of `put` have to enforce it."""
        return SEVERAL_GROUPS_CAPACITY if self._has_several_groups else ONE_GROUP_CAPACITY

    @property
    def has_several_groups(self) -> bool:
        """Whether there ever was more than one group."""
        return self._has_several_groups

    def put(self, item: _T, group: str) -> None:
        self._get_queue(group).append(item)

    def push_front(self, item: _T, group: str) -> None:
        """Put back an item that was taken, ahead of its group."""
        self._get_queue(group).appendleft(item)

    def take(self) -> _T | None:
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
        if current in self._groups:
            if len(self._groups) == 1:
                return current
            self._skips += 1
            if self._skips <= MAX_SKIPS:
                return current
        # The first group is not the current one, which moved to the end when its turn started.
        chosen = self._current_group = next(iter(self._groups))
        self._groups[chosen] = self._groups.pop(chosen)
        self._skips = 0
        return chosen

    def _get_queue(self, group: str) -> deque[_T]:
        self._count += 1
        self._first_group = self._first_group or group
        self._has_several_groups = self._has_several_groups or group != self._first_group
        return self._groups.setdefault(group, deque())


class ResultBuffer(Generic[_R]):
    """Results that wait to be taken; if `ordered`, in the order of their indexes."""

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._ready: deque[_R] = deque()
        self._out_of_order: dict[int, _R] = {}
        self._next_index = 0

    def __len__(self) -> int:
        """The number of results that can be taken now."""
        return len(self._ready)

    @property
    def has_capacity(self) -> bool:
        return len(self._ready) < MAX_READY

    def accepts(self, index: int) -> bool:
        """Return whether the line with this index may start."""
        return not self._ordered or index < self._next_index + REORDER_WINDOW

    def put(self, index: int, result: _R) -> None:
        if not self._ordered:
            self._ready.append(result)
            return
        self._out_of_order[index] = result
        while self._next_index in self._out_of_order:
            self._ready.append(self._out_of_order.pop(self._next_index))
            self._next_index += 1

    def take(self) -> _R:
        return self._ready.popleft()


class ReorderBuffer:
    """Withholds results until all lines before them have finished, within REORDER_WINDOW."""

    def __init__(self) -> None:
        self._buffer = ResultBuffer["BatchLineResult"](ordered=True)
        self._advanced = asyncio.Event()

    async def wait_for_capacity(self, index: int) -> None:
        """Wait until a line may start. Has to be called in the order of the lines."""
        while not self._buffer.accepts(index):
            self._advanced.clear()
            await self._advanced.wait()

    def put(self, result: BatchLineResult) -> list[BatchLineResult]:
        """Add a result, and return those whose turn it is."""
        self._buffer.put(result.index, result)
        ready = [self._buffer.take() for _ in range(len(self._buffer))]
        if ready:
            self._advanced.set()
        return ready
