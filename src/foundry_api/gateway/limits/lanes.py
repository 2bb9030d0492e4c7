"""A queue for each group of upstreams, so that calls for one model do not hold up those for others.

A lane has the calls for the models that the same upstreams have. An upstream may be in several
lanes, so the slots of a lane are those of its upstreams without what other lanes use of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from foundry_api.gateway.limits.scheduler import Scheduler

__all__ = ["Lanes", "UpstreamSlots"]

# Lanes without calls are dropped from this number on. There are as many as groups of upstreams that
# have a model in common, but the groups change with the listings of the upstreams.
MAX_IDLE_LANES = 64

Group = frozenset[str]


class UpstreamSlots(Protocol):
    """What the lanes need to know of the upstreams; see `gateway.upstreams.slots`."""

    def find_group(self, model: str) -> Group:
        """Return the names of the upstreams that have a model."""
        ...

    def get_slots(self) -> Mapping[str, int]:
        """Return how many calls each upstream takes at the same time, by its name."""
        ...

    def get_queue_slots(self) -> Mapping[str, int]:
        """Return how many slots of each upstream the length of the queue is for, by its name."""
        ...


class Lanes:
    """The schedulers of all lanes; together they look like one.

    Args:
        upstreams: The upstreams.
        make_scheduler: Makes the scheduler of a lane, from functions that return its slots and
            those that the length of its queue is for.
        max_bytes: Bytes of the requests that may wait, in all lanes.
    """

    def __init__(
        self,
        upstreams: UpstreamSlots,
        make_scheduler: Callable[[Callable[[], int], Callable[[], int]], Scheduler],
        *,
        max_bytes: int,
    ) -> None:
        self._upstreams = upstreams
        self._make_scheduler = make_scheduler
        self._max_bytes = max_bytes
        self._lanes: dict[Group, Scheduler] = {}

    def get_lane(self, model: str) -> Scheduler:
        """Return the scheduler of the calls for a model."""
        group = self._upstreams.find_group(model)
        lane = self._lanes.get(group)
        if lane is None:
            if len(self._lanes) >= MAX_IDLE_LANES:
                self._drop_idle_lanes()
            lane = self._lanes[group] = self._make_scheduler(
                lambda: self._count_free_slots(group), lambda: self._count_queue_slots(group)
            )
            lane.on_slot = self.start_waiting
        return lane

    @property
    def waiting(self) -> int:
        """Calls that wait."""
        return sum(lane.waiting for lane in self._lanes.values())

    @property
    def active(self) -> int:
        """Calls that have a slot."""
        return sum(lane.active for lane in self._lanes.values())

    @property
    def slots(self) -> int:
        """Calls that the upstreams take at the same time."""
        return sum(self._upstreams.get_slots().values())

    def has_waiting(self, upstream: str) -> bool:
        """Whether a call waits for an upstream."""
        return any(lane.waiting and upstream in group for group, lane in self._lanes.items())

    def has_room(self, body_bytes: int) -> bool:
        """Whether a request of a size may wait."""
        waiting_bytes = sum(lane.waiting_bytes for lane in self._lanes.values())
        return waiting_bytes + body_bytes <= self._max_bytes

    def get_depth(self, name: str) -> int:
        """Return the waiting calls of a key."""
        return sum(lane.get_depth(name) for lane in self._lanes.values())

    def estimate_wait_s(self, name: str) -> float | None:
        """Estimate how long a new call of a key would wait where it waits the longest."""
        waits_s = [
            wait_s
            for lane in self._lanes.values()
            if (wait_s := lane.estimate_wait_s(name)) is not None
        ]
        return max(waits_s, default=None)

    def forget(self, names: Iterable[str]) -> None:
        """Drop what is known of keys that no longer exist."""
        names = list(names)
        for lane in self._lanes.values():
            lane.forget(names)

    def start_waiting(self) -> None:
        """Start calls while there are slots, in the lanes with the fewest running calls first."""
        for lane in sorted(self._lanes.values(), key=lambda lane: lane.active):
            lane.start_waiting()

    def _count_queue_slots(self, group: Group) -> int:
        slots = self._upstreams.get_queue_slots()
        return sum(slots.get(name, 0) for name in group)

    def _count_free_slots(self, group: Group) -> int:
        """Return the slots of the upstreams of a lane that other lanes leave to it."""
        slots = self._upstreams.get_slots()
        used = 0.0
        for other, lane in self._lanes.items():
            if other != group and lane.active and not group.isdisjoint(other):
                # Its calls are at all of its upstreams, more or less in proportion to their slots.
                shared = sum(slots.get(name, 0) for name in group & other)
                used += lane.active * shared / max(1, sum(slots.get(name, 0) for name in other))
        return max(0, sum(slots.get(name, 0) for name in group) - round(used))

    def _drop_idle_lanes(self) -> None:
        self._lanes = {
            group: lane for group, lane in self._lanes.items() if lane.active or lane.waiting
        }
