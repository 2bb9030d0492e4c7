"""One run over a cluster, seen from the driver."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress
from functools import partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import msgspec
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from foundry_api.batch.async_tools import closed_after
from foundry_api.batch.cluster.cluster import Node, able
from foundry_api.batch.cluster.coordinator import Change, Desk
from foundry_api.batch.cluster.dataflow import on_nodes, run_blocks
from foundry_api.batch.cluster.untyped import ray
from foundry_api.batch.dedupe import request_key
from foundry_api.batch.dispatch import model_of
from foundry_api.batch.engine import EngineState
from foundry_api.batch.queues import Waiting
from foundry_api.batch.response_line import failed_line
from foundry_api.batch.types import Work
from foundry_api.types.errors import BatchError, ServiceCrashed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable

    from foundry_api.batch.cluster.messages import Collected, Lost
    from foundry_api.batch.cluster.remote import ActorOptions
    from foundry_api.batch.types import Finished
    from foundry_api.types.settings import Settings

__all__ = ["ClusterRun", "blocks"]


GATHER_S = 0.05
"""How long a block waits for further lines after its first one, where they come slowly."""


async def blocks(
    works: AsyncIterable[Work],
    room: Callable[[], Awaitable[int]],
    model_of: Callable[[Work], str],
) -> AsyncGenerator[tuple[Work, ...]]:
    """Lines in blocks, those for the same model together.

    Args:
        works: The lines.
        room: Waits until a block is wanted, and says of how many lines; 0 ends it.
        model_of: The model that a line is for.
    """
    shelf = _Shelf(model_of)
    reading = asyncio.create_task(shelf.fill(works))
    try:
        while lines := await room():
            block = await shelf.take(lines)
            if not block:
                await reading  # raises what the reading failed of
                return
            yield block
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading


class _Shelf:
    """Lines that were read and wait."""

    def __init__(self, model_of: Callable[[Work], str]) -> None:
        self._model_of = model_of
        self._waiting: Waiting[Work] = Waiting()
        self._change = Change()
        self._full = False

    async def fill(self, works: AsyncIterable[Work]) -> None:
        try:
            async with closed_after(works):
                async for work in works:
                    self._waiting.put(work, self._model_of(work))
                    self._change.tell()
                    await self._change.until(lambda: len(self._waiting) < self._waiting.bound)
        finally:
            self._full = True
            self._change.tell()

    async def take(self, lines: int) -> tuple[Work, ...]:
        await self._change.until(lambda: self._full or len(self._waiting))
        with suppress(TimeoutError):
            async with asyncio.timeout(GATHER_S):
                await self._change.until(lambda: self._full or len(self._waiting) >= lines)
        taken = [work for _ in range(lines) if (work := self._waiting.take()) is not None]
        self._change.tell()
        return tuple(taken)


CALLS_AT_ONCE = 100_000
"""Of the desk: each actor has a few that wait."""

END_S = 10.0
"""Seconds that the actors may take to see that it is over."""


class ClusterRun:
    """Answers lines on the cluster that this process is part of. To be used once.

    Args:
        options: How the actors ask.
        tell: Called with sentences for people.
        dedupe: Whether lines that are alike are asked once, wherever they lie.
    """

    def __init__(self, options: ActorOptions, tell: Callable[[str], None], *, dedupe: bool) -> None:
        self._options = options
        self._tell = tell
        self._dedupe = dedupe
        self._last: Collected | None = None
        self._open = 0

    async def answers(self, works: AsyncIterable[Work]) -> AsyncGenerator[Finished]:
        """The lines as they finish; each comes once."""
        nodes = [node.id for node in await able(_workers(), _version_on, self._tell)]
        urls = _addresses(self._options.settings)
        actors = len(urls or nodes)
        desk = self._desk(actors, urls)
        flow = asyncio.create_task(_flow(desk, self._options, nodes, actors))
        feed = asyncio.create_task(self._feed(works, desk))
        try:
            async with aclosing(self._collected(desk, {flow, feed})) as collections:
                async for collected in collections:
                    for finished in self._told(collected):
                        yield finished
                    if collected.failure is not None:
                        raise collected.failure
        finally:
            feed.cancel()
            await asyncio.gather(feed, return_exceptions=True)
            await _end(desk, flow)

    def state(self) -> EngineState:
        """What goes on now, as the actors last told."""
        states = self._last.states if self._last else ()
        in_flight = sum(state.in_flight for _, state in states)
        return EngineState(
            in_flight=in_flight,
            queued=max(0, self._open - in_flight),
            limit=sum(state.limit or 0 for _, state in states) or None,
            services=tuple(
                (f"{name} on {host}", service)
                for host, state in states
                for name, service in state.services
            ),
        )

    def _desk(self, actors: int, urls: tuple[str, ...]) -> Any:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(num_cpus=0, max_concurrency=CALLS_AT_ONCE, scheduling_strategy=here)(
            Desk
        )
        model = self._options.settings.model
        key_of = partial(_key, default=model) if self._dedupe else None
        return actor.remote(actors, urls, attempts=self._options.attempts, key_of=key_of)

    async def _feed(self, works: AsyncIterable[Work], desk: Any) -> None:
        async def room() -> int:
            lines: int = await desk.room.remote()
            return lines

        model = self._options.settings.model
        async with aclosing(
            blocks(works, room, lambda work: model_of(work.request, model))
        ) as them:
            async for block in them:
                self._open += len(block)
                await desk.put.remote([_bare(work) for work in block])
        await desk.finish.remote()

    async def _collected(
        self, desk: Any, others: set[asyncio.Task[None]]
    ) -> AsyncGenerator[Collected]:
        over = False
        while not over:
            collected = await _first(_awaited(desk.collect.remote()), others)
            self._last, over = collected, collected.over
            yield collected

    def _told(self, collected: Collected) -> list[Finished]:
        for sentence in collected.news:
            self._tell(sentence)
        finished = [*collected.finished, *map(_given_up, collected.lost)]
        self._open -= len(finished)
        return finished


async def _flow(desk: Any, options: ActorOptions, nodes: list[str], actors: int) -> None:
    try:
        await asyncio.to_thread(run_blocks, desk, options, nodes, actors)
    except Exception as error:
        raise _broken(error) from error


async def _awaited(ref: Any) -> Any:
    return await ref


async def _first(call: Any, others: set[asyncio.Task[None]]) -> Any:
    """What a call gives, unless one of the others fails before."""
    task = asyncio.ensure_future(call)
    try:
        waiting = {task, *others}
        while not task.done():
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for each in done - {task}:
                each.result()
                waiting.discard(each)
        return task.result()
    except ray.exceptions.RayError as error:
        raise _broken(error) from error
    finally:
        task.cancel()


def _broken(error: Exception) -> BatchError:
    if isinstance(error, ray.exceptions.ActorUnschedulableError):
        return BatchError(
            "all nodes of the cluster that worked on it are lost",
            hint="See `ray status`. When there are nodes again, the same command goes on.",
        )
    told = str(error).strip().rpartition("\n")[2]
    return BatchError(f"the Ray cluster failed: {told}", hint="Ray's logs tell more.")


def _bare(work: Work) -> Work:
    """Without what it was read from, which nobody needs over there."""
    return Work(msgspec.structs.replace(work.line, raw=None), work.request)


def _addresses(settings: Settings) -> tuple[str, ...]:
    return tuple(each.base_url for each in settings.each() if each.base_url is not None)


def _workers() -> list[Node]:
    """The nodes that are there for work: those that offer CPUs."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    workers = [
        Node(node["NodeID"], f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})")
        for node in nodes
        if node["Resources"].get("CPU")
    ]
    if not workers:
        raise BatchError(
            f"none of the cluster's {len(nodes)} nodes offers CPUs",
            hint="Add one: `ray start --address=… --num-cpus=…`.",
        )
    return workers


async def _version_on(node: str) -> str:
    """The package's version there. What asks is Python's own: the package may not be there."""
    asking = ray.remote(num_cpus=0, **on_nodes(node))(resolve_name)
    answer = asking.remote("foundry_api._version:__version__")
    try:
        version: str = await answer
    except asyncio.CancelledError:
        ray.cancel(answer, force=True)
        raise
    return version


def _key(work: Work, default: str) -> bytes:
    return request_key(work.request, model_of(work.request, default))


async def _end(desk: Any, flow: asyncio.Task[None]) -> None:
    """Let the actors see that it is over, and wait for them."""
    await _awaited(desk.abandon.remote())
    await asyncio.wait({flow}, timeout=END_S)
    ray.kill(desk)
    await asyncio.gather(flow, return_exceptions=True)


def _given_up(lost: Lost) -> Finished:
    line, request = lost.work.line, lost.work.request
    error = ServiceCrashed(
        f"the actor that asked it died {lost.deaths} times",
        hint="Send it alone: it may be what they die of. Ray's logs tell more.",
    )
    return failed_line(line.index, line.digest, request.custom_id, error, at=time.time())
