"""Looking for services without ever starting one."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from foundry_api import health
from foundry_api.client import FoundryAPIClient
from foundry_api.errors import FoundryError, ServiceNotRunning
from foundry_api.health import HealthStatus
from foundry_api.service import discover, foundry_cli
from foundry_api.service.paths import Paths

if TYPE_CHECKING:
    from foundry_api.service.endpoint import Endpoint
    from foundry_api.settings import Settings
    from foundry_api.wire.transport import Transport

__all__ = ["RunningService", "all_services", "find_running", "health_of"]

PATIENCE_S = discover.KNOWN_TIMEOUT_S
"""A person who asks what is there waits longer than a call that could start an engine instead."""


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


class RunningService:
    """The health of whichever service is running now; another one may come and go."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def health_check(self) -> HealthStatus:
        """Look once. Where nothing runs, nothing is started, and the service is down."""
        try:
            endpoint = await find_running(self._settings)
        except FoundryError as error:
            return health.down(error)
        return await health_of(endpoint, self._settings)


async def find_running(settings: Settings) -> Endpoint:
    """The service that calls would use.

    Raises:
        ServiceNotRunning: There is none; calls would start an engine of their own.
        FoundryError: What is at the given address cannot be used.
    """
    async with aclosing(_LazyTransport()) as transport:
        found = await discover.find(settings, Paths.of(settings.home), transport)
    if found is None:
        raise ServiceNotRunning("no service is running")
    return found


async def all_services(settings: Settings) -> list[Endpoint]:
    """Every service that answers: the shared one, those that Foundry's command names, the rest.

    Raises:
        FoundryError: An address was given, and what is there cannot be used.
    """
    if settings.base_url is not None:
        return [await find_running(settings)]
    paths = Paths.of(settings.home)
    announced = await foundry_cli.announced_urls()
    async with aclosing(_LazyTransport()) as transport:
        found = await asyncio.gather(
            discover.find_shared(paths, transport),
            *(discover.look(url, "cli", transport, timeout_s=PATIENCE_S) for url in announced),
            *(
                discover.look(f"http://127.0.0.1:{port}", "port", transport, timeout_s=PATIENCE_S)
                for port in discover.KNOWN_PORTS
            ),
        )
    distinct = {endpoint.base_url: endpoint for endpoint in reversed(found) if endpoint}
    return list(reversed(distinct.values()))


async def health_of(endpoint: Endpoint, settings: Settings) -> HealthStatus:
    """The health of a service that was found. A key meant for a given address stays there."""
    api_key = settings.api_key if endpoint.origin == "explicit" else None
    there = replace(settings, base_url=endpoint.base_url, api_key=api_key)
    async with FoundryAPIClient(settings=there) as client:
        try:
            seen = await client.health_check()
        except FoundryError as error:
            seen = _not_usable(endpoint, error)
    return msgspec.structs.replace(seen, version=endpoint.sdk_version or seen.version)


def _not_usable(endpoint: Endpoint, error: FoundryError) -> HealthStatus:
    """A service that answers, but not to this client: another generation, a missing key."""
    return HealthStatus(
        status="degraded",
        service=endpoint.base_url,
        generation=endpoint.generation,
        checked_at=time.time(),
        detail=str(error),
    )
