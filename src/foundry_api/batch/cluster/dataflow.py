"""The pipeline of Ray Data: block numbers go to the actors, and come back when they are done."""

from __future__ import annotations

import warnings
from importlib import import_module
from itertools import cycle
from typing import TYPE_CHECKING, Any

from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.util.annotations import RayDeprecationWarning

from foundry_api.batch.cluster.engine_actor import EngineActor
from foundry_api.batch.cluster.membership import BLOCKS_AT_ONCE
from foundry_api.batch.cluster.nodes import make_node_selector
from foundry_api.batch.cluster.untyped import ray

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from foundry_api.batch.cluster.engine_actor import ActorOptions

__all__ = ["run_blocks"]

# Half of their types are unknown.
arrow: Any = import_module("pyarrow")
data: Any = import_module("ray.data")


def run_blocks(coordinator: Any, options: ActorOptions, nodes: Sequence[str], actors: int) -> None:
    """Process blocks as they are issued, until the coordinator reports the end. Blocks."""
    # A block whose actor crashed is processed again without a limit (Ray Data's default for
    # `max_restarts` and retries): the coordinator counts crashes, by lines.
    context = DataContext.get_current().copy()
    context.target_max_block_size = 1  # else numbers wait until there are 128 MB of them
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with DataContext.current(context), warnings.catch_warnings():
        # `ray_remote_args_fn` will be removed in 2.64, but nothing else places actors one by one.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        done = (
            data.read_datasource(
                _BlockIds(coordinator, actors),
                # No CPUs are requested. The reader runs as long as the run, and would never start
                # if the actors had all CPUs; an engine uses those of its node anyway.
                num_cpus=0,
                override_num_blocks=1,
                # The reader is next to the coordinator: without this node, the run ends anyway.
                **make_node_selector(ray.get_runtime_context().get_node_id()),
            )
            .map_batches(
                EngineActor,
                fn_constructor_args=(options, coordinator),
                batch_size=None,
                num_cpus=0,
                compute=ActorPoolStrategy(
                    size=actors,
                    max_tasks_in_flight_per_actor=BLOCKS_AT_ONCE,
                    max_concurrent_calls_per_actor=BLOCKS_AT_ONCE,
                    enable_true_multi_threading=True,
                ),
                ray_remote_args_fn=_SpreadPlacement(nodes),
            )
            .iter_internal_ref_bundles()
        )
    for _ in done:
        pass


class _SpreadPlacement:
    """Places actors on the nodes in turn; a lost one may restart on any of them."""

    # By labels: Ray ignores a soft affinity to a node for actors that request no resources, and a
    # hard one forbids all other nodes.

    def __init__(self, nodes: Sequence[str]) -> None:
        self._nodes = cycle(nodes)
        self._any = make_node_selector(f"in({','.join(nodes)})")

    def __call__(self) -> dict[str, Any]:
        return {**make_node_selector(next(self._nodes)), "fallback_strategy": [self._any]}


class _BlockIds(Datasource):
    """A data source with one task, which yields block numbers as they are issued."""

    # If its node is lost and the task runs again, it yields the same numbers. Ray needs that in
    # order to continue after those that it has processed.

    def __init__(self, coordinator: Any, min_count: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Ray is only partly typed
        self._coordinator = coordinator
        self._min_count = min_count

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002 - always one task
        per_task_row_limit: int | None = None,  # noqa: ARG002 - as above
        data_context: Any = None,  # noqa: ARG002 - as above
    ) -> list[ReadTask]:
        coordinator, min_count = self._coordinator, self._min_count
        metadata = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [ReadTask(lambda: _iter_block_ids(coordinator, min_count), metadata)]


def _iter_block_ids(coordinator: Any, min_count: int) -> Iterator[Any]:
    known, is_finished = 0, False
    while not is_finished:
        block_count, is_finished = ray.get(coordinator.wait_for_blocks.remote(known))
        # At the end there are at least as many numbers as actors: else Ray warns of idle ones.
        for number in range(known, max(block_count, min_count) if is_finished else block_count):
            yield arrow.table({"block": [number]})
        known = block_count
