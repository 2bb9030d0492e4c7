"""A Ray cluster whose nodes are processes of this machine."""

from __future__ import annotations

import tempfile
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

STORE_BYTES = 80 * 2**20
"""About the least that Ray takes."""

FAST_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 3,
}
"""A node that does not answer at all is dead in two seconds, not in twenty. One that only takes its
time, as on a busy machine, has ten seconds for each answer, as it always has."""


class Nodes:
    """A head that offers no CPUs, and nodes of one CPU each.

    Args:
        cluster: Ray's own.
    """

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.address: str = cluster.address

    def set_count(self, count: int = 2) -> None:
        """Have so many nodes, beside the head."""
        for _ in range(count - len(self._cluster.worker_nodes)):
            self._cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)

    @contextmanager
    def add_node(self, **variables: str) -> Iterator[None]:
        """One node more for a while, whose processes have an environment of their own."""
        node = self._cluster.add_node(
            num_cpus=1, object_store_memory=STORE_BYTES, env_vars=variables
        )
        try:
            yield
        finally:
            self._cluster.remove_node(node, allow_graceful=False)

    def kill(self) -> None:
        """End a node's processes, its actors and their engines among them, without a word."""
        node = max(self._cluster.worker_nodes, key=lambda worker: worker.node_id)
        (raylet,) = node.all_processes["raylet"]
        family = psutil.Process(raylet.process.pid)
        for process in [family, *family.children(recursive=True)]:
            process.kill()
        self._cluster.remove_node(node, allow_graceful=False)


@contextmanager
def run_ray_cluster() -> Iterator[Nodes]:
    """A cluster without nodes. All its files are in a directory of its own.

    Ray's `Cluster` writes its address into the machine's own directory of Ray unless the variable
    says otherwise, and fails where no Ray ever ran.
    """
    with (
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory,
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
    ):
        patch.setenv("RAY_TMPDIR", directory)
        warnings.simplefilter("ignore")
        from ray.cluster_utils import Cluster  # noqa: PLC0415 - half a second

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
            yield Nodes(cluster)
        finally:
            cluster.shutdown()
