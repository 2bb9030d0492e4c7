"""The parts of a client, built and wired together."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from foundry_api.core.cache.select import make_cache
from foundry_api.core.call import CallContext
from foundry_api.core.catalog import CatalogStore
from foundry_api.core.connection import Connection
from foundry_api.core.engine_replacement import EngineReplacement
from foundry_api.core.loop_binding import LoopBinding
from foundry_api.core.model_offer import ModelOffer
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
from foundry_api.resilience.limiter import Limiter, LimiterSettings
from foundry_api.resilience.retry import Retry, RetryBudget
from foundry_api.resilience.timeouts import Latencies
from foundry_api.storage.paths import Paths
from foundry_api.types.errors import (
    ClientClosed,
    ConfigurationError,
    ServiceCrashed,
    ServiceNotRunning,
)
from foundry_api.types.events import EventBus
from foundry_api.types.plain_text import SanitizingFilter
from foundry_api.wire.custom_transport import CustomTransport
from foundry_api.wire.hooks import BearerKey, Hooks

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from foundry_api.core.cache.base import ResponseCache
    from foundry_api.core.cache.calls import CachedCalls
    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.types.events import Listener
    from foundry_api.types.models import Model
    from foundry_api.types.services import ServiceOptions
    from foundry_api.types.settings import Settings
    from foundry_api.wire.transport import Transport

__all__ = ["ClientRuntime"]

# Without this handler, Python prints warnings to stderr if the user has not configured logging.
logging.getLogger("foundry_api").addHandler(logging.NullHandler())
logging.getLogger("foundry_api").addFilter(SanitizingFilter())

# These services load their models themselves, so that their clients need not agree on that.
SELF_MANAGED = frozenset({"gateway", "openai"})

RETRY_BACKOFF = Backoff(base_s=0.1, cap_s=5.0)


class ClientRuntime:
    """The services of a client and the state that its calls share. Creating one does no I/O.

    `residency`, `cache` and `transport` replace the ones that the settings describe.
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
        self.closed = self._is_shut_down = False
        self._loop = LoopBinding(self._forget_loop)
        self._limiter_settings = limiter or LimiterSettings()
        self._breaker_settings = breaker or BreakerSettings()
        self.metrics = Metrics()
        self.events = EventBus(*listeners)
        self._attach_listeners()
        policy = residency or ModelResidency.from_settings(settings)
        self._coordination = UsageRegistry(Paths.from_home(settings.home).usage_file, policy.hold_s)
        self._idle_unloader = IdleUnloader(
            lambda: [
                service.connection.models
                for service in self.services
                if service.connection is not None
            ],
            policy,
            time.monotonic,
        )
        self._residency_context = ResidencyContext(
            policy=policy, events=self.events, wake=self._idle_unloader.notify
        )
        options: Sequence[ServiceOptions | None] = (
            (None,) * len(settings.per_service())
            if settings.services is None
            else settings.services
        )
        self._locators = [
            self._make_locator(service_settings, service_options)
            for service_settings, service_options in zip(
                settings.per_service(), options, strict=True
            )
        ]
        self._added: dict[ServiceHandle, ServiceLocator] = {}  # since the client was created
        self.services = ServicePool(
            [
                self._make_service(locator, locator.get_endpoint, service_options)
                for locator, service_options in zip(self._locators, options, strict=True)
            ],
            lambda: self._make_service(self._locators[0], self._locators[0].get_embedded),
        )
        self.call_context = CallContext(
            services=self.services,
            retry=Retry(settings.max_retries, RETRY_BACKOFF, RetryBudget()),
            events=self.events,
            latencies=Latencies(),
            is_closed=lambda: self.closed,
            binding=self._loop,
        )
        self.cache = make_cache(settings.cache) if cache is None else cache
        # Calls use the caller's cache through a wrapper: its errors must not fail them.
        self._entry_cache = self.cache if cache is None else _wrap_cache(cache)
        self.cached = self._make_cached_calls()  # None without a cache

    async def route(self, name: str, *, download: bool = False) -> tuple[Connection, Model]:
        """Return a service that has the model, and the model there."""
        self._check_use()
        service = await self.services.select_for_model(name)
        connection = await service.connect_verified()
        try:
            return connection, await connection.resolve(name, download=download)
        except (ServiceCrashed, ServiceNotRunning):
            service.invalidate(connection)
            raise

    async def connect(self) -> Connection:
        """Return the connection to the service, or to the first of several."""
        self._check_use()
        return await self.services.primary.connect_verified()

    def add_service(self, options: ServiceOptions) -> ServiceHandle:
        """Add a service to those that differ in their models."""
        self._check_use()
        if not self.services.has_offers:
            raise ConfigurationError(
                "only a client whose settings have `services` gets further ones",
                hint="Give its settings `services`, which may be empty.",
            )
        settings = replace(self.settings, base_url=options.base_url, services=None, api_key=None)
        locator = self._make_locator(settings, options)
        service = self._make_service(locator, locator.get_endpoint, options)
        self._added[service] = locator
        self.services.add(service)
        return service

    async def remove_service(self, service: ServiceHandle) -> None:
        """Remove a service that was added. Calls that wait for it go to others."""
        locator = self._added.pop(service, None)
        if locator is None:
            raise ConfigurationError(
                f"{service.name} is no service that was added", hint="Remove each service once."
            )
        self.services.remove(service)
        await service.aclose()
        await locator.aclose()

    def check_open(self) -> None:
        """Raise ClientClosed if the client is closed."""
        if self.closed:
            raise ClientClosed("the client is closed")

    async def aclose(self) -> None:
        """End the calls, close the connections, and stop the engine if this client started it."""
        self._loop.bind()
        self.closed = True  # no new calls; the steps below still send requests
        if self.cached is not None:
            await self.cached.end()
            self._entry_cache.unbind(self.events.emit)
            await self._entry_cache.close()
        await self._idle_unloader.aclose()
        for connection in [service.connection for service in self.services]:
            # An embedded engine ends with this client, and its stored responses with it.
            if connection is not None and connection.endpoint.origin != "embedded":
                await connection.stored_responses.release_all()
        await self.services.aclose()
        await self._coordination.aclose()
        for locator in (*self._locators, *self._added.values()):
            await locator.aclose()
        self.call_context.timers.cancel()
        self._is_shut_down = True
        if self._owns_transport and self._transport is not None:
            await self._transport.aclose()

    def _make_cached_calls(self) -> CachedCalls | None:
        if not self.cache.active:
            return None
        from foundry_api.core.cache.calls import CachedCalls  # noqa: PLC0415 - few clients have one

        self._entry_cache.bind(self.settings.home, self.events.emit)
        return CachedCalls(
            self.call_context, self._entry_cache, has_request_hooks=bool(self._hooks.requests)
        )

    def _attach_listeners(self) -> None:
        log = logging.getLogger("foundry_api")
        log.setLevel(self.settings.log_level)
        self.events.subscribe(self.metrics, *Metrics.EVENT_TYPES)
        self.events.subscribe(CallLog(log), *CallLog.event_types(self.settings.log_level))

    def _get_discovery_transport(
        self, base_url: str | None, options: ServiceOptions | None
    ) -> Transport:
        transport = self._open_transport()
        if base_url is None:
            # Discovery probes ports of any program, which must not get the caller's credentials.
            return transport
        hooks = self._make_hooks(options)
        return hooks.wrap(transport, is_explicit=True, headers=self._headers)

    def _make_hooks(self, options: ServiceOptions | None) -> Hooks:
        """Return the hooks for a service, with the key that it alone gets."""
        if options is None or options.get_api_key is None:
            return self._hooks
        return replace(self._hooks, auth=BearerKey(options.get_api_key))

    def _make_locator(self, settings: Settings, options: ServiceOptions | None) -> ServiceLocator:
        return ServiceLocator(
            settings,
            Paths.from_home(settings.home),
            partial(self._get_discovery_transport, settings.base_url, options),
            protocol=options.protocol if options else "foundry",
        )

    def _make_service(
        self,
        locator: ServiceLocator,
        locate: Callable[[], Coroutine[None, None, Endpoint]],
        options: ServiceOptions | None = None,
    ) -> ServiceHandle:
        limiter = self._limiter_settings
        if options is not None and options.concurrency is not None:
            limiter = replace(limiter, concurrency=options.concurrency)
        offer = None if options is None else ModelOffer(options)
        service = ServiceHandle(
            locator.name,
            lambda: self._open(locate, offer),  # called by `ServiceHandle.connect`
            locator.invalidate,
            CircuitBreaker(self._breaker_settings, listener=self.events.emit),
            Limiter(limiter),
            offer=offer,
        )
        if self.settings.engine_processes > 1:
            service.replacement = EngineReplacement(service, locator.retire_host)
        return service

    async def _open(
        self,
        locate: Callable[[], Coroutine[None, None, Endpoint]],
        offer: ModelOffer | None,
    ) -> Connection:
        self._check_use()
        endpoint = await locate()
        transport = self._open_transport()
        control = ControlClient(transport, endpoint.control) if endpoint.control else None
        is_private = endpoint.origin == "embedded" or endpoint.service_generation in SELF_MANAGED
        coordination = (
            NoCoordination() if is_private else self._coordination.for_service(endpoint.base_url)
        )
        is_explicit = endpoint.origin == "explicit"
        headers = self._headers
        if self.settings.api_key and is_explicit:
            # The key is meant for one address, and must not go to a service that discovery found.
            headers = {"Authorization": f"Bearer {self.settings.api_key}", **headers}
        hooks = self._make_hooks(None if offer is None else offer.options)
        return Connection(
            endpoint,
            hooks.wrap(transport, is_explicit=is_explicit),
            headers,
            control,
            store=CatalogStore(self.settings.home),
            coordination=coordination,
            residency=self._residency_context,
            aliases=None if offer is None else offer.aliases,
        )

    def _check_use(self) -> None:
        """Raise if the client is closed or used on a second event loop."""
        self.check_open()
        self._loop.bind()

    def _check_sending(self) -> None:
        """As `_check_use`, but `aclose` may still send the requests that it needs."""
        if self._is_shut_down:
            raise ClientClosed("the client is closed")
        self._loop.bind()

    def _forget_loop(self) -> None:
        """Reset what the calls of the previous event loop left, which may not have ended."""
        self.call_context.timers.cancel()
        for service in self.services:
            service.attempts.clear()
            service.abandoned_reads.clear()
            service.limiter.reset()
            service.breaker.end_trial()

    def _open_transport(self) -> Transport:
        transport = self._transport
        if transport is None:
            # Imported by the first call: it takes 10 ms, which creating a client need not spend.
            from foundry_api.wire.http import HttpTransport  # noqa: PLC0415

            transport = self._transport = HttpTransport(
                self.settings.connect_timeout_s, check=self._check_sending
            )
        return transport


def _wrap_cache(cache: ResponseCache) -> ResponseCache:
    from foundry_api.core.cache.custom import UserCache  # noqa: PLC0415 - few clients have one

    return UserCache(cache)
