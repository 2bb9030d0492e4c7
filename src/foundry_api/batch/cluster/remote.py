"""What Ray runs: the desk as an actor, and a station in each actor of Ray Data's pool."""

from __future__ import annotations

import asyncio
import os
import platform
import threading
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from foundry_api.batch.cluster.actor import Station
from foundry_api.batch.cluster.messages import Who
from foundry_api.batch.cluster.untyped import ray
from foundry_api.batch.engine import LocalEngine
from foundry_api.client.client import FoundryAPIClient

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from foundry_api.batch.cluster.messages import Seat
    from foundry_api.batch.engine import BatchEngine, EngineState
    from foundry_api.batch.types import Finished, Work
    from foundry_api.types.errors import FoundryError
    from foundry_api.types.settings import Settings

__all__ = ["ActorOptions", "BlockWorker", "RemoteDesk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorOptions:
    """How the actors ask.

    Attributes:
        settings: Of their clients.
        attempts: How often a line that failed for a passing reason is begun.
        patience_s: Seconds that an actor's service may be away.
    """

    settings: Settings
    attempts: int
    patience_s: float


class RemoteDesk:
    """The desk, as the actors and the driver reach it.

    Args:
        actor: Ray's handle of it.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def seat(self, who: Who) -> Seat | None:
        """See `Desk`."""
        seat: Seat | None = await self._actor.seat.remote(who)
        return seat

    async def take(self, number: int, actor: str) -> Sequence[Work]:
        """See `Desk`."""
        works: Sequence[Work] = await self._actor.take.remote(number, actor)
        return works

    async def deliver(self, actor: str, finished: Sequence[Finished], state: EngineState) -> None:
        """See `Desk`."""
        await self._actor.deliver.remote(actor, finished, state)

    async def attend(self, actor: str, state: EngineState) -> bool:
        """See `Desk`."""
        over: bool = await self._actor.attend.remote(actor, state)
        return over

    async def leave(self, actor: str, error: FoundryError) -> None:
        """See `Desk`."""
        await self._actor.leave.remote(actor, error)

    async def fail(self, error: FoundryError) -> None:
        """See `Desk`."""
        await self._actor.fail.remote(error)


class BlockWorker:
    """Called by Ray Data with the numbers of blocks, from several threads at once.

    Args:
        desk: Ray's handle of the desk.
        options: How to ask.
    """

    def __init__(self, desk: Any, options: ActorOptions) -> None:
        who = _who()
        ray.get(desk.enter.remote(who))
        self._station = Station(RemoteDesk(desk), who, lambda seat: _engine(seat, options))
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._life = asyncio.run_coroutine_threadsafe(self._station.live(), self._loop)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer some blocks."""
        for number in batch["block"].tolist():
            asyncio.run_coroutine_threadsafe(self._station.answer(number), self._loop).result()
        return batch


@asynccontextmanager
async def _engine(seat: Seat, options: ActorOptions) -> AsyncGenerator[BatchEngine]:
    service = "embedded" if seat.url is None else options.settings.service
    settings = replace(options.settings, base_url=seat.url, base_urls=(), service=service)
    async with FoundryAPIClient(settings=settings) as client:
        yield LocalEngine(client, attempts=options.attempts, patience_s=options.patience_s)


def _who() -> Who:
    context = ray.get_runtime_context()
    return Who(
        actor=context.get_actor_id() or "",
        life=f"{os.getpid()}-{uuid.uuid4()}",
        node=context.get_node_id(),
        host=f"{platform.node()} ({ray.util.get_node_ip_address()})",
    )
