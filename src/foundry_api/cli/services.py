"""Finds running services and checks their health, without ever starting one."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import msgspec

from foundry_api.client.client import FoundryAPIClient
from foundry_api.core.connection import Connection
from foundry_api.core.service_pool import ServiceHandle
from foundry_api.engine import discovery, foundry_command
from foundry_api.monitor.health import HealthStatus
from foundry_api.resilience.breaker import CircuitBreaker
from foundry_api.resilience.limiter import Limiter
from foundry_api.storage.paths import Paths
from foundry_api.types.errors import FoundryError, ServiceNotRunning
from foundry_api.types.events import EventBus

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.engine.endpoint import Endpoint, Origin
    from foundry_api.types.settings import Settings
    from foundry_api.wire.transport import Transport

__all__ = ["RunningServiceTarget", "check_endpoint", "find_all_services", "find_running"]

# `status` waits longer than a call, which starts an engine instead.
PROBE_TIMEOUT_S = discovery.KNOWN_TIMEOUT_S
# Foundry's own command takes a second on real machines, and sometimes hangs.
COMMAND_TIMEOUT_S = 1.5


class _LazyTransport:
    """A transport that is made on first use."""

    def __init__(self) -> None:
        self._transport: Transport | None = None

    def __call__(self) -> Transport:
        if self._transport is None:
            from foundry_api.wire.http import HttpTransport  # noqa: PLC0415 - see the class

            self._transport = HttpTransport()
        return self._transport

    async def aclose(self) -> None:
        if self._transport is not None:
            await self._transport.aclose()


class RunningServiceTarget:
    """The running service, for a monitor; looked up again after each failure."""

    def __init__(self, settings: Settings) -> None:
        self.events = EventBus()
        self._settings = settings
        self._transport = _LazyTransport()
        name = settings.base_url or "the service"
        self._service = ServiceHandle(
            name, self._connect, lambda: None, CircuitBreaker(), Limiter()
        )

    @property
    def services(self) -> tuple[ServiceHandle, ...]:
        return (self._service,)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._service.aclose()
        await self._transport.aclose()

    async def _connect(self) -> Connection:
        endpoint = await find_running(self._settings, self._transport)
        # The API key is meant for the configured URL, not for a service that was discovered.
        key = self._settings.api_key if endpoint.origin == "explicit" else None
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return Connection(endpoint, self._transport(), headers, None)


async def find_running(
    settings: Settings, transport: Callable[[], Transport] | None = None
) -> Endpoint:
    """Return the service that calls would use; raise ServiceNotRunning if there is none."""
    async with aclosing(_LazyTransport()) as own_transport:
        paths = Paths.from_home(settings.home)
        endpoint = await discovery.find(settings, paths, transport or own_transport)
    if endpoint is None:
        raise ServiceNotRunning("no service is running")
    return endpoint


async def find_all_services(settings: Settings) -> list[Endpoint]:
    """Return every service that responds, the one that calls would use first."""
    if settings.base_url is not None:
        return [await find_running(settings)]
    async with aclosing(_LazyTransport()) as transport:

        async def probe(url: str, origin: Origin) -> Endpoint | None:
            return await discovery.probe(url, origin, transport, timeout_s=PROBE_TIMEOUT_S)

        async def find_by_command() -> list[Endpoint | None]:
            urls = await foundry_command.discover_urls()
            return list(await asyncio.gather(*(probe(url, "cli") for url in urls)))

        command = asyncio.ensure_future(find_by_command())
        try:
            shared, *others_on_ports = await asyncio.gather(
                discovery.find_shared(Paths.from_home(settings.home), transport),
                *(probe(f"http://127.0.0.1:{port}", "port") for port in discovery.KNOWN_PORTS),
            )
            # The command may hang: with another service found, it is not worth a long wait.
            any_found = any((shared, *others_on_ports))
            await asyncio.wait([command], timeout=COMMAND_TIMEOUT_S if any_found else None)
            by_command = command.result() if command.done() else []
        finally:
            command.cancel()
            await asyncio.gather(command, return_exceptions=True)
    endpoints = [shared, *by_command, *others_on_ports]
    # Reversed twice: of a service that was found in several ways, the first way is reported.
    distinct = {endpoint.base_url: endpoint for endpoint in reversed(endpoints) if endpoint}
    return list(reversed(distinct.values()))


async def check_endpoint(endpoint: Endpoint, settings: Settings) -> HealthStatus:
    """Check the health of a service that was found."""
    # The API key is meant for the configured URL, not for a service that was discovered.
    api_key = settings.api_key if endpoint.origin == "explicit" else None
    service_settings = replace(settings, base_url=endpoint.base_url, api_key=api_key)
    async with FoundryAPIClient(settings=service_settings) as client:
        try:
            health = await client.health_check()
        except FoundryError as error:
            # It answers, but not to this client: another generation, or it requires a key.
            health = HealthStatus(
                status="degraded",
                service=endpoint.base_url,
                service_generation=endpoint.service_generation,
                checked_at=time.time(),
                detail=str(error),
            )
    return msgspec.structs.replace(health, version=endpoint.sdk_version or health.version)
