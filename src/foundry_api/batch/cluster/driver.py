"""The driver of a cluster: starts a run, feeds its lines, and yields its results."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from foundry_api.batch.async_tools import closing_iter
from foundry_api.batch.cluster.cluster import Node, find_usable_nodes
from foundry_api.batch.cluster.coordinator import ChangeNotifier, Coordinator
from foundry_api.batch.cluster.dataflow import run_blocks
from foundry_api.batch.cluster.nodes import get_version, list_nodes, wait_for
from foundry_api.batch.cluster.untyped import ray
from foundry_api.batch.dedupe import make_request_key
from foundry_api.batch.dispatch import get_model
from foundry_api.batch.engine import EngineState
from foundry_api.batch.queues import GroupedQueue
from foundry_api.batch.response_line import make_error_result
from foundry_api.batch.types import WorkItem
from foundry_api.types.errors import BatchError, ServiceCrashed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable

    from foundry_api.batch.cluster.engine_actor import ActorOptions
    from foundry_api.batch.cluster.messages import CollectedResults, LostLine
    from foundry_api.batch.types import BatchLineResult

__all__ = ["ClusterRunner", "iter_blocks"]

# How long a block waits for further lines after its first one, if the input is slow.
GATHER_S = 0.05

# Of the coordinator: each actor has a few calls that wait there.
MAX_CONCURRENT_CALLS = 100_000

# How long the actors may take to notice the end of the run.
SHUTDOWN_TIMEOUT_S = 10.0


class ClusterRunner:
    """Runs lines on the cluster that this process is connected to. Used once."""

    def __init__(
        self, options: ActorOptions, on_notice: Callable[[str], None], *, dedupe: bool
    ) -> None:
        self._options = options
        self._on_notice = on_notice
        self._dedupe = dedupe
        self._last_collected: CollectedResults | None = None
        self._open_lines = 0

    async def run(self, items: AsyncIterable[WorkItem]) -> AsyncGenerator[BatchLineResult]:
        """Yield each result once, as lines finish."""
        nodes = [
            node.id
            for node in await find_usable_nodes(_list_worker_nodes(), get_version, self._on_notice)
        ]
        urls = tuple(
            settings.base_url
            for settings in self._options.settings.per_service()
            if settings.base_url is not None
        )
        actors = len(urls or nodes)
        coordinator = self._start_coordinator(actors, urls)
        dataflow = asyncio.create_task(_run_dataflow(coordinator, self._options, nodes, actors))
        feed = asyncio.create_task(self._feed(items, coordinator))
        try:
            is_finished = False
            while not is_finished:
                collected: CollectedResults = await _await_first(
                    coordinator.collect_results.remote(), {dataflow, feed}
                )
                self._last_collected, is_finished = collected, collected.is_finished
                for notice in collected.notices:
                    self._on_notice(notice)
                results = [*collected.results, *map(_make_lost_result, collected.lost)]
                self._open_lines -= len(results)
                for result in results:
                    yield result
                if collected.failure is not None:
                    raise collected.failure
        finally:
            feed.cancel()
            await asyncio.gather(feed, return_exceptions=True)
            # Let the actors notice the end, and wait for them.
            await wait_for(coordinator.cancel.remote())
            await asyncio.wait({dataflow}, timeout=SHUTDOWN_TIMEOUT_S)
            ray.kill(coordinator)
            await asyncio.gather(dataflow, return_exceptions=True)

    def get_state(self) -> EngineState:
        """Return the sum of the states that the actors last reported."""
        states = self._last_collected.states if self._last_collected else ()
        in_flight = sum(state.in_flight for _, state in states)
        return EngineState(
            in_flight=in_flight,
            queued=max(0, self._open_lines - in_flight),
            limit=sum(state.limit or 0 for _, state in states) or None,
            services=tuple(
                (f"{name} on {host}", service)
                for host, state in states
                for name, service in state.services
            ),
        )

    def _start_coordinator(self, actors: int, urls: tuple[str, ...]) -> Any:
        # On this node: the run ends with it anyway.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(
            num_cpus=0, max_concurrency=MAX_CONCURRENT_CALLS, scheduling_strategy=here
        )(Coordinator)
        model = self._options.settings.model
        get_key = partial(_make_key, default=model) if self._dedupe else None
        return actor.remote(actors, urls, max_attempts=self._options.max_attempts, get_key=get_key)

    async def _feed(self, items: AsyncIterable[WorkItem], coordinator: Any) -> None:
        async def wait_for_capacity() -> int:
            lines: int = await coordinator.wait_for_capacity.remote()
            return lines

        model = self._options.settings.model
        async with aclosing(
            iter_blocks(items, wait_for_capacity, lambda item: get_model(item.request, model))
        ) as line_blocks:
            async for block in line_blocks:
                self._open_lines += len(block)
                # Without `raw`, which only the reader of the input needs.
                stripped = [
                    WorkItem(msgspec.structs.replace(item.line, raw=None), item.request)
                    for item in block
                ]
                await coordinator.submit.remote(stripped)
        await coordinator.close_input.remote()


async def _run_dataflow(
    coordinator: Any, options: ActorOptions, nodes: list[str], actors: int
) -> None:
    try:
        await asyncio.to_thread(run_blocks, coordinator, options, nodes, actors)
    except Exception as error:
        raise _wrap_error(error) from error


async def _await_first(ref: Any, others: set[asyncio.Task[None]]) -> Any:
    """Await a remote call, unless one of the other tasks fails first."""
    task = asyncio.ensure_future(wait_for(ref))
    try:
        waiting = {task, *others}
        while not task.done():
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for finished_task in done - {task}:
                finished_task.result()
                waiting.discard(finished_task)
        return task.result()
    except ray.exceptions.RayError as error:
        raise _wrap_error(error) from error
    finally:
        task.cancel()


def _wrap_error(error: Exception) -> BatchError:
    if isinstance(error, ray.exceptions.ActorUnschedulableError):
        return BatchError(
            "all nodes of the cluster that worked on the batch are lost",
            hint="See `ray status`. Once nodes are back, the same command resumes the batch.",
        )
    message = str(error).strip().rpartition("\n")[2]
    return BatchError(f"the Ray cluster failed: {message}", hint="See Ray's logs.")


def _list_worker_nodes() -> list[Node]:
    nodes = list_nodes()
    # A node without CPUs, such as a head with `--num-cpus=0`, is not meant to run work.
    workers = [node for node in nodes if node.resources.get("CPU")]
    if not workers:
        raise BatchError(
            f"none of the cluster's {len(nodes)} nodes offers CPUs",
            hint="Add one: `ray start --address=… --num-cpus=…`.",
        )
    return workers


def _make_key(item: WorkItem, default: str) -> bytes:
    return make_request_key(item.request, get_model(item.request, default))


def _make_lost_result(lost: LostLine) -> BatchLineResult:
    line, request = lost.item.line, lost.item.request
    error = ServiceCrashed(
        f"its actor crashed {lost.crashes} times",
        hint="Send it alone: it may be the cause of the crashes. See Ray's logs.",
    )
    return make_error_result(line.index, line.digest, request.custom_id, error, at=time.time())


async def iter_blocks(
    items: AsyncIterable[WorkItem],
    wait_for_capacity: Callable[[], Awaitable[int]],
    get_model: Callable[[WorkItem], str],
) -> AsyncGenerator[tuple[WorkItem, ...]]:
    """Yield blocks with lines for one model each, if there are enough; ends at a capacity of 0."""
    buffer = _LineBuffer(get_model)
    reading = asyncio.create_task(buffer.fill(items))
    try:
        while lines := await wait_for_capacity():
            block = await buffer.take(lines)
            if not block:
                await reading  # raises the error that ended the reading, if there is one
                return
            yield block
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading


class _LineBuffer:
    """Lines that were read and wait for a block."""

    def __init__(self, get_model: Callable[[WorkItem], str]) -> None:
        self._get_model = get_model
        self._queue: GroupedQueue[WorkItem] = GroupedQueue()
        self._notifier = ChangeNotifier()
        self._input_done = False

    async def fill(self, items: AsyncIterable[WorkItem]) -> None:
        try:
            async with closing_iter(items):
                async for item in items:
                    self._queue.put(item, self._get_model(item))
                    self._notifier.notify()
                    await self._notifier.wait_for(lambda: len(self._queue) < self._queue.capacity)
        finally:
            self._input_done = True
            self._notifier.notify()

    async def take(self, lines: int) -> tuple[WorkItem, ...]:
        await self._notifier.wait_for(lambda: self._input_done or len(self._queue))
        with suppress(TimeoutError):
            async with asyncio.timeout(GATHER_S):
                await self._notifier.wait_for(lambda: self._input_done or len(self._queue) >= lines)
        taken = [item for _ in range(lines) if (item := self._queue.take()) is not None]
        self._notifier.notify()
        return tuple(taken)
