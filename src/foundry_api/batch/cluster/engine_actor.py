"""The actor that Ray runs on the nodes of a cluster: an engine, for a batch or for gateways."""

from __future__ import annotations

import asyncio
import importlib
import os
import platform
import threading
import time
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from foundry_api.batch.cluster.actor import RemoteCoordinator, WorkerLoop
from foundry_api.batch.cluster.messages import WorkerId
from foundry_api.batch.cluster.untyped import ray
from foundry_api.batch.engine import LocalEngine
from foundry_api.types.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

    from foundry_api.batch.cluster.messages import Assignment, EngineAddress
    from foundry_api.batch.engine import BatchEngine
    from foundry_api.batch.protocol import BatchClient

__all__ = ["ActorOptions", "EngineActor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorOptions:
    """The options of the engines in the actors of a batch."""

    settings: Settings
    max_attempts: int
    patience_s: float


class EngineActor:
    """An actor with a client of its node's engine, or of a service.

    A batch calls it with the numbers of blocks, from several threads: it belongs to Ray Data's
    pool. Gateways ask it for the address of its engine; without `options`, the environment of its
    node has the settings.
    """

    def __init__(self, options: ActorOptions | None = None, coordinator: Any = None) -> None:
        context = ray.get_runtime_context()
        self._node_address: str = ray.util.get_node_ip_address()
        worker_id = WorkerId(
            actor=context.get_actor_id() or "",
            incarnation=f"{os.getpid()}-{uuid.uuid4()}",
            node=context.get_node_id(),
            host=f"{platform.node()} ({self._node_address})",
        )
        if coordinator is not None:
            ray.get(coordinator.register.remote(worker_id))
        # The engine lives on one event loop in its own thread, for all blocks and requests.
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        if coordinator is not None and options is not None:
            self._worker_loop = WorkerLoop(
                RemoteCoordinator(coordinator), worker_id, partial(_open_engine, options)
            )
            self._run_future = self._start(self._worker_loop.run())
        else:
            # It imports aiohttp, which a batch does not need.
            from foundry_api.batch.cluster.engine_lease import EngineLease  # noqa: PLC0415

            actor = context.current_actor
            self._lease = EngineLease(
                partial(_open_client, Settings.from_environment(), None),
                end=lambda: ray.kill(actor, no_restart=True),
            )
            self._lease_future = self._start(self._lease.wait_and_end())

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Process blocks of a batch."""
        for number in batch["block"].tolist():
            self._start(self._worker_loop.process_block(number)).result()
        return batch

    def get_address(self, port: int) -> EngineAddress:
        """Return where gateways reach the engine, and keep it for the time of a lease.

        The first call starts the engine, and serves it at a port; 0 for any free one.
        """
        address: EngineAddress = self._start(self._lease.renew(self._node_address, port)).result()
        return address

    def hold(self, wait_s: float) -> None:
        """Return after a time. Who waits for it learns at once that the actor has died."""
        time.sleep(wait_s)

    def _start(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)


def _open_client(settings: Settings, url: str | None) -> AbstractAsyncContextManager[BatchClient]:
    """Return a client of a service, or with an engine of its own."""
    service = "embedded" if url is None else settings.service
    settings = replace(settings, base_url=url, base_urls=(), service=service)
    # By its public name: the client imports this package, so this package cannot import the client.
    client: AbstractAsyncContextManager[BatchClient] = importlib.import_module(
        "foundry_api"
    ).FoundryAPIClient(settings=settings)
    return client


@asynccontextmanager
async def _open_engine(
    options: ActorOptions, assignment: Assignment
) -> AsyncGenerator[BatchEngine]:
    async with _open_client(options.settings, assignment.url) as client:
        yield LocalEngine(client, max_attempts=options.max_attempts, patience_s=options.patience_s)
