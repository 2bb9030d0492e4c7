"""What the driver, its desk and the actors tell each other."""

from __future__ import annotations

import msgspec

from foundry_api.batch.engine import EngineState
from foundry_api.batch.types import BatchLineResult, WorkItem
from foundry_api.types.errors import FoundryError

__all__ = ["Assignment", "DrainedResults", "LostLine", "WorkerId"]


class WorkerId(msgspec.Struct, frozen=True, kw_only=True):
    """An actor, in one of its lives.

    Attributes:
        actor: Ray's id of it, which outlives its process.
        incarnation: Stands for the process: another one has another.
        node: Ray's id of the node where it runs.
        host: That node's name or address, for people.
    """

    actor: str
    incarnation: str
    node: str
    host: str


class Assignment(msgspec.Struct, frozen=True):
    """What an actor works with.

    Attributes:
        name: Of the node, where the engine is the actor's own, or the service's address.
        url: The service's address; None for an engine of its own.
    """

    name: str
    url: str | None = None


class LostLine(msgspec.Struct, frozen=True):
    """A line in whose flight its actor died too often.

    Attributes:
        item: The line.
        crashes: How often.
    """

    item: WorkItem
    crashes: int


class DrainedResults(msgspec.Struct, frozen=True, kw_only=True):
    """What the desk has for the driver.

    Attributes:
        results: Lines that came back, each of them once.
        lost: Lines that are given up.
        notices: Sentences for people.
        states: Each actor's name and its engine, as it last told.
        is_finished: Whether nothing comes any more.
        failure: Why the run cannot go on.
    """

    results: tuple[BatchLineResult, ...] = ()
    lost: tuple[LostLine, ...] = ()
    notices: tuple[str, ...] = ()
    states: tuple[tuple[str, EngineState], ...] = ()
    is_finished: bool = False
    failure: FoundryError | None = None
