"""Messages between the driver, the coordinator and the actors."""

from __future__ import annotations

import msgspec

from foundry_api.batch.engine import EngineState
from foundry_api.batch.types import BatchLineResult, WorkItem
from foundry_api.types.errors import FoundryError

__all__ = ["Assignment", "CollectedResults", "LostLine", "WorkerId"]


class WorkerId(msgspec.Struct, frozen=True, kw_only=True):
    """One incarnation of an actor."""

    actor: str  # Ray's id; the same after the actor restarts
    incarnation: str  # differs for each process of the actor
    node: str  # Ray's id
    host: str  # name and address of the node, for messages


class Assignment(msgspec.Struct, frozen=True):
    """The service or node that an actor works with."""

    name: str  # the service's URL, or the host whose engine belongs to the actor
    url: str | None = None  # None if the actor has an engine of its own


class LostLine(msgspec.Struct, frozen=True):
    """A line that was in flight in too many crashes of its actors."""

    item: WorkItem
    crashes: int


class CollectedResults(msgspec.Struct, frozen=True, kw_only=True):
    """What the coordinator has received since the driver's last request."""

    results: tuple[BatchLineResult, ...] = ()  # each line once
    lost: tuple[LostLine, ...] = ()
    notices: tuple[str, ...] = ()  # messages for users
    # The host of each actor, and the state of its engine.
    states: tuple[tuple[str, EngineState], ...] = ()
    is_finished: bool = False
    failure: FoundryError | None = None  # why the run cannot continue
