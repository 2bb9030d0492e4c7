"""A queue that divides a service fairly between keys, by tokens.

This is the Virtual Token Counter of "Fairness in Serving Large Language Models" (arXiv
2401.00588): the key that has received the least, divided by its weight, is served next. A key that
was idle gets no credit for it: its counter is lifted to the lowest of the waiting ones.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable
    from collections.abc import Set as AbstractSet

__all__ = ["FairQueue"]

_T = TypeVar("_T", bound="Hashable")

# What a token costs the engine: it reads a prompt faster than it writes an answer.
PROMPT_TOKEN_COST = 1.0
OUTPUT_TOKEN_COST = 2.0


class _Tenant(Generic[_T]):
    """A key, as the queue sees it."""

    __slots__ = ("counter", "entry", "name", "waiting", "weight")

    def __init__(self, name: str, weight: float, counter: float) -> None:
        self.name = name
        self.weight = weight
        self.counter = counter
        self.entry = 0  # number of its valid entry in the heap
        # Not a deque: clients that leave, perhaps all at once, are removed from the middle.
        self.waiting: OrderedDict[_T, None] = OrderedDict()


class FairQueue(Generic[_T]):
    """Items that wait, first in, first out within a key. No two items may be equal.

    All steps take at most logarithmic time in the number of keys, except `count_ahead`.
    """

    def __init__(self) -> None:
        self._tenants: dict[str, _Tenant[_T]] = {}
        self._waiting: dict[str, _Tenant[_T]] = {}  # those with items
        # Keys with waiting items by counter. An entry whose counter has grown since is pushed
        # again when it is found.
        self._heap: list[tuple[float, int, _Tenant[_T]]] = []
        self._pushes = 0
        self._length = 0
        # The counter at which the last item was served: the level of a key that is new or returns.
        self._level = 0.0

    def __len__(self) -> int:
        return self._length

    def get_names(self) -> AbstractSet[str]:
        """Return the keys that have items."""
        return self._waiting.keys()

    def get_depth(self, name: str) -> int:
        """Return the number of items of a key."""
        tenant = self._waiting.get(name)
        return len(tenant.waiting) if tenant is not None else 0

    def count_ahead(self, name: str) -> int:
        """Estimate how many items are served before a new one of a key."""
        own = self.get_depth(name)
        tenant = self._tenants.get(name)
        weight = tenant.weight if tenant is not None else 1.0
        ahead = own
        for other in self._waiting.values():
            if other.name != name:
                # While this key gets its own items served, another gets as many by its weight.
                ahead += min(len(other.waiting), round((own + 1) * other.weight / weight))
        return ahead

    def push(self, name: str, weight: float, item: _T) -> None:
        """Add an item of a key."""
        tenant = self._lift(name, weight)
        if not tenant.waiting:
            self._waiting[name] = tenant
            self._push(tenant)
        tenant.waiting[item] = None
        self._length += 1

    def serve_at_once(self, name: str, weight: float) -> None:
        """Do as if an item of a key were added and removed, while there are no others."""
        self._level = self._lift(name, weight).counter

    def pop(self) -> _T:
        """Remove the next item and return it. Raises IndexError if there is none."""
        tenant = self._find_next()
        item, _ = tenant.waiting.popitem(last=False)
        self._length -= 1
        self._level = max(self._level, tenant.counter)
        heapq.heappop(self._heap)
        if tenant.waiting:
            self._push(tenant)
        else:
            del self._waiting[tenant.name]
        return item

    def remove(self, name: str, item: _T) -> None:
        """Remove an item that no longer waits."""
        tenant = self._waiting[name]
        del tenant.waiting[item]
        self._length -= 1
        if not tenant.waiting:
            del self._waiting[name]

    def charge(self, name: str, prompt_tokens: int, output_tokens: int) -> None:
        """Count tokens that a key received; negative ones correct an estimate."""
        tenant = self._tenants.get(name)
        if tenant is not None:
            cost = prompt_tokens * PROMPT_TOKEN_COST + output_tokens * OUTPUT_TOKEN_COST
            tenant.counter += cost / tenant.weight
            if cost < 0 and tenant.waiting:
                self._push(tenant)

    def forget(self, name: str) -> None:
        """Drop the counter of a key without items."""
        tenant = self._tenants.get(name)
        if tenant is not None and not tenant.waiting:
            del self._tenants[name]

    def _lift(self, name: str, weight: float) -> _Tenant[_T]:
        """Return a key; one that was idle gets no credit for that."""
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = _Tenant(name, weight, self._level)
        tenant.weight = weight
        if not tenant.waiting and tenant.counter < self._level:
            tenant.counter = self._level
        return tenant

    def _push(self, tenant: _Tenant[_T]) -> None:
        self._pushes += 1
        tenant.entry = self._pushes
        heapq.heappush(self._heap, (tenant.counter, tenant.entry, tenant))

    def _find_next(self) -> _Tenant[_T]:
        """Return the key at the top of the heap, after repairing old entries."""
        while True:
            counter, entry, tenant = self._heap[0]
            if not tenant.waiting or entry != tenant.entry:
                heapq.heappop(self._heap)
            elif counter != tenant.counter:
                heapq.heappop(self._heap)
                self._push(tenant)
            else:
                return tenant
