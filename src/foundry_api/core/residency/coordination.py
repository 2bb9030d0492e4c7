"""Coordinate loading and unloading with the other clients of the same home.

A *claim* says that a client uses a model, so that no other client unloads it. A *lease* is the
right to load or unload a model, which only one client has at a time.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import urlsplit

from foundry_api.types.errors import ModelInUse
from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping

    from foundry_api.core.residency.usage_db import KnownModel, Lease, ModelUsageDb
    from foundry_api.types.models import Model, ModelUser

__all__ = [
    "NoCoordination",
    "SharedCoordination",
    "UsageRegistry",
    "get_program_name",
    "get_service_name",
]

Change = Literal["load", "unload", "budget"]

MAX_NAME_LENGTH = 80

# Seconds between two checks of a lease of another client. Each wait is twice the one before.
FIRST_WAIT_S = 0.01
MAX_WAIT_S = 0.25

log = logging.getLogger("foundry_api")
_T = TypeVar("_T")  # the result of a query


class NoCoordination:
    """The interface to the other clients, for a service that only this client can use."""

    is_shared = False  # whether other clients can use the service

    async def claim(self, model_id: str) -> None:
        """Keep other clients from unloading a model. Waits while one of them unloads it."""

    async def renew(self, last_used: Mapping[str, float]) -> Iterable[str]:
        """Extend the claims on models that were used at these times.

        Returns the models whose claims have expired, so that they may be unloaded.
        """
        del last_used
        return ()

    @asynccontextmanager
    async def lease(
        self, model_id: str, change: Change, *, for_s: float, quiet_s: float | None = None
    ) -> AsyncGenerator[None]:
        """Let only this client load or unload a model. Waits for the leases of other clients.

        The lease expires after `for_s` seconds. With `quiet_s`, raises ModelInUse if another client
        uses the model or has used it within that time.
        """
        del model_id, change, for_s, quiet_s
        yield

    async def record_loaded(self, model: Model) -> None:
        """Record that this client has loaded a model."""

    async def record_unloaded(self, model_id: str) -> None:
        """Record that a model is unloaded."""

    async def list_users(self, model_id: str) -> tuple[ModelUser, ...]:
        """Return the other clients that use a model."""
        del model_id
        return ()

    async def list_known_models(self) -> Mapping[str, KnownModel] | None:
        """Return the models that clients of this home have loaded, by id. None without records."""
        return None


class UsageRegistry:
    """This client among all the clients that share the usage file of a home.

    Problems with the file do not fail calls: the client then works as if it were alone.
    """

    def __init__(
        self,
        path: Path,
        hold_s: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.hold_s = hold_s
        self.sleep = sleep
        self._path = path
        self._client = secrets.token_hex(8)
        self._db: ModelUsageDb | None = None
        self._has_warned = False

    def for_service(self, base_url: str) -> SharedCoordination:
        return SharedCoordination(self, get_service_name(base_url))

    async def query(self, query: Callable[[ModelUsageDb], _T], default: _T) -> _T:
        """Run a query in a thread. Return the default if the file cannot be used."""
        future = asyncio.ensure_future(asyncio.to_thread(self._query, query, default))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # Wait for the thread: the caller may undo next what the query writes.
            await asyncio.wait((future,))
            raise

    async def aclose(self) -> None:
        """Remove this client from the file."""
        if self._db is not None:
            await self.query(lambda db: db.unregister(), None)

    def _query(self, query: Callable[[ModelUsageDb], _T], default: _T) -> _T:
        try:
            # It imports SQLite and psutil, which a client with an embedded engine doesn't need.
            from foundry_api.core.residency import usage_db  # noqa: PLC0415
        except ImportError as error:  # a Python without SQLite
            self._warn(error)
            return default
        try:
            if self._db is None:
                client = usage_db.ClientProcess.current(self._client, get_program_name(sys.argv))
                self._db = usage_db.ModelUsageDb(self._path, client)
            return query(self._db)
        except usage_db.DatabaseUnavailable as error:
            self._warn(error)
            return default

    def _warn(self, error: Exception) -> None:
        level = logging.DEBUG if self._has_warned else logging.WARNING
        self._has_warned = True
        log.log(level, "loading and unloading is not coordinated with other programs: %s", error)


class SharedCoordination(NoCoordination):
    """The other clients of this home that use one service."""

    is_shared = True

    def __init__(self, registry: UsageRegistry, service: str) -> None:
        self._registry = registry
        self._service = service

    async def claim(self, model_id: str) -> None:
        hold_s, wait_s = self._registry.hold_s, FIRST_WAIT_S

        def claim(db: ModelUsageDb) -> ModelUser | None:
            return db.claim(self._service, model_id, hold_s)

        while holder := await self._registry.query(claim, None):
            wait_s = await self._wait(wait_s, model_id, holder)

    async def renew(self, last_used: Mapping[str, float]) -> Iterable[str]:
        items, hold_s = tuple(last_used.items()), self._registry.hold_s
        return await self._registry.query(lambda db: db.renew(self._service, items, hold_s), set())

    @asynccontextmanager
    async def lease(
        self, model_id: str, change: Change, *, for_s: float, quiet_s: float | None = None
    ) -> AsyncGenerator[None]:
        token, wait_s = secrets.token_hex(8), FIRST_WAIT_S

        def lease_model(db: ModelUsageDb) -> Lease | None:
            return db.lease(self._service, model_id, change, token, for_s=for_s, quiet_s=quiet_s)

        try:
            while (lease := await self._registry.query(lease_model, None)) and lease.holder:
                wait_s = await self._wait(wait_s, model_id, lease.holder)
            if lease is not None and lease.users:
                raise ModelInUse(
                    f"{model_id} is used by {'; '.join(map(str, lease.users))}",
                    hint="It is free once they close their client, or have not called it for a"
                    " minute. force=True (`--force`) takes it from those that are not being"
                    " answered right now; it has no effect on SDK 1.x.",
                    model=model_id,
                ).with_users(lease.users)
            yield
        finally:
            await self._registry.query(lambda db: db.release(token), None)

    async def record_loaded(self, model: Model) -> None:
        hold_s = self._registry.hold_s
        await self._registry.query(lambda db: db.record_loaded(self._service, model, hold_s), None)

    async def record_unloaded(self, model_id: str) -> None:
        await self._registry.query(lambda db: db.record_unloaded(self._service, model_id), None)

    async def list_users(self, model_id: str) -> tuple[ModelUser, ...]:
        return await self._registry.query(lambda db: db.list_users(self._service, model_id), ())

    async def list_known_models(self) -> Mapping[str, KnownModel] | None:
        # An empty default, not None: while the file cannot be used, no model counts as ours.
        default: Mapping[str, KnownModel] = {}
        return await self._registry.query(lambda db: db.list_known_models(self._service), default)

    async def _wait(self, wait_s: float, model_id: str, holder: ModelUser) -> float:
        """Wait for another client. Return the next wait."""
        if wait_s == FIRST_WAIT_S:
            program = f"{holder.program} (pid {holder.pid})"
            log.info("waiting for %s, which is loading or unloading %s", program, model_id)
        await self._registry.sleep(wait_s)
        return min(2 * wait_s, MAX_WAIT_S)


def get_service_name(base_url: str) -> str:
    """Return the name of a service in the file, the same for all spellings of loopback."""
    if not is_loopback(base_url):
        return base_url
    parts = urlsplit(base_url)
    return f"127.0.0.1:{parts.port}{parts.path.rstrip('/')}"


def get_program_name(arguments: list[str]) -> str:
    """Return a readable name of a program with these command line arguments."""
    script = Path(arguments[0]) if arguments and arguments[0] not in {"", "-c", "-m"} else None
    if script is None:
        return Path(sys.executable or "python").name[:MAX_NAME_LENGTH]
    name = script.parent.name if script.name == "__main__.py" else script.name
    return (name or "python")[:MAX_NAME_LENGTH]
