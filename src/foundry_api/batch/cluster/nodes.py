"""The nodes of a cluster, and the placement of actors on them. Imports Ray."""

from __future__ import annotations

import asyncio
from pkgutil import resolve_name
from typing import Any

from foundry_api.batch.cluster.cluster import Node
from foundry_api.batch.cluster.untyped import ray

__all__ = ["get_version", "list_nodes", "make_node_selector", "wait_for"]


def list_nodes() -> list[Node]:
    """Return the nodes of the cluster that are alive. Blocks."""
    return [
        Node(
            node["NodeID"],
            f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
            label=node["NodeName"],
            labels=node["Labels"],
            resources=node["Resources"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def make_node_selector(nodes: str) -> dict[str, Any]:
    """Return Ray's options to start something on a node, or on one of `in(…)`."""
    return {"label_selector": {"ray.io/node-id": nodes}}


async def get_version(node: str) -> str:
    """Return the version of this package on a node.

    Raises ImportError, as Ray does, if the node has none.
    """
    # The remote function is one of Python's own: the node may not have this package.
    remote_function = ray.remote(num_cpus=0, **make_node_selector(node))(resolve_name)
    answer = remote_function.remote("foundry_api._version:__version__")
    try:
        version: str = await wait_for(answer)
    except asyncio.CancelledError:
        ray.cancel(answer, force=True)
        raise
    return version


async def wait_for(ref: Any) -> Any:
    """Return the result of a remote call. asyncio makes a task only of a coroutine."""
    return await ref
