"""Which nodes of a cluster get an engine, and what is reported of them. No Ray is needed."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from foundry_api.batch.cluster.cluster import Node
from foundry_api.batch.cluster.engine_nodes import (
    RENEW_INTERVAL_S,
    RETRY_INTERVAL_S,
    EngineNodes,
)
from foundry_api.batch.cluster.messages import ClusterView, EngineAddress, FollowOptions
from foundry_api.batch.cluster.node_filter import NodeFilter, is_label_condition
from foundry_api.types.errors import BatchError, FoundryError, ServiceNotRunning

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from typing import Any

    from support.virtual_time import Run


CREDENTIAL = "the token of an engine"


def make_node(key: str, label: str = "", **resources: float) -> Node:
    return Node(
        f"id-{key}",
        key,
        label=label or key,
        labels={"zone": "a", "disk": "ssd"},
        resources={"CPU": 4, **resources},
    )


def make_address(node: Node, port: int = 1) -> EngineAddress:
    return EngineAddress(url=f"http://{node.name}:{port}", token=CREDENTIAL, pid=1, version="1")


@pytest.mark.parametrize(
    ("labels", "resources", "matches"),
    [
        ({}, {}, True),
        ({"zone": "a"}, {}, True),
        ({"zone": "b"}, {}, False),
        ({"zone": "!b", "disk": "in(ssd, nvme)"}, {}, True),
        ({"zone": "!in(a,b)"}, {}, False),
        ({"missing": "x"}, {}, False),
        ({"missing": "!x"}, {}, True),
        ({}, {"CPU": 4}, True),
        ({}, {"CPU": 5}, False),
        ({}, {"GPU": 1}, False),
    ],
)
def test_nodes_are_selected_by_labels_and_resources(
    labels: dict[str, str], resources: dict[str, float], *, matches: bool
) -> None:
    assert NodeFilter(labels, resources).matches(make_node("one")) is matches
    head = Node("id", "head", labels={"zone": "a"}, resources={"GPU": 1})
    assert not NodeFilter({}, {}).matches(head)


@pytest.mark.parametrize("text", ["", "a b", "in(a", "!!a", "in", "a,b"])
def test_other_conditions_than_those_of_ray_are_refused(text: str) -> None:
    assert is_label_condition(text) is (text == "in")


def test_resources_become_options_of_ray() -> None:
    options = NodeFilter({}, {"GPU": 1, "memory": 5, "accelerator": 0.5}).make_options()
    assert options == {
        "num_cpus": 0,
        "num_gpus": 1,
        "memory": 5,
        "resources": {"accelerator": 0.5},
    }


class World:
    """Nodes whose engines are started, fail or are lost as the test says."""

    def __init__(self) -> None:
        self.errors: dict[str, FoundryError] = {}
        self.ports: dict[str, int] = {}
        self.asked: list[str] = []
        self.views: list[ClusterView] = []

    async def get_address(self, node: Node) -> EngineAddress:
        self.asked.append(node.name)
        if node.name in self.errors:
            raise self.errors[node.name]
        return make_address(node, self.ports.get(node.name, 1))

    async def hold(self, node: Node) -> None:
        self.asked.append(f"{node.name} again")
        self.lost = asyncio.Event()
        with suppress(TimeoutError):
            async with asyncio.timeout(RENEW_INTERVAL_S):
                await self.lost.wait()
                raise ServiceNotRunning("its actor is lost: killed")

    @asynccontextmanager
    async def follow(self, **options: Any) -> AsyncGenerator[EngineNodes]:
        given: dict[str, Any] = {"address": "auto", "max_nodes": 10, **options}
        nodes = EngineNodes(FollowOptions(**given), self.get_address, self.hold, self.views.append)
        try:
            yield nodes
        finally:
            await nodes.aclose()

    def states(self) -> dict[str, str]:
        return {node.name: node.state for node in self.views[-1].nodes or ()}


@pytest.fixture
def world() -> World:
    return World()


def test_nodes_join_and_leave(world: World, run: Run) -> None:
    async def story() -> None:
        one, two, twin = make_node("one"), make_node("two"), make_node("2", label="two")
        async with world.follow(max_nodes=2) as nodes:
            nodes.update([])
            assert world.views[-1].problem == "none of its nodes has the labels and resources"
            nodes.update([two])
            assert world.states() == {"two": "starting"}
            await asyncio.sleep(1)
            assert world.states() == {"two": "serving"}
            nodes.update([one, two])
            await asyncio.sleep(1)
            nodes.update([one, twin, two])  # one too many: those that serve are kept
            assert world.states() == {"two": "serving", "one": "serving"}
            nodes.update([one, twin])
            await asyncio.sleep(1)
            assert world.states() == {"one": "serving", "two": "serving"}
            assert [node.id for node in world.views[-1].nodes or ()] == ["id-one", "id-2"]
            reported = len(world.views)
            nodes.update([twin, one])
            assert len(world.views) == reported

    run(story())


def test_two_nodes_of_the_same_name_are_told_apart(world: World, run: Run) -> None:
    async def story() -> None:
        async with world.follow() as nodes:
            nodes.update([make_node("a", label="host"), make_node("b", label="host")])
            assert world.states() == {"host": "starting", "host-id-b": "starting"}

    run(story())


def test_a_lost_actor_is_reported_until_it_serves_again(world: World, run: Run) -> None:
    async def story() -> None:
        async with world.follow() as nodes:
            nodes.update([make_node("one")])
            await asyncio.sleep(1)
            world.lost.set()
            await asyncio.sleep(0.1)
            (node,) = world.views[-1].nodes or ()
            assert (node.state, node.problem) == ("starting", "its actor is lost: killed")
            assert node.address is None
            world.errors["one"] = BatchError("it has another version", hint="Install it")
            await asyncio.sleep(RETRY_INTERVAL_S)
            (node,) = world.views[-1].nodes or ()
            assert (node.state, node.problem) == ("failed", "it has another version. Install it")
            world.errors.clear()
            world.ports["one"] = 2
            await asyncio.sleep(RETRY_INTERVAL_S)
            (node,) = world.views[-1].nodes or ()
            assert node.address is not None
            assert node.address.url == "http://one:2"
            assert CREDENTIAL not in repr(world.views)
            world.asked.clear()
            await asyncio.sleep(4 * RENEW_INTERVAL_S)  # the lease is renewed
            assert world.asked.count("one") == 4

    run(story())
