"""Replaces this program's own engine while it reads abandoned prompts, if a second one is allowed.

Only the end of its process stops an engine that reads a prompt. New calls go to a fresh engine at
once. The old one is ended when the calls that it still answers have ended.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from foundry_api.types.errors import FoundryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.core.abandoned_reads import AbandonedReads
    from foundry_api.core.connection import Connection
    from foundry_api.engine.supervisor import EngineHost
    from foundry_api.resilience.limiter import Limiter

__all__ = ["EngineReplacement"]

log = logging.getLogger("foundry_api")

# Starting an engine and loading a small model takes about a second.
MIN_REMAINING_S = 2.0

# For the calls that the old engine still answers.
MAX_DRAIN_S = 3600.0


class Service(Protocol):
    """What is used of a `ServiceHandle`."""

    limiter: Limiter
    abandoned_reads: AbandonedReads
    connection: Connection | None

    def invalidate(self, connection: Connection) -> None: ...


class EngineReplacement:
    """Replaces the engine of one service.

    `retire_host` starts another host for the next connection, and returns the old one.
    """

    def __init__(self, service: Service, retire_host: Callable[[], EngineHost | None]) -> None:
        self._service = service
        self._retire_host = retire_host
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Replace the engine in the background, unless that would hardly help or lose data."""
        connection = self._service.connection
        is_replacing = self._task is not None and not self._task.done()
        if connection is None or is_replacing or not self._may_replace(connection):
            return
        self._task = asyncio.create_task(self._replace(connection))

    async def aclose(self) -> None:
        """End the old engine now, if there is one."""
        task, self._task = self._task, None
        # A task of another event loop, one that has ended, can't be awaited here.
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait({task})

    def _may_replace(self, connection: Connection) -> bool:
        abandoned = self._service.limiter.abandoned
        remaining_s = abandoned.remaining_s
        if not abandoned or (remaining_s is not None and remaining_s < MIN_REMAINING_S):
            return False
        is_own = connection.endpoint.origin == "embedded"
        return is_own and not connection.downloads and connection.stored_responses.is_empty

    async def _replace(self, connection: Connection) -> None:
        service = self._service
        if service.connection is not connection:
            return
        description = service.limiter.abandoned.describe()
        try:
            host = self._retire_host()
        except FoundryError as error:
            log.warning("no second engine could be started: %s", error)
            return
        if host is None:
            return
        log.info("%s: another engine replaces the one at %s", description, connection.base_url)
        try:
            service.invalidate(connection)
            await service.abandoned_reads.aclose()
            for usage in tuple(connection.models.usages.values()):
                await usage.drain(MAX_DRAIN_S)
        finally:
            await host.aclose()
