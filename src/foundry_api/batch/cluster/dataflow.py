"""The stream of Ray Data: numbers of blocks go to the pool of actors, and come back when done."""

from __future__ import annotations

import warnings
from itertools import cycle
from typing import TYPE_CHECKING, Any

from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.util.annotations import RayDeprecationWarning

from foundry_api.batch.cluster.membership import BLOCKS_AT_ONCE
from foundry_api.batch.cluster.remote import BlockWorker
from foundry_api.batch.cluster.untyped import arrow, data, ray

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from foundry_api.batch.cluster.remote import ActorOptions

__all__ = ["node_selector", "run_blocks"]


def run_blocks(coordinator: Any, options: ActorOptions, nodes: Sequence[str], actors: int) -> None:
    """Have blocks done as they are issued, until the desk says that it is over. It blocks.

    The reading is here, beside the desk: with this node all of it ends anyway.

    Nothing here asks Ray for CPUs: the reading runs as long as the run, and would never begin where
    the actors had all of them; an engine takes what its node has anyway.

    A block whose actor died is done again without end (`max_restarts` and retries are unlimited by
    Ray Data's own default): it is the desk that counts, by lines.

    Args:
        coordinator: Ray's handle of the desk.
        options: How the actors ask.
        nodes: Ray's ids of the nodes where they are started, in turn.
        actors: How many.
    """
    context = DataContext.get_current().copy()
    context.target_max_block_size = 1  # else numbers wait until 128 MB of them have come together
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with DataContext.current(context), warnings.catch_warnings():
        # `ray_remote_args_fn`: it goes in 2.64, and nothing else places actors one by one.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        done = (
            data.read_datasource(
                _BlockIds(coordinator, actors),
                num_cpus=0,
                override_num_blocks=1,
                **node_selector(ray.get_runtime_context().get_node_id()),
            )
            .map_batches(
                BlockWorker,
                fn_constructor_args=(coordinator, options),
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
    """Where the next actor is started. When its node dies, it may be started on any other of them.

    By labels, since the affinity to a node is nothing to Ray where an actor asks for no resources:
    unless it is a hard one, which forbids all other nodes, any node at all is drawn.
    """

    def __init__(self, nodes: Sequence[str]) -> None:
        self._nodes = cycle(nodes)
        self._any = node_selector(f"in({','.join(nodes)})")

    def __call__(self) -> dict[str, Any]:
        return {**node_selector(next(self._nodes)), "fallback_strategy": [self._any]}


def node_selector(nodes: str) -> dict[str, Any]:
    """What has Ray start something on a node, or on one `in(…)` several: their ids."""
    return {"label_selector": {"ray.io/node-id": nodes}}


class _BlockIds(Datasource):
    """One task without end that yields the numbers of blocks as they are issued.

    Done again, as after the death of its node, it yields the same ones: that is what Ray needs to
    go on behind those that came through.
    """

    def __init__(self, coordinator: Any, min_count: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Ray has half its types
        self._coordinator = coordinator
        self._min_count = min_count

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002 - one task, whatever Ray Data would like
        per_task_row_limit: int | None = None,  # noqa: ARG002 - as above
        data_context: Any = None,  # noqa: ARG002 - as above
    ) -> list[ReadTask]:
        coordinator, min_count = self._coordinator, self._min_count
        metadata = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [ReadTask(lambda: _iter_block_ids(coordinator, min_count), metadata)]


def _iter_block_ids(coordinator: Any, min_count: int) -> Iterator[Any]:
    """All of them; and as many as there are actors, or Ray warns that some have nothing to do."""
    known, is_finished = 0, False
    while not is_finished:
        block_count, is_finished = ray.get(coordinator.wait_for_blocks.remote(known))
        for number in range(known, max(block_count, min_count) if is_finished else block_count):
            yield arrow.table({"block": [number]})
        known = block_count
