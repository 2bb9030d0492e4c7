"""A program that runs an engine on each node of a Ray cluster, for a gateway, and reports them.

It is a process of its own, because Ray ends a process whose cluster is gone. The gateway goes on,
with the engines that still answer, and starts it again. It reads one `FollowOptions` as its
argument, writes a `ClusterView` as a line of JSON whenever something changes, and ends when its
standard input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api._version import __version__
from foundry_api.batch.cluster.cluster import (
    check_version,
    connect_cluster,
    get_last_line,
    make_import_error,
)
from foundry_api.batch.cluster.messages import ClusterView, EngineAddress, EngineNode, FollowOptions
from foundry_api.batch.cluster.node_filter import NodeFilter
from foundry_api.types.errors import FoundryError, ServiceNotRunning

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from foundry_api.batch.cluster.cluster import Node

__all__ = ["NAMESPACE", "EngineNodes", "main"]

# Ray's namespace of the actors. All gateways of a cluster share them.
NAMESPACE = "foundry-api"

# How often the nodes of the cluster are listed, and each engine's lease is renewed.
LIST_INTERVAL_S = 2.0
RENEW_INTERVAL_S = 15.0
# After a failure. Ray takes a moment to restart an actor.
RETRY_INTERVAL_S = 1.0
# Calls of an actor at the same time: each gateway waits in one, and makes another.
MAX_ACTOR_CALLS = 64

# A node that is busy, or whose resources others have, may take long to start an engine.
ENGINE_START_TIMEOUT_S = 120.0
# An engine that serves answers at once.
RENEW_TIMEOUT_S = 30.0


class EngineNodes:
    """The nodes that have an engine. Each is followed by a task.

    Args:
        options: Which nodes get one.
        get_address: Starts the engine of a node, unless it runs, renews its lease, and returns its
            address. Raises ServiceNotRunning if its actor is lost, which Ray starts again.
        hold: Returns after a time, after which the lease has to be renewed. Raises
            ServiceNotRunning as soon as the actor is lost.
        on_change: Called with what is known, after each change.
    """

    def __init__(
        self,
        options: FollowOptions,
        get_address: Callable[[Node], Awaitable[EngineAddress]],
        hold: Callable[[Node], Awaitable[None]],
        on_change: Callable[[ClusterView], object],
    ) -> None:
        self._filter = NodeFilter(options.labels, options.resources)
        self._max_nodes = options.max_nodes
        self._get_address = get_address
        self._hold = hold
        self._on_change = on_change
        self._nodes: dict[str, EngineNode] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._last_view: ClusterView | None = None

    def update(self, nodes: Iterable[Node]) -> None:
        """Follow the nodes of the cluster: start those that joined, forget those that left."""
        suitable = {node.id: node for node in nodes if self._filter.matches(node)}
        # Those that have an engine keep it, also if there are more nodes than engines.
        kept = [identifier for identifier in self._nodes if identifier in suitable]
        joined = sorted(
            (node for node in suitable.values() if node.id not in self._nodes),
            key=lambda node: (node.label, node.id),
        )
        for identifier in self._nodes.keys() - set(kept):
            del self._nodes[identifier]
            self._tasks.pop(identifier).cancel()
        for node in joined[: self._max_nodes - len(kept)]:
            self._nodes[node.id] = EngineNode(
                id=node.id,
                name=self._make_name(node),
                state="starting",
                problem="its engine is being started",
            )
            self._tasks[node.id] = asyncio.ensure_future(self._follow(node))
        self._report()

    async def aclose(self) -> None:
        """Follow no node any longer. The engines end with their leases."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _follow(self, node: Node) -> None:
        while True:
            is_serving = self._nodes[node.id].state == "serving"
            try:
                async with asyncio.timeout(
                    RENEW_TIMEOUT_S if is_serving else ENGINE_START_TIMEOUT_S
                ):
                    address = await self._get_address(node)
                self._set(node, "serving", address=address)
                async with asyncio.timeout(RENEW_INTERVAL_S + RENEW_TIMEOUT_S):
                    await self._hold(node)
            except TimeoutError:
                self._set(node, "starting", "its actor does not answer, see `ray status`")
            except ServiceNotRunning as error:
                self._set(node, "starting", error.message)
            except FoundryError as error:
                self._set(node, "failed", f"{error.message}. {error.hint}".removesuffix(". "))
            else:
                continue
            await asyncio.sleep(RETRY_INTERVAL_S)

    def _set(self, node: Node, state: Any, problem: str = "", address: Any = None) -> None:
        self._nodes[node.id] = msgspec.structs.replace(
            self._nodes[node.id], state=state, problem=problem, address=address
        )
        self._report()

    def _make_name(self, node: Node) -> str:
        names = {other.name for other in self._nodes.values()}
        return node.label if node.label not in names else f"{node.label}-{node.id[:8]}"

    def _report(self) -> None:
        problem = "" if self._nodes else "none of its nodes has the labels and resources"
        view = ClusterView(problem=problem, nodes=tuple(self._nodes.values()))
        if view != self._last_view:
            self._last_view = view
            self._on_change(view)


async def _get_address(node: Node, options: dict[str, Any], port: int) -> EngineAddress:
    """Return the address of a node's engine, whose actor is found by its name or started."""
    from foundry_api.batch.cluster.engine_actor import EngineActor  # noqa: PLC0415 - imports Ray
    from foundry_api.batch.cluster.nodes import (  # noqa: PLC0415 - the same
        get_version,
        make_node_selector,
        wait_for,
    )
    from foundry_api.batch.cluster.untyped import ray  # noqa: PLC0415 - the same

    name = _make_name(node)
    try:
        actor = await asyncio.to_thread(ray.get_actor, name, namespace=NAMESPACE)
    except ValueError:  # there is none
        # Ray reports an actor whose module is missing only after it has tried for long.
        try:
            check_version(node, await get_version(node.id))
        except ImportError as error:
            raise make_import_error(node, error) from error
        actor = (
            ray.remote(EngineActor)
            .options(
                name=name,
                namespace=NAMESPACE,
                lifetime="detached",  # several gateways share it, and any of them may end first
                get_if_exists=True,
                max_concurrency=MAX_ACTOR_CALLS,
                max_restarts=-1,  # on its node: without it, the actor is gone
                **options,
                **make_node_selector(node.id),
            )
            .remote()
        )
    try:
        address: EngineAddress = await wait_for(actor.get_address.remote(port))
    except Exception as error:  # Ray raises many types
        cause = getattr(error, "cause", None)
        if isinstance(cause, FoundryError):
            raise cause from error
        raise _make_lost_error(error) from error
    if address.version != __version__:
        check_version(node, await get_version(node.id))
        # It runs since before the node's package was upgraded.
        ray.kill(actor, no_restart=True)
        raise ServiceNotRunning("its engine has another version, and is started again")
    return address


async def _hold(node: Node) -> None:
    """Wait for a time, or until the actor of a node is lost."""
    from foundry_api.batch.cluster.nodes import wait_for  # noqa: PLC0415 - imports Ray
    from foundry_api.batch.cluster.untyped import ray  # noqa: PLC0415 - the same

    try:
        actor = await asyncio.to_thread(ray.get_actor, _make_name(node), namespace=NAMESPACE)
        await wait_for(actor.hold.remote(RENEW_INTERVAL_S))
    except Exception as error:  # Ray raises many types
        raise _make_lost_error(error) from error


def _make_name(node: Node) -> str:
    return f"engine-{node.id}"


def _make_lost_error(error: Exception) -> ServiceNotRunning:
    return ServiceNotRunning(f"its actor is lost: {get_last_line(error) or error}")


async def _follow(options: FollowOptions, write: Callable[[ClusterView], object]) -> None:
    async with connect_cluster(options.address, namespace=NAMESPACE):
        from foundry_api.batch.cluster.nodes import list_nodes  # noqa: PLC0415 - imports Ray

        node_filter = NodeFilter(options.labels, options.resources)
        actor_options = node_filter.make_options()
        nodes = EngineNodes(
            options, lambda node: _get_address(node, actor_options, options.port), _hold, write
        )
        try:
            while True:
                nodes.update(await asyncio.to_thread(list_nodes))
                await asyncio.sleep(LIST_INTERVAL_S)
        finally:
            await nodes.aclose()


def main() -> None:
    """Run the program."""
    options = msgspec.json.decode(sys.argv[1], type=FollowOptions)

    # Ray prints messages, also from its own code, which would be taken for views.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def write(view: ClusterView) -> None:
        output.write(msgspec.json.encode(view) + b"\n")
        output.flush()

    async def run() -> None:
        task = asyncio.ensure_future(_follow(options, write))
        loop = asyncio.get_running_loop()

        def wait_for_end() -> None:
            sys.stdin.buffer.read()
            loop.call_soon_threadsafe(task.cancel)

        threading.Thread(target=wait_for_end, daemon=True).start()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    try:
        asyncio.run(run())
    except FoundryError as error:
        write(ClusterView(problem=f"{error.message}. {error.hint}".removesuffix(". ")))
        sys.exit(1)
