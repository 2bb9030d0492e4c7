"""Slots of the service for waiting calls, in the order of a fair queue."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from foundry_api.gateway.limits.fair_queue import FairQueue

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

__all__ = ["Scheduler", "Waiter"]

# Further calls that wait in the client's limiter, so that one starts as soon as another ends.
LOOKAHEAD = 1
# Ended calls from which the rate of the service is measured, at most and at least.
MEASURED_CALLS, MIN_MEASURED_CALLS = 32, 8


class Waiter:
    """A call that waits for a slot, or has one.

    Attributes:
        has_slot: Whether it has a slot.
        slot: True when it has one, False when it has waited for too long; None unless its task
            waits for that.
    """

    __slots__ = (
        "body_bytes",
        "has_slot",
        "is_batch",
        "name",
        "prompt_tokens",
        "slot",
        "started_at",
        "weight",
    )

    def __init__(
        self, name: str, weight: float, *, prompt_tokens: int, body_bytes: int, is_batch: bool
    ) -> None:
        self.name = name
        self.weight = weight
        self.prompt_tokens = prompt_tokens
        self.body_bytes = body_bytes
        self.is_batch = is_batch
        self.started_at = 0.0  # when it got its slot
        self.has_slot = False
        self.slot: asyncio.Future[bool] | None = None


class Scheduler:
    """Starts waiting calls as the service has slots for them.

    Args:
        get_slots: Returns how many calls the service takes at the same time.
        get_queue_slots: Returns how many slots the length of the queue is for.
        max_per_slot: Calls that may wait for each slot.
        max_bytes: Bytes of the requests that may wait.
        monotonic: A clock.

    Attributes:
        waiting: Calls that wait.
        active: Calls that have a slot.
        waiting_bytes: Bytes of the requests that wait.
        on_slot: Called in place of `start_waiting` when a call has left, if others share the slots.
    """

    def __init__(
        self,
        get_slots: Callable[[], int],
        get_queue_slots: Callable[[], int],
        *,
        max_per_slot: int,
        max_bytes: int,
        monotonic: Callable[[], float],
    ) -> None:
        self._get_slots = get_slots
        self._get_queue_slots = get_queue_slots
        self._max_per_slot = max_per_slot
        self._max_bytes = max_bytes
        self._monotonic = monotonic
        self._calls: FairQueue[Waiter] = FairQueue()
        self._batches: FairQueue[Waiter] = FairQueue()  # served when no call waits
        self.waiting = self.active = 0
        self.waiting_bytes = 0
        self.on_slot: Callable[[], None] = self.start_waiting
        self._durations_s: deque[float] = deque(maxlen=MEASURED_CALLS)
        self._changed_at = monotonic()  # when a call last got a slot or left one

    @property
    def can_start(self) -> bool:
        """Whether a new call would get a slot at once."""
        return not self.waiting and self._has_slot()

    @property
    def slots(self) -> int:
        """Calls that the service takes at the same time."""
        return self._get_slots()

    def get_depth(self, name: str) -> int:
        """Return the waiting calls of a key."""
        return self._calls.get_depth(name) + self._batches.get_depth(name)

    def is_full(self, body_bytes: int) -> bool:
        """Whether a request of a size could not wait. One that can start at once always can.

        Lines of batches do not count: each batch has a few, and they must not keep calls out.
        """
        if not self.waiting and self._has_slot():
            return False
        return (
            len(self._calls) >= self._max_per_slot * max(1, self._get_queue_slots())
            or self.waiting_bytes + body_bytes > self._max_bytes
        )

    def get_names(self) -> set[str]:
        """Return the keys that have waiting calls."""
        return {*self._calls.get_names(), *self._batches.get_names()}

    def estimate_wait_s(self, name: str, *, is_batch: bool = False) -> float | None:
        """Estimate how long a new call of a key would wait; None before enough calls ended."""
        if self.can_start:
            return 0.0
        if len(self._durations_s) < MIN_MEASURED_CALLS:
            return None
        ahead = self._calls.count_ahead(name)
        if is_batch:
            ahead = len(self._calls) + self._batches.count_ahead(name)
        mean_s = sum(self._durations_s) / len(self._durations_s)
        # Up to now, so that the estimate grows while the service ends no call.
        interval_s = max(
            mean_s / (self._get_slots() + LOOKAHEAD), self._monotonic() - self._changed_at
        )
        return (ahead + 1) * interval_s

    def enter(self, waiter: Waiter) -> None:
        """Put a call into the queue; it `has_slot` when it may start."""
        queue, has_slot = self._get_queue(waiter), self._has_slot()
        if has_slot and not self.waiting:
            queue.serve_at_once(waiter.name, waiter.weight)
            self._start(waiter)
            return
        queue.push(waiter.name, waiter.weight, waiter)
        self.waiting += 1
        if not waiter.is_batch:
            self.waiting_bytes += waiter.body_bytes
        if has_slot:
            self.start_waiting()

    def leave(self, waiter: Waiter) -> None:
        """Take out a call that has ended, or that no longer waits."""
        if waiter.has_slot:
            self.active -= 1
            self._changed_at = self._monotonic()
            self._durations_s.append(self._changed_at - waiter.started_at)
        else:
            self._get_queue(waiter).remove(waiter.name, waiter)
            self.waiting -= 1
            if not waiter.is_batch:
                self.waiting_bytes -= waiter.body_bytes
        self.on_slot()

    def charge(self, waiter: Waiter, prompt_tokens: int, output_tokens: int) -> None:
        """Count tokens that a call received, for the order of the later ones."""
        self._get_queue(waiter).charge(waiter.name, prompt_tokens, output_tokens)

    def forget(self, names: Iterable[str]) -> None:
        """Drop what is known of keys that no longer exist."""
        for name in names:
            self._calls.forget(name)
            self._batches.forget(name)

    def start_waiting(self) -> None:
        """Start calls while there are slots. Call it when the service may have gained slots."""
        if not self.waiting:
            return
        # Counting the slots costs more than the rest.
        for _ in range(min(self.waiting, self._get_slots() + LOOKAHEAD - self.active)):
            waiter = (self._calls or self._batches).pop()
            self.waiting -= 1
            if not waiter.is_batch:
                self.waiting_bytes -= waiter.body_bytes
            self._start(waiter)

    def _start(self, waiter: Waiter) -> None:
        self.active += 1
        waiter.started_at = self._changed_at = self._monotonic()
        self.charge(waiter, waiter.prompt_tokens, 0)
        waiter.has_slot = True
        if waiter.slot is not None and not waiter.slot.done():
            waiter.slot.set_result(True)

    def _has_slot(self) -> bool:
        return self.active < self._get_slots() + LOOKAHEAD

    def _get_queue(self, waiter: Waiter) -> FairQueue[Waiter]:
        return self._batches if waiter.is_batch else self._calls
