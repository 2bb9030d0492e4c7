"""Who works in a cluster, who waits, and who cannot."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from foundry_api.batch.cluster.messages import Assignment
from foundry_api.batch.engine import EngineState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foundry_api.batch.cluster.messages import WorkerId
    from foundry_api.types.errors import FoundryError

__all__ = ["BLOCKS_AT_ONCE", "MAX_BLOCK_LINES", "BlockSizer", "EngineAssignments", "WorkerRegistry"]


class EngineAssignments:
    """Given to actors as they come, taken back when they come again as another process.

    When a node dies, Ray starts its actor anew on any other one. There it would be a second engine
    with the same models in the same memory, so it waits until that node has none.

    Args:
        urls: The services' addresses, one for each actor; none where each has an engine of its own.
    """

    def __init__(self, urls: Sequence[str] = ()) -> None:
        self._urls = tuple(urls)
        self._holders: dict[str, WorkerId] = {}

    def assign(self, worker_id: WorkerId) -> Assignment | None:
        """A seat for an actor; None while there is none. Whoever asks again has the same."""
        for name in self._urls or (worker_id.node,):
            holder = self._holders.setdefault(name, worker_id)
            if holder == worker_id:
                return Assignment(name, name) if self._urls else Assignment(worker_id.host)
        return None

    def release(self, actor: str) -> None:
        """An actor has no seat any more, if it had one."""
        self._holders = {
            name: worker_id for name, worker_id in self._holders.items() if worker_id.actor != actor
        }


FIRST_LIMIT = 2
"""Lines in flight in an actor that has not told of itself yet."""


@dataclass(slots=True)
class _Worker:
    worker_id: WorkerId
    error: FoundryError | None = None
    state: EngineState = field(default_factory=EngineState)


class WorkerRegistry:
    """The actors, as they have told of themselves.

    Args:
        expected: How many there will be.
        urls: The services' addresses, one for each actor; none where each has an engine of its own.
    """

    def __init__(self, expected: int, urls: Sequence[str] = ()) -> None:
        self._expected = expected
        self._assignments = EngineAssignments(urls)
        self._workers: dict[str, _Worker] = {}
        self.notices: list[str] = []

    def register(self, worker_id: WorkerId) -> Assignment | None:
        """An actor begins, or begins again as another process."""
        previous = self._workers.get(worker_id.actor)
        if previous is not None and previous.worker_id != worker_id:
            self._assignments.release(worker_id.actor)
            self.notices.append(
                f"{previous.worker_id.host}: an actor was lost; its lines are asked again"
            )
        self._workers[worker_id.actor] = _Worker(worker_id)
        assignment = self._assignments.assign(worker_id)
        if assignment is None:
            self.notices.append(
                f"{worker_id.host}: another actor, which waits: an engine is here already"
            )
        else:
            self.notices.append(f"{worker_id.host}: {_describe_assignment(assignment)}")
        return assignment

    def assign(self, worker_id: WorkerId) -> Assignment | None:
        """What an actor works with; None while there is nothing, or if it is not here any more."""
        worker = self._workers.get(worker_id.actor)
        return (
            self._assignments.assign(worker_id)
            if worker is not None and worker.worker_id == worker_id
            else None
        )

    def update_state(self, actor: str, state: EngineState) -> None:
        """How an actor's engine is."""
        worker = self._workers.get(actor)
        if worker is not None:
            worker.state = state

    def unregister(self, actor: str, error: FoundryError) -> None:
        """An actor's service is gone, for the rest of the run."""
        worker = self._workers[actor]
        if worker.error is None:
            worker.error = error
            self.notices.append(
                f"{worker.worker_id.host}: left out for the rest of the run. {error}"
            )

    def can_work(self, actor: str) -> bool:
        """Whether an actor can answer lines."""
        worker = self._workers[actor]
        return worker.error is None and self._assignments.assign(worker.worker_id) is not None

    @property
    def active_count(self) -> int:
        """How many can, those that are still expected included; at least one."""
        idle = sum(not self.can_work(actor) for actor in self._workers)
        return max(1, self._expected - idle)

    @property
    def all_failed(self) -> bool:
        """Whether all that were expected are here, and none can work."""
        working = any(self.can_work(actor) for actor in self._workers)
        return not working and len(self._workers) >= self._expected

    @property
    def limit(self) -> int:
        """The most lines that an actor may have in flight."""
        limits = [worker.state.limit or FIRST_LIMIT for worker in self._workers.values()]
        return max(limits, default=FIRST_LIMIT)

    def drain_notices(self) -> tuple[str, ...]:
        """What happened since the last time."""
        notices, self.notices = self.notices, []
        return tuple(notices)

    def get_states(self) -> tuple[tuple[str, EngineState], ...]:
        """Each actor's host and engine."""
        return tuple((worker.worker_id.host, worker.state) for worker in self._workers.values())


def _describe_assignment(assignment: Assignment) -> str:
    return "an engine of its own" if assignment.url is None else f"an actor for {assignment.url}"


BLOCKS_AT_ONCE = 4
"""Blocks that an actor has at once: so its engine never waits for the next one."""

BLOCK_S = 0.5
"""Seconds of an actor's work in a block. It bounds what is asked again when an actor dies, and how
long the last actor works while the others have nothing left."""

MAX_BLOCK_LINES = 64
WINDOW_S = 1.0


class BlockSizer:
    """Learns how quickly lines come back.

    Args:
        clock: Seconds of a monotonic clock.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._since = monotonic()
        self._count = 0
        self._rate = 0.0

    def record_delivered(self, count: int) -> None:
        """So many lines came back."""
        self._count += count

    def next_block_size(self, actors: int, limit: int) -> int:
        """Lines for the next block: some time's work of an actor, or as many as fill its engine.

        Args:
            actors: How many share the work.
            limit: How many lines an actor may have in flight.
        """
        self._measure()
        item = self._rate * BLOCK_S / max(1, actors)
        room = 2 * limit / BLOCKS_AT_ONCE
        return min(MAX_BLOCK_LINES, max(1, math.ceil(item), math.ceil(room)))

    def _measure(self) -> None:
        elapsed = self._monotonic() - self._since
        if elapsed >= WINDOW_S:
            self._rate = self._count / elapsed
            self._since, self._count = self._since + elapsed, 0
