"""What stands behind a client: its services, how each is found and guarded, and what they share."""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from foundry_api.core.cache.select import make_cache
from foundry_api.core.call import CallContext
from foundry_api.core.catalog import CatalogStore
from foundry_api.core.connection import Connection
from foundry_api.core.loop_binding import LoopBinding
from foundry_api.core.residency.coordination import NoCoordination, UsageRegistry
from foundry_api.core.residency.idle import IdleUnloader
from foundry_api.core.residency.manager import ResidencyContext
from foundry_api.core.residency.policy import ModelResidency
from foundry_api.core.service_pool import ServiceHandle, ServicePool
from foundry_api.engine.control import ControlClient
from foundry_api.engine.locator import ServiceLocator
from foundry_api.observe.call_log import CallLog
from foundry_api.observe.metrics import Metrics
from foundry_api.resilience.backoff import Backoff
from foundry_api.resilience.breaker import BreakerSettings, CircuitBreaker
from foundry_api.resilience.latency import Latencies
from foundry_api.resilience.limiter import Limiter, LimiterSettings
from foundry_api.resilience.retry import Retry, RetryBudget
from foundry_api.storage.paths import Paths
from foundry_api.types.errors import ClientClosed, ServiceCrashed, ServiceNotRunning
from foundry_api.types.events import EventBus
from foundry_api.types.plain_text import SanitizingFilter
from foundry_api.wire.custom_transport import CustomTransport
from foundry_api.wire.hooks import Hooks

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping
    from types import ModuleType

    from foundry_api.core.cache.base import ResponseCache
    from foundry_api.core.cache.calls import CachedCalls
    from foundry_api.core.residency.manager import ModelManager
    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.types.events import Listener
    from foundry_api.types.models import Model
    from foundry_api.types.settings import Settings
    from foundry_api.wire.transport import Transport

__all__ = ["ClientRuntime"]

# Without a handler of the user's own nothing is printed, instead of warnings on standard error.
logging.getLogger("foundry_api").addHandler(logging.NullHandler())
logging.getLogger("foundry_api").addFilter(SanitizingFilter())

RETRY_BACKOFF = Backoff(base_s=0.1, cap_s=5.0)


class ClientRuntime:
    """The services of a client, and what its calls share. Creating one does no I/O.

    Args:
        settings: As they were resolved.
        headers: Sent with every request to a service.
        limiter: How many calls may be in flight at each service; default as many as gain
            throughput.
        breaker: When calls to a service that fails are refused, and for how long.
        residency: Which models stay in memory; default as the settings say.
        listeners: Called with every event.
        hooks: What requests and answers pass, and the credential for an explicit address.
        cache: Where answers are kept; default as the settings say.
        transport: Sends the requests; default one pooled session.

    Attributes:
        settings: As above.
        closed: Whether the client was closed.
        events: The hook for whoever wants to hear what happens.
        metrics: What happened, counted.
        services: Those that are called.
        tools: What the calls share.
        cache: Where answers are kept.
        cached: The calls that the cache serves; None without one.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        headers: Mapping[str, str] | None = None,
        limiter: LimiterSettings | None = None,
        breaker: BreakerSettings | None = None,
        residency: ModelResidency | None = None,
        listeners: Iterable[Listener] = (),
        hooks: Hooks | None = None,
        cache: ResponseCache | None = None,
        transport: Transport | None = None,
    ) -> None:
        self.settings = settings
        self._headers = dict(headers or {})
        self._hooks = hooks or Hooks()
        self._transport: Transport | None = (
            None if transport is None else CustomTransport(transport)
        )
        self._owns_transport = transport is None
        self.closed = self._ended = False
        self._loop = LoopBinding(self._forget_loop)
        self._limiter_settings = limiter or LimiterSettings()
        self._breaker_settings = breaker or BreakerSettings()
        self.metrics = Metrics()
        self.events = EventBus(*listeners)
        self._attach_listeners()
        policy = residency or ModelResidency.of(settings)
        self._coordination = UsageRegistry(Paths.from_home(settings.home).usage_file, policy.hold_s)
        self._idle_unloader = IdleUnloader(self._model_managers, policy, time.monotonic)
        self._residency_context = ResidencyContext(
            policy=policy, events=self.events, wake=self._idle_unloader.notify
        )
        self._locators = [self._locator(each) for each in settings.per_service()]
        self.services = ServicePool(
            [self._make_service(locator, locator.get_endpoint) for locator in self._locators],
            lambda: self._make_service(self._locators[0], self._locators[0].get_embedded),
        )
        self.tools = CallContext(
            services=self.services,
            retry=Retry(settings.max_retries, RETRY_BACKOFF, RetryBudget()),
            events=self.events,
            latencies=Latencies(),
            is_closed=lambda: self.closed,
            binding=self._loop,
        )
        self.cache = make_cache(settings.cache) if cache is None else cache
        self._kept_in = self.cache if cache is None else _own_cache(cache)
        self.cached = self._cached()

    async def route(self, name: str, *, download: bool = False) -> tuple[Connection, Model]:
        """The service and the model there that a name means.

        Raises:
            ModelError: As `Connection.resolve`.
            ServiceError: No service was found or could be started.
        """
        self._check_use()
        service = await self.services.select_for_model(name)
        connection = await service.connect_verified()
        try:
            return connection, await connection.resolve(name, download=download)
        except (ServiceCrashed, ServiceNotRunning):
            service.invalidate(connection)
            raise

    async def connect(self) -> Connection:
        """The connection to the service, or to the first of several.

        Raises:
            ClientClosed: The client was closed.
            ServiceError: No service was found or could be started.
        """
        self._check_use()
        return await self.services.primary.connect_verified()

    def check_open(self) -> None:
        """Refuse to go on after `close`.

        Raises:
            ClientClosed: The client was closed.
        """
        if self.closed:
            raise ClientClosed("the client is closed")

    async def close(self) -> None:
        """End the calls, close the connections, and stop the engine, if this client started it.

        Raises:
            InvalidRequest: Another event loop runs that the client is bound to.
        """
        self._loop.bind()
        self.closed = True
        if self.cached is not None:
            await self.cached.end()
            self._kept_in.unbind(self.events.emit)
            await self._kept_in.close()
        await self._idle_unloader.aclose()
        await self._release_stored_responses()
        await self.services.aclose()
        await self._coordination.aclose()
        for locator in self._locators:
            await locator.aclose()
        self._ended = True
        if self._owns_transport and self._transport is not None:
            await self._transport.aclose()

    async def _release_stored_responses(self) -> None:
        """Have stored responses deleted, unless the engine ends with this client anyway."""
        connections = [service.connection for service in self.services]
        for connection in connections:
            if connection is not None and connection.endpoint.origin != "embedded":
                await connection.stored_responses.release_all()

    def _cached(self) -> CachedCalls | None:
        if not self.cache.active:
            return None
        from foundry_api.core.cache.calls import CachedCalls  # noqa: PLC0415 - few clients have one

        self._kept_in.bind(self.settings.home, self.events.emit)
        return CachedCalls(self.tools, self._kept_in, hooked=bool(self._hooks.requests))

    def _attach_listeners(self) -> None:
        log = logging.getLogger("foundry_api")
        log.setLevel(self.settings.log_level)
        self.events.subscribe(self.metrics, *Metrics.EVENT_TYPES)
        self.events.subscribe(CallLog(log), *CallLog.event_types(self.settings.log_level))

    def _locator(self, settings: Settings) -> ServiceLocator:
        return ServiceLocator(
            settings,
            Paths.from_home(settings.home),
            partial(self._discovery_transport, settings.base_url),
        )

    def _discovery_transport(self, base_url: str | None) -> Transport:
        """What a service is looked for with: at an address of the caller's, as he wants it."""
        transport = self._open_transport()
        if base_url is None:
            return transport
        return self._hooks.wrap(transport, is_explicit=True, headers=self._headers)

    def _make_service(
        self, locator: ServiceLocator, locate: Callable[[], Coroutine[None, None, Endpoint]]
    ) -> ServiceHandle:
        return ServiceHandle(
            locator.name,
            lambda: self._open(locate),
            locator.invalidate,
            CircuitBreaker(self._breaker_settings, listener=self.events.emit),
            Limiter(self._limiter_settings),
        )

    async def _open(self, locate: Callable[[], Coroutine[None, None, Endpoint]]) -> Connection:
        self._check_use()
        if self._transport is None:
            # An engine takes as long to start as the HTTP library takes to import.
            endpoint, _ = await asyncio.gather(locate(), asyncio.to_thread(_import_http))
        else:
            endpoint = await locate()
        transport = self._open_transport()
        control = ControlClient(transport, endpoint.control) if endpoint.control else None
        private = endpoint.origin == "embedded"
        others = NoCoordination() if private else self._coordination.at(endpoint.base_url)
        return Connection(
            endpoint,
            self._hooks.wrap(transport, is_explicit=endpoint.origin == "explicit"),
            self._headers_for(endpoint),
            control,
            store=CatalogStore(self.settings.home),
            others=others,
            keeping=self._residency_context,
        )

    def _check_use(self) -> None:
        self.check_open()
        self._loop.bind()

    def _check_sending(self) -> None:
        """Refuse to send anything once the connections were closed, or on a second event loop."""
        if self._ended:
            raise ClientClosed("the client is closed")
        self._loop.bind()

    def _forget_loop(self) -> None:
        """The event loop before this one has ended, perhaps without ending the calls there."""
        for service in self.services:
            service.attempts.clear()
            service.limiter.reset()
            service.breaker.end_trial()

    def _model_managers(self) -> list[ModelManager]:
        connections = [service.connection for service in self.services]
        return [each.memory for each in connections if each is not None]

    def _headers_for(self, endpoint: Endpoint) -> dict[str, str]:
        # A key meant for one address must not reach a service that was merely found.
        if self.settings.api_key and endpoint.origin == "explicit":
            return {"Authorization": f"Bearer {self.settings.api_key}", **self._headers}
        return self._headers

    def _open_transport(self) -> Transport:
        transport = self._transport
        if transport is None:
            transport = self._transport = _import_http().HttpTransport(
                self.settings.connect_timeout_s, check=self._check_sending
            )
        return transport


def _own_cache(cache: ResponseCache) -> ResponseCache:
    from foundry_api.core.cache.custom import OwnCache  # noqa: PLC0415 - few clients have one

    return OwnCache(cache)


def _import_http() -> ModuleType:
    """The transport's module. Its aiohttp takes 0.2 s, which creating a client must not cost."""
    return importlib.import_module("foundry_api.wire.http")
