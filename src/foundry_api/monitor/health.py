"""A single health check of a service."""

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

_VERSIONS: dict[ServiceGeneration, str | None] = {
    "legacy": "0.3 to 0.9",
    "cli-0.10": "0.10",
    "sdk-1": "1.x",
    "sdk-2.0": "2.0",
    "sdk-2.1": "2.1 or later",
    "gateway": None,  # it has not called the engine behind it yet
    "openai": None,
}


class HealthStatus(Result, msgspec.Struct, frozen=True, kw_only=True):
    """The health of a service at one time.

    Attributes:
        status: `healthy` if it answers; `degraded` if it answers but a part of the check failed;
            `down` if it does not answer.
        loaded_models: Ids of the models in memory.
        memory_usage: Resident memory of the service's process in bytes: the engine, its loaded
            models and the program around them, which may be an application that embeds the SDK.
            Of a gateway, that of the engine behind it. None for other services on other machines,
            and if this user may not read the process.
        uptime: Seconds since that process started; None in the same cases.
        version: The engine's version, or the range of versions that its routes show.
        service_generation: The generation of Foundry Local; None if it is down.
        service: Its base URL; None if no service was found.
        latency_s: Response time of its status route in seconds; None if it is down.
        checked_at: Time of the check, in seconds since the epoch.
        detail: What is wrong and what to do about it, or the abandoned prompts of this client that
            the engine still reads; empty if there is nothing to say.
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
    return HealthStatus(
        status="down", service=error.service, checked_at=time.time(), detail=str(error)
    )


async def check_health(connection: Connection, busy_with: str = "") -> HealthStatus:
    """Check a service once, without a completion; raises ServiceError if it does not answer.

    `busy_with` is the detail of a healthy service.
    """
    started_at = time.perf_counter()
    status = await connection.dialect.get_status()
    latency_s = time.perf_counter() - started_at
    loaded, detail = frozenset[str](), status.problem
    try:
        loaded = await connection.list_loaded_ids(status)
    except FoundryError as error:
        detail = str(error)
    pid = get_local_pid(connection, status)
    process = None if pid is None else await asyncio.to_thread(ProcessProbe().read, pid)
    return HealthStatus(
        status="degraded" if detail else "healthy",
        loaded_models=tuple(sorted(loaded)),
        memory_usage=process.memory_bytes if process else status.memory_bytes,
        uptime=time.time() - process.started_at if process else status.uptime_s,
        version=get_version(connection, status),
        service_generation=status.service_generation,
        service=connection.endpoint.base_url,
        latency_s=latency_s,
        checked_at=time.time(),
        detail=detail or busy_with,
    )


def get_local_pid(connection: Connection, status: ServiceStatus) -> int | None:
    """Return the pid of the service's process, if it runs on this machine."""
    return status.pid if is_loopback(connection.endpoint.base_url) else None


def get_version(connection: Connection, status: ServiceStatus) -> str | None:
    # Hosts and gateways report a version. The routes of others show their generation.
    sdk_version = connection.endpoint.sdk_version or status.version
    return sdk_version or _VERSIONS[status.service_generation]
