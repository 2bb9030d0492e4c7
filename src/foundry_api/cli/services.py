"""Looking for services without ever starting one."""

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

PROBE_TIMEOUT_S = discovery.KNOWN_TIMEOUT_S
"""A person who asks what is there waits longer than a call that could start an engine instead."""


COMMAND_TIMEOUT_S = 1.5
"""It takes a second on real machines."""


class _LazyTransport:
    """A transport that is made when it is first needed: aiohttp takes 0.2 s to import."""

    def __init__(self) -> None:
        self._transport: Transport | None = None

    def __call__(self) -> Transport:
        if self._transport is None:
            from foundry_api.wire.http import HttpTransport  # noqa: PLC0415 - see the class

            self._transport = HttpTransport()
        return self._transport

    async def aclose(self) -> None:
        """Close the transport, if it was needed."""
        if self._transport is not None:
            await self._transport.aclose()


class RunningServiceTarget:
    """Whichever service is running now, for a monitor. Nothing is started; another may come."""

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
        """The one service."""
        return (self._service,)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._service.aclose()
        await self._transport.aclose()

    async def _connect(self) -> Connection:
        endpoint = await find_running(self._settings, self._transport)
        key = self._settings.api_key if endpoint.origin == "explicit" else None
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return Connection(endpoint, self._transport(), headers, None)


async def find_running(
    settings: Settings, transport: Callable[[], Transport] | None = None
) -> Endpoint:
    """The service that calls would use.

    Args:
        settings: Say whether an address was given.
        transport: Gives the transport to ask with; default one of its own.

    Raises:
        ServiceNotRunning: There is none; calls would start an engine of their own.
        FoundryError: What is at the given address cannot be used.
    """
    async with aclosing(_LazyTransport()) as own:
        endpoint = await discovery.find(settings, Paths.from_home(settings.home), transport or own)
    if endpoint is None:
        raise ServiceNotRunning("no service is running")
    return endpoint


async def find_all_services(settings: Settings) -> list[Endpoint]:
    """Every service that answers: the shared one, those that Foundry's command names, the rest.

    Where there are others, the command, which may hang, is waited for less.

    Raises:
        FoundryError: An address was given, and what is there cannot be used.
    """
    if settings.base_url is not None:
        return [await find_running(settings)]
    async with aclosing(_LazyTransport()) as transport:
        named = asyncio.ensure_future(_find_by_command(transport))
        try:
            shared, *others_on_ports = await asyncio.gather(
                discovery.find_shared(Paths.from_home(settings.home), transport),
                *(
                    _probe(f"http://127.0.0.1:{port}", "port", transport)
                    for port in discovery.KNOWN_PORTS
                ),
            )
            any_found = any((shared, *others_on_ports))
            await asyncio.wait([named], timeout=COMMAND_TIMEOUT_S if any_found else None)
            by_command = named.result() if named.done() else []
        finally:
            named.cancel()
            await asyncio.gather(named, return_exceptions=True)
    endpoints = [shared, *by_command, *others_on_ports]
    distinct = {endpoint.base_url: endpoint for endpoint in reversed(endpoints) if endpoint}
    return list(reversed(distinct.values()))


async def _find_by_command(transport: _LazyTransport) -> list[Endpoint | None]:
    """The services that Foundry's command names."""
    urls = await foundry_command.discover_urls()
    return list(await asyncio.gather(*(_probe(url, "cli", transport) for url in urls)))


async def _probe(url: str, origin: Origin, transport: _LazyTransport) -> Endpoint | None:
    return await discovery.probe(url, origin, transport, timeout_s=PROBE_TIMEOUT_S)


async def check_endpoint(endpoint: Endpoint, settings: Settings) -> HealthStatus:
    """The health of a service that was found. A key meant for a given address stays there."""
    api_key = settings.api_key if endpoint.origin == "explicit" else None
    there = replace(settings, base_url=endpoint.base_url, api_key=api_key)
    async with FoundryAPIClient(settings=there) as client:
        try:
            seen = await client.health_check()
        except FoundryError as error:
            seen = _unusable_status(endpoint, error)
    return msgspec.structs.replace(seen, version=endpoint.sdk_version or seen.version)


def _unusable_status(endpoint: Endpoint, error: FoundryError) -> HealthStatus:
    """A service that answers, but not to this client: another generation, a missing key."""
    return HealthStatus(
        status="degraded",
        service=endpoint.base_url,
        service_generation=endpoint.service_generation,
        checked_at=time.time(),
        detail=str(error),
    )
