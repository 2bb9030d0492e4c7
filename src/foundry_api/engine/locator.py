"""Finds or starts the service of a client, and again after it has gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.engine import discovery
from foundry_api.engine.supervisor import HostOptions, Supervisor
from foundry_api.resilience.single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.engine.supervisor import EngineHost
    from foundry_api.storage.paths import Paths
    from foundry_api.types.services import ServiceProtocol
    from foundry_api.types.settings import Settings
    from foundry_api.wire.transport import Transport

__all__ = ["ServiceLocator"]


class ServiceLocator:
    """Finds a service or starts one at the first request for it.

    `transport` is called only once something accepts a connection. Its caller closes the transport.
    `protocol` is that of the service at an address of the settings.
    """

    def __init__(
        self,
        settings: Settings,
        paths: Paths,
        transport: Callable[[], Transport],
        *,
        supervisor: Supervisor | None = None,
        protocol: ServiceProtocol = "foundry",
    ) -> None:
        self._settings = settings
        self._paths = paths
        self._transport = transport
        self._protocol: ServiceProtocol = protocol
        self._supervisor = supervisor or Supervisor(
            HostOptions(paths=paths, threads=settings.engine_threads)
        )
        self._endpoint: Endpoint | None = None
        self._locating: SingleFlight[Endpoint] = SingleFlight()

    @property
    def name(self) -> str:
        """The name of the service in messages before it is found."""
        return self._settings.base_url or "the service"

    @property
    def supervisor(self) -> Supervisor:
        """The supervisor of this process's own host."""
        return self._supervisor

    async def get_endpoint(self) -> Endpoint:
        """Return the service, after finding or starting it if needed."""
        endpoint, host = self._endpoint, self._supervisor.host
        if endpoint is not None:
            own_host_dead = endpoint.origin == "embedded" and (host is None or not host.is_alive)
            if not own_host_dead:
                return endpoint
        return await self._locating.run("any", self._locate)

    async def get_embedded(self) -> Endpoint:
        """Return a host with a control API: the shared one if it runs, else one of this process."""
        return await self._locating.run("own", self._locate_embedded)

    def invalidate(self) -> None:
        """Search again at the next `get_endpoint`, because the service no longer answers."""
        self._endpoint = None

    def retire_host(self) -> EngineHost | None:
        """As `Supervisor.retire`, for the next `get_endpoint`."""
        host = self._supervisor.retire()
        if host is not None:
            self._endpoint = None
        return host

    def close(self) -> None:
        """Stop this process's own host, if it has one. A later `get_endpoint` starts another."""
        self._endpoint = None
        self._supervisor.close()

    async def aclose(self) -> None:
        self._endpoint = None
        await self._supervisor.aclose()

    async def _locate(self) -> Endpoint:
        settings, endpoint = self._settings, None
        if settings.base_url is not None:
            endpoint = await discovery.probe_explicit(
                settings, settings.base_url, self._transport, self._protocol
            )
        elif settings.service != "embedded" and self._supervisor.host is None:
            endpoint = await discovery.find(settings, self._paths, self._transport)
        self._endpoint = endpoint or await self._start_embedded()
        return self._endpoint

    async def _start_embedded(self) -> Endpoint:
        """Return this process's own host, after starting it if needed."""
        endpoint = await self._supervisor.get_endpoint()
        # Its engine can be shut down over HTTP while the host process still runs.
        if await discovery.is_open(endpoint.base_url):
            return endpoint
        await self._supervisor.replace()
        return await self._supervisor.get_endpoint()

    async def _locate_embedded(self) -> Endpoint:
        if self._supervisor.host is None and (
            shared := await discovery.find_shared(self._paths, self._transport)
        ):
            return shared
        return await self._start_embedded()
