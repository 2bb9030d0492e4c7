"""The worker loop of an actor: one engine that answers the lines of all blocks."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from foundry_api.types.errors import BatchError, FoundryError, ServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from foundry_api.batch.cluster.messages import Assignment, WorkerId
    from foundry_api.batch.engine import BatchEngine, EngineState
    from foundry_api.batch.types import BatchLineResult, WorkItem

__all__ = ["RemoteCoordinator", "WorkerLoop"]

# Results wait this long to be delivered together: each delivery is work for three processes.
FLUSH_DELAY_S = 0.1

# The same if no lines wait here, so that the next ones arrive soon.
FLUSH_DELAY_IDLE_S = 0.01


class RemoteCoordinator:
    """The methods of `Coordinator` that an actor calls, through Ray's handle of it."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def assign(self, worker_id: WorkerId) -> Assignment | None:
        assignment: Assignment | None = await self._actor.assign.remote(worker_id)
        return assignment

    async def claim(self, number: int, actor: str) -> Sequence[WorkItem]:
        items: Sequence[WorkItem] = await self._actor.claim.remote(number, actor)
        return items

    async def deliver(
        self, actor: str, results: Sequence[BatchLineResult], state: EngineState
    ) -> None:
        await self._actor.deliver.remote(actor, results, state)

    async def heartbeat(self, actor: str, state: EngineState) -> bool:
        is_finished: bool = await self._actor.heartbeat.remote(actor, state)
        return is_finished

    async def unregister(self, actor: str, error: FoundryError) -> None:
        await self._actor.unregister.remote(actor, error)

    async def fail(self, error: FoundryError) -> None:
        await self._actor.fail.remote(error)


class WorkerLoop:
    """Processes blocks, several of them concurrently."""

    # The engine reads a single stream of lines for the whole run. So what it learns about its
    # service, about lines that crash it and about identical lines applies to all blocks.

    def __init__(
        self,
        coordinator: RemoteCoordinator,
        worker_id: WorkerId,
        open_engine: Callable[[Assignment], AbstractAsyncContextManager[BatchEngine]],
    ) -> None:
        self._coordinator = coordinator
        self._worker_id = worker_id
        self._open_engine = open_engine
        self._incoming: asyncio.Queue[WorkItem] = asyncio.Queue()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._results: list[BatchLineResult] = []
        self._has_results = asyncio.Event()
        self._ended = asyncio.Event()

    async def process_block(self, number: int) -> None:
        """Claim a block, and wait until its lines are answered or the work has ended."""
        items = await self._coordinator.claim(number, self._worker_id.actor)
        if self._ended.is_set():
            return
        for item in items:
            if item.line.index not in self._waiting:
                self._waiting[item.line.index] = asyncio.get_running_loop().create_future()
                self._incoming.put_nowait(item)
        await asyncio.gather(*(self._waiting[item.line.index] for item in items))

    async def run(self) -> None:
        """Work until the coordinator reports the end. Called once."""
        try:
            assignment = await self._coordinator.assign(self._worker_id)
            if assignment is not None:
                async with self._open_engine(assignment) as engine:
                    await self._serve(engine)
        except Exception as error:
            if isinstance(error, FoundryError):
                await self._coordinator.fail(error)
            else:
                await self._coordinator.fail(
                    BatchError(
                        f"an actor on {self._worker_id.host} failed: "
                        f"{type(error).__name__}: {error}"
                    )
                )
            raise
        finally:
            self._ended.set()
            self._resolve_waiting(tuple(self._waiting))

    async def _serve(self, engine: BatchEngine) -> None:
        async def send_heartbeats() -> None:
            while not await self._coordinator.heartbeat(self._worker_id.actor, engine.get_state()):
                pass

        tasks = {
            asyncio.create_task(self._run_engine(engine)),
            asyncio.create_task(self._deliver(engine)),
            asyncio.create_task(send_heartbeats()),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_engine(self, engine: BatchEngine) -> None:
        try:
            async with aclosing(engine.run(self._iter_items())) as answers:
                async for result in answers:
                    self._results.append(result)
                    self._has_results.set()
        except FoundryError as error:
            # A fault of the service concerns this actor only, and others get its lines. Any other
            # error, such as a wrong argument, would occur in all actors.
            if isinstance(error, ServiceError):
                await self._coordinator.unregister(self._worker_id.actor, error)
            else:
                await self._coordinator.fail(error)
            self._resolve_waiting(tuple(self._waiting))
            await self._ended.wait()

    async def _iter_items(self) -> AsyncGenerator[WorkItem]:
        while True:
            yield await self._incoming.get()

    async def _deliver(self, engine: BatchEngine) -> None:
        while True:
            await self._has_results.wait()
            await asyncio.sleep(FLUSH_DELAY_S if engine.get_state().queued else FLUSH_DELAY_IDLE_S)
            self._has_results.clear()
            results, self._results = self._results, []
            await self._coordinator.deliver(self._worker_id.actor, results, engine.get_state())
            self._resolve_waiting([result.index for result in results])

    def _resolve_waiting(self, indexes: Sequence[int]) -> None:
        for index in indexes:
            future = self._waiting.pop(index, None)
            if future is not None and not future.done():
                future.set_result(None)
