"""The classes that Ray runs in its processes."""

from __future__ import annotations

import asyncio
import importlib
import os
import platform
import threading
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from foundry_api.batch.cluster.actor import RemoteCoordinator, WorkerLoop
from foundry_api.batch.cluster.messages import WorkerId
from foundry_api.batch.cluster.untyped import ray
from foundry_api.batch.engine import LocalEngine

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from foundry_api.batch.cluster.messages import Assignment
    from foundry_api.batch.engine import BatchEngine
    from foundry_api.batch.protocol import BatchClient
    from foundry_api.types.settings import Settings

__all__ = ["ActorOptions", "BlockWorker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorOptions:
    """The options of the engines in the actors."""

    settings: Settings
    max_attempts: int
    patience_s: float


class BlockWorker:
    """The actor of Ray Data's pool, which calls it with block numbers from several threads."""

    def __init__(self, coordinator: Any, options: ActorOptions) -> None:
        context = ray.get_runtime_context()
        worker_id = WorkerId(
            actor=context.get_actor_id() or "",
            incarnation=f"{os.getpid()}-{uuid.uuid4()}",
            node=context.get_node_id(),
            host=f"{platform.node()} ({ray.util.get_node_ip_address()})",
        )
        ray.get(coordinator.register.remote(worker_id))
        self._worker_loop = WorkerLoop(
            RemoteCoordinator(coordinator),
            worker_id,
            lambda assignment: _open_engine(assignment, options),
        )
        # The engine lives on one event loop in its own thread, for all blocks.
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._run_future = asyncio.run_coroutine_threadsafe(self._worker_loop.run(), self._loop)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        for number in batch["block"].tolist():
            asyncio.run_coroutine_threadsafe(
                self._worker_loop.process_block(number), self._loop
            ).result()
        return batch


@asynccontextmanager
async def _open_engine(
    assignment: Assignment, options: ActorOptions
) -> AsyncGenerator[BatchEngine]:
    service = "embedded" if assignment.url is None else options.settings.service
    settings = replace(options.settings, base_url=assignment.url, base_urls=(), service=service)
    # By its public name: the client imports this package, so this package cannot import the client.
    client_class = importlib.import_module("foundry_api").FoundryAPIClient
    client: BatchClient
    async with client_class(settings=settings) as client:
        yield LocalEngine(client, max_attempts=options.max_attempts, patience_s=options.patience_s)
