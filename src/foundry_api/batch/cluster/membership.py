"""The actors of a cluster: their services and states, and how many lines they get at a time."""

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

# Concurrent blocks of an actor: enough that its engine never waits for the next one.
BLOCKS_AT_ONCE = 4

# An actor's work for one block. It bounds what is repeated after a crash of an actor, and how long
# the last actor works while the others have nothing left.
BLOCK_S = 0.5
MAX_BLOCK_LINES = 64

# The rate of lines is measured over this time.
WINDOW_S = 1.0

# Lines in flight in an actor that has not reported its limit yet.
FIRST_LIMIT = 2


class EngineAssignments:
    """Assigns a service, or else its node's engine, to each actor."""

    # If a node is lost, Ray restarts its actor on another one. A second engine there would load the
    # same models into the same memory, so the actor waits until that node has no engine.

    def __init__(self, urls: Sequence[str] = ()) -> None:
        self._urls = tuple(urls)
        self._holders: dict[str, WorkerId] = {}

    def assign(self, worker_id: WorkerId) -> Assignment | None:
        """Return the actor's assignment, the same one at each call; None if there is none left."""
        for name in self._urls or (worker_id.node,):
            holder = self._holders.setdefault(name, worker_id)
            if holder == worker_id:
                return Assignment(name, name) if self._urls else Assignment(worker_id.host)
        return None

    def release(self, actor: str) -> None:
        self._holders = {
            name: worker_id for name, worker_id in self._holders.items() if worker_id.actor != actor
        }


@dataclass(slots=True)
class _Worker:
    worker_id: WorkerId
    error: FoundryError | None = None
    state: EngineState = field(default_factory=EngineState)


class WorkerRegistry:
    """The actors that have registered, and their states."""

    def __init__(self, expected: int, urls: Sequence[str] = ()) -> None:
        self._expected = expected
        self._assignments = EngineAssignments(urls)
        self._workers: dict[str, _Worker] = {}
        self.notices: list[str] = []

    def register(self, worker_id: WorkerId) -> Assignment | None:
        """Register an actor, or a new process of an actor after a crash."""
        previous = self._workers.get(worker_id.actor)
        if previous is not None and previous.worker_id != worker_id:
            self._assignments.release(worker_id.actor)
            self.notices.append(
                f"{previous.worker_id.host}: an actor was lost; its lines are sent again"
            )
        self._workers[worker_id.actor] = _Worker(worker_id)
        assignment = self._assignments.assign(worker_id)
        if assignment is None:
            notice = "another actor, which waits because the node already has an engine"
        elif assignment.url is None:
            notice = "an actor with its own engine"
        else:
            notice = f"an actor for {assignment.url}"
        self.notices.append(f"{worker_id.host}: {notice}")
        return assignment

    def assign(self, worker_id: WorkerId) -> Assignment | None:
        """Return the actor's assignment; None if there is none left, or for an earlier process."""
        worker = self._workers.get(worker_id.actor)
        return (
            self._assignments.assign(worker_id)
            if worker is not None and worker.worker_id == worker_id
            else None
        )

    def update_state(self, actor: str, state: EngineState) -> None:
        worker = self._workers.get(actor)
        if worker is not None:
            worker.state = state

    def unregister(self, actor: str, error: FoundryError) -> None:
        """Exclude an actor for the rest of the run, because its service is unreachable."""
        worker = self._workers[actor]
        if worker.error is None:
            worker.error = error
            self.notices.append(
                f"{worker.worker_id.host}: left out for the rest of the run. {error}"
            )

    def can_work(self, actor: str) -> bool:
        worker = self._workers[actor]
        return worker.error is None and self._assignments.assign(worker.worker_id) is not None

    @property
    def active_count(self) -> int:
        """The number of actors that work or have not registered yet, at least 1."""
        idle = sum(not self.can_work(actor) for actor in self._workers)
        return max(1, self._expected - idle)

    @property
    def all_failed(self) -> bool:
        """Whether all expected actors have registered, and none can work."""
        working = any(self.can_work(actor) for actor in self._workers)
        return not working and len(self._workers) >= self._expected

    @property
    def limit(self) -> int:
        """The largest number of lines in flight that an actor allows."""
        limits = [worker.state.limit or FIRST_LIMIT for worker in self._workers.values()]
        return max(limits, default=FIRST_LIMIT)

    def take_notices(self) -> tuple[str, ...]:
        """Return the notices since the last call."""
        notices, self.notices = self.notices, []
        return tuple(notices)

    def get_states(self) -> tuple[tuple[str, EngineState], ...]:
        return tuple((worker.worker_id.host, worker.state) for worker in self._workers.values())


class BlockSizer:
    """Chooses the number of lines per block from the rate at which results arrive."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._since = monotonic()
        self._count = 0
        self._rate = 0.0

    def record_delivered(self, count: int) -> None:
        self._count += count

    def next_block_size(self, actors: int, limit: int) -> int:
        """Return the lines for a block: some time's work, but enough to fill the engine."""
        elapsed_s = self._monotonic() - self._since
        if elapsed_s >= WINDOW_S:
            self._rate = self._count / elapsed_s
            self._since, self._count = self._since + elapsed_s, 0
        lines_for_time = self._rate * BLOCK_S / max(1, actors)
        # Twice the limit over all blocks of the actor: as many lines wait as are in flight.
        lines_for_limit = 2 * limit / BLOCKS_AT_ONCE
        return min(MAX_BLOCK_LINES, max(1, math.ceil(lines_for_time), math.ceil(lines_for_limit)))
