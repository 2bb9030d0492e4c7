"""What a service's health is, and one look at it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Literal

import msgspec
import psutil

from foundry_api.errors import FoundryError
from foundry_api.messages import Generation
from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from foundry_api.connection import Connection
    from foundry_api.wire.dialects.base import ServiceStatus

__all__ = ["HealthStatus", "down", "look"]

_VERSIONS: dict[Generation, str] = {
    "legacy": "0.3 to 0.9",
    "cli-0.10": "0.10",
    "sdk-1": "1.x",
    "sdk-2.0": "2.0",
    "sdk-2.1": "2.1 or later",
}


class HealthStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The health of a service at one moment.

    Attributes:
        status: `healthy` when it answers; `degraded` when it answers but a part of the check
            failed; `down` when it does not answer.
        loaded_models: Ids of the models in memory.
        memory_usage: Resident bytes of the service's process: the engine, its loaded models and
            the program that hosts them, which for an application with the SDK inside is that
            application. None for services on other machines, and where the process is not ours
            to see.
        uptime: Seconds since that process started; None as above.
        version: The engine's version, or what its fingerprint tells of it.
        generation: The generation of Foundry Local; None if it is down.
        service: Its base URL; None if none was found.
        latency_s: Seconds that its status route took to answer; None if it is down.
        checked_at: Seconds since the epoch.
        detail: What is wrong and what to do about it; empty when healthy.
    """

    status: Literal["healthy", "degraded", "down"]
    loaded_models: tuple[str, ...] = ()
    memory_usage: int | None = None
    uptime: float | None = None
    version: str | None = None
    generation: Generation | None = None
    service: str | None = None
    latency_s: float | None = None
    checked_at: float = 0.0
    detail: str = ""


def down(error: FoundryError) -> HealthStatus:
    """The health of a service that does not answer."""
    return HealthStatus(
        status="down", service=error.service, checked_at=time.time(), detail=str(error)
    )


async def look(connection: Connection) -> HealthStatus:
    """Look at a service once, without asking the engine to generate anything.

    Raises:
        ServiceNotRunning: It does not answer.
        ServiceCrashed: It went away.
    """
    started = time.perf_counter()
    status = await connection.dialect.status()
    latency_s = time.perf_counter() - started
    loaded, detail = await _loaded_models(connection)
    memory, uptime = await asyncio.to_thread(_process, connection, status)
    return HealthStatus(
        status="degraded" if detail else "healthy",
        loaded_models=loaded,
        memory_usage=memory,
        uptime=uptime,
        version=connection.endpoint.sdk_version or _VERSIONS.get(status.generation),
        generation=status.generation,
        service=connection.endpoint.base_url,
        latency_s=latency_s,
        checked_at=time.time(),
        detail=detail,
    )


async def _loaded_models(connection: Connection) -> tuple[tuple[str, ...], str]:
    try:
        models = await connection.local_models()
    except FoundryError as error:
        return (), str(error)
    return tuple(model.id for model in models if model.loaded), ""


def _process(connection: Connection, status: ServiceStatus) -> tuple[int | None, float | None]:
    if status.pid is None or not is_loopback(connection.endpoint.base_url):
        return None, None
    try:
        process = psutil.Process(status.pid)
        return process.memory_info().rss, time.time() - process.create_time()
    except psutil.Error:
        return None, None
