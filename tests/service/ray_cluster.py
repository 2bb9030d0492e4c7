"""A Ray cluster whose nodes are processes on this machine."""

from __future__ import annotations

import tempfile
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

STORE_BYTES = 80 * 2**20
"""About the smallest object store that Ray accepts."""

FAST_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 3,
}
"""A node that does not answer is dead after 2 s instead of 20 s. A slow node, as on a busy machine,
still has 10 s for each answer."""


class Nodes:
    """A Ray cluster with a head without CPUs, and nodes with one CPU each."""

    def __init__(self, cluster: Any, variables: Mapping[str, str]) -> None:
        self._cluster = cluster
        self._variables = variables
        self.address: str = cluster.address

    def set_count(self, count: int = 2) -> None:
        """Add nodes until there are `count`, not counting the head."""
        for _ in range(count - len(self._cluster.worker_nodes)):
            self._cluster.add_node(
                num_cpus=1, object_store_memory=STORE_BYTES, env_vars=dict(self._variables)
            )

    @contextmanager
    def add_node(self, **variables: str) -> Iterator[None]:
        """Add a node with additional environment variables; remove it at the end of the block."""
        node = self._cluster.add_node(
            num_cpus=1, object_store_memory=STORE_BYTES, env_vars=variables
        )
        try:
            yield
        finally:
            self._cluster.remove_node(node, allow_graceful=False)

    def kill(self) -> None:
        """Kill all processes of a node, including its actors and their engines."""
        node = max(self._cluster.worker_nodes, key=lambda worker: worker.node_id)
        (raylet,) = node.all_processes["raylet"]
        raylet_process = psutil.Process(raylet.process.pid)
        for process in [raylet_process, *raylet_process.children(recursive=True)]:
            process.kill()
        self._cluster.remove_node(node, allow_graceful=False)


@contextmanager
def run_ray_cluster(**variables: str) -> Iterator[Nodes]:
    """Run a cluster without nodes, whose files are in a temporary directory.

    The nodes that are added later have these environment variables.

    Without RAY_TMPDIR, Ray's `Cluster` writes its address into Ray's default directory, and fails
    if that does not exist.
    """
    with (
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory,
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
    ):
        patch.setenv("RAY_TMPDIR", directory)
        warnings.simplefilter("ignore")
        from ray.cluster_utils import Cluster  # noqa: PLC0415 - takes 0.5 s

        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": STORE_BYTES,
                "include_dashboard": False,
                "_system_config": FAST_HEALTH_CHECKS,
            },
        )
        try:
            yield Nodes(cluster, variables)
        finally:
            cluster.shutdown()
