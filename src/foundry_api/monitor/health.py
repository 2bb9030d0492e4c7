"""What a service's health is, and one look at it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Literal

import msgspec

from foundry_api.monitor.process import ProcessProbe
from foundry_api.types.errors import FoundryError
from foundry_api.types.messages import ServiceGeneration
from foundry_api.types.serialization import Result
from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from foundry_api.core.connection import Connection
    from foundry_api.wire.dialects.base import ServiceStatus

__all__ = ["HealthStatus", "check_health", "down_status", "get_local_pid", "get_version"]

_VERSIONS: dict[ServiceGeneration, str] = {
    "legacy": "0.3 to 0.9",
    "cli-0.10": "0.10",
    "sdk-1": "1.x",
    "sdk-2.0": "2.0",
    "sdk-2.1": "2.1 or later",
}


class HealthStatus(Result, msgspec.Struct, frozen=True, kw_only=True):
    """The health of a service at one moment.

    Attributes:
        status: `healthy` when it answers; `degraded` when it answers but a part of the check
            failed; `down_status` when it does not answer.
        loaded_models: Ids of the models in memory.
        memory_usage: Resident bytes of the service's process: the engine, its loaded models and
            the program that hosts them, which for an application with the SDK inside is that
            application. None for services on other machines, and where the process is not ours
            to see.
        uptime: Seconds since that process started; None as above.
        version: The engine's version, or what its fingerprint tells of it.
        service_generation: The generation of Foundry Local; None if it is down.
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
    service_generation: ServiceGeneration | None = None
    service: str | None = None
    latency_s: float | None = None
    checked_at: float = 0.0
    detail: str = ""


def down_status(error: FoundryError) -> HealthStatus:
    """The health of a service that does not answer."""
    return HealthStatus(
        status="down", service=error.service, checked_at=time.time(), detail=str(error)
    )


async def check_health(connection: Connection) -> HealthStatus:
    """Look at a service once, without asking the engine to generate anything.

    Raises:
        ServiceNotRunning: It does not answer.
        ServiceCrashed: It went away.
    """
    started = time.perf_counter()
    status = await connection.dialect.get_status()
    latency_s = time.perf_counter() - started
    loaded, detail = await _get_loaded_models(connection, status)
    pid = get_local_pid(connection, status)
    process = None if pid is None else await asyncio.to_thread(ProcessProbe().read, pid)
    return HealthStatus(
        status="degraded" if detail else "healthy",
        loaded_models=tuple(sorted(loaded)),
        memory_usage=process.memory_bytes if process else None,
        uptime=time.time() - process.started_at if process else None,
        version=get_version(connection, status),
        service_generation=status.service_generation,
        service=connection.endpoint.base_url,
        latency_s=latency_s,
        checked_at=time.time(),
        detail=detail,
    )


def get_local_pid(connection: Connection, status: ServiceStatus) -> int | None:
    """The service's process, if it is one of this machine."""
    return status.pid if is_loopback(connection.endpoint.base_url) else None


def get_version(connection: Connection, status: ServiceStatus) -> str | None:
    """The engine's version, or what its fingerprint tells of it."""
    return connection.endpoint.sdk_version or _VERSIONS.get(status.service_generation)


async def _get_loaded_models(
    connection: Connection, status: ServiceStatus
) -> tuple[frozenset[str], str]:
    try:
        return await connection.loaded_model_ids(status), ""
    except FoundryError as error:
        return frozenset(), str(error)
