"""Which service this program talks to: found once, found again when it went away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.engine import discovery
from foundry_api.engine.supervisor import HostOptions, Supervisor
from foundry_api.resilience.single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.storage.paths import Paths
    from foundry_api.types.settings import Settings
    from foundry_api.wire.transport import Transport

__all__ = ["ServiceLocator"]


class ServiceLocator:
    """Finds a service or starts one, when the first caller asks.

    Args:
        settings: Says where to look.
        paths: The directories of engine hosts.
        transport: Gives the transport to ask with; called only when something accepts. The
            transport stays its giver's to close.
        supervisor: Runs this process's own host; None makes one with the defaults.
    """

    def __init__(
        self,
        settings: Settings,
        paths: Paths,
        transport: Callable[[], Transport],
        *,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._settings = settings
        self._paths = paths
        self._transport = transport
        self._supervisor = supervisor or Supervisor(HostOptions(paths=paths))
        self._endpoint: Endpoint | None = None
        self._locating: SingleFlight[Endpoint] = SingleFlight()

    @property
    def name(self) -> str:
        """What to call the service before it is found."""
        return self._settings.base_url or "the service"

    @property
    def supervisor(self) -> Supervisor:
        """Runs this process's own host."""
        return self._supervisor

    async def get_endpoint(self) -> Endpoint:
        """The service to talk to.

        Raises:
            ServiceNotRunning: Nothing answers at the explicit address.
            ProtocolError: Something else answers at the explicit address.
            ServiceStartFailed: None was found and none could be started.
        """
        if self._endpoint is not None and not self._is_own_host_dead(self._endpoint):
            return self._endpoint
        return await self._locating.run("any", self._locate)

    async def get_embedded(self) -> Endpoint:
        """An engine host of ours, which has a control API: the shared one if it runs, else own.

        Raises:
            ServiceStartFailed: None was found and none could be started.
        """
        return await self._locating.run("own", self._locate_embedded)

    def invalidate(self) -> None:
        """Look again at the next `get_endpoint`: what was found does not answer any more."""
        self._endpoint = None

    def close(self) -> None:
        """End this process's own host, if it has one. A later `get_endpoint` starts another."""
        self._endpoint = None
        self._supervisor.close()

    async def aclose(self) -> None:
        """As `close`, without blocking the event loop."""
        self._endpoint = None
        await self._supervisor.aclose()

    def _is_own_host_dead(self, endpoint: Endpoint) -> bool:
        host = self._supervisor.host
        return endpoint.origin == "embedded" and (host is None or not host.is_alive)

    async def _locate(self) -> Endpoint:
        self._endpoint = await self._search()
        return self._endpoint

    async def _search(self) -> Endpoint:
        settings = self._settings
        if settings.base_url is not None:
            return await discovery.probe_explicit(settings, settings.base_url, self._transport)
        if settings.service == "embedded" or self._supervisor.host is not None:
            return await self._start_embedded()
        endpoint = await discovery.find(settings, self._paths, self._transport)
        return endpoint or await self._start_embedded()

    async def _start_embedded(self) -> Endpoint:
        """This process's own host. Its engine can be shut down over HTTP while the host lives."""
        endpoint = await self._supervisor.get_endpoint()
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
