"""Messages between the driver, the coordinator and the actors, and with a gateway."""

from __future__ import annotations

from typing import Literal

import msgspec

from foundry_api.batch.engine import EngineState
from foundry_api.batch.types import BatchLineResult, WorkItem
from foundry_api.types.errors import FoundryError

__all__ = [
    "Assignment",
    "ClusterView",
    "CollectedResults",
    "EngineAddress",
    "EngineNode",
    "FollowOptions",
    "LostLine",
    "WorkerId",
]


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


class EngineAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where gateways reach the engine of an actor.

    Attributes:
        url: The address of the actor's proxy, without a slash at its end.
        token: The bearer token that the proxy requires.
        pid: The process of the actor.
        version: The version of this package there.
    """

    url: str
    token: str
    pid: int
    version: str

    def __repr__(self) -> str:
        return f"EngineAddress(url={self.url!r})"  # without the token


class FollowOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Which nodes of a cluster get an engine, for the program that follows them.

    Attributes:
        address: The address of the cluster; `auto` for the one of this machine.
        labels: What the labels of a node must be, as in Ray's `label_selector`.
        resources: What each engine reserves on its node, by Ray's names.
        max_nodes: The largest number of engines.
        port: The port of each engine's proxy; 0 for any free one.
    """

    address: str
    labels: dict[str, str] = {}
    resources: dict[str, float] = {}
    max_nodes: int
    port: int = 0


class EngineNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node with an engine.

    Attributes:
        id: Ray's id of the node.
        name: Its name, which no other node of the view has.
        state: `starting` until its engine has an address, and again after its actor has died;
            `failed` if it cannot be started.
        problem: Why it does not serve; empty if it does.
        address: Where its engine is; None if it does not serve.
    """

    id: str
    name: str
    state: Literal["starting", "serving", "failed"]
    problem: str = ""
    address: EngineAddress | None = None


class ClusterView(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the engines of a cluster.

    Attributes:
        problem: Why the cluster cannot be used; empty if it can.
        nodes: Its nodes with an engine; None if it cannot be asked.
    """

    problem: str = ""
    nodes: tuple[EngineNode, ...] | None = None
