"""The services of a client, and the choice of the one to call next."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from foundry_api.core.abandoned_reads import AbandonedReads
from foundry_api.resilience.prompt_reading import PromptReadings
from foundry_api.resilience.single_flight import SingleFlight
from foundry_api.types.errors import FoundryError, ServiceCrashed, ServiceError, ServiceNotRunning

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from foundry_api.core.connection import Connection
    from foundry_api.core.engine_replacement import EngineReplacement
    from foundry_api.resilience.breaker import CircuitBreaker
    from foundry_api.resilience.limiter import Limiter

__all__ = ["DEMO", "ServiceHandle", "ServicePool"]

log = logging.getLogger("foundry_api")

# How often the models are loaded again after another crash. One of them may be its cause.
MAX_RECOVERY_CRASHES = 2

SERVICE_DOWN_ERRORS = (ServiceCrashed, ServiceNotRunning)

# The model that this package ships. Only its own engine host serves it.
DEMO = "demo"


class ServiceHandle:
    """One service, across restarts, with its circuit breaker and its limiter.

    `name` is a placeholder until the address is known. `connect` finds or starts the service.
    `forget` drops the address that discovery found, so that the next `connect` searches again.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Coroutine[None, None, Connection]],
        forget: Callable[[], None],
        breaker: CircuitBreaker,
        limiter: Limiter,
    ) -> None:
        self.breaker = breaker
        self.limiter = limiter
        self.attempts: set[object] = set()  # assigned to this service and not ended yet
        self.readings = PromptReadings()
        self.abandoned_reads = AbandonedReads(limiter)
        self.replacement: EngineReplacement | None = None  # set by the owner, if it is allowed
        # `ClientRuntime._make_service` passes both. `connect` locates or starts the service and
        # opens a Connection to it; `forget` is `ServiceLocator.invalidate`.
        self._connect = connect
        self._forget = forget
        self.connection: Connection | None = None
        self._connecting: SingleFlight[Connection] = SingleFlight()  # concurrent calls share one
        self._recovery: asyncio.Task[None] | None = None
        self._set_name(name)

    @property
    def name(self) -> str:
        """The base URL, or a placeholder before the first connection."""
        return self.breaker.service

    async def connect(self) -> Connection:
        """Return the connection; find or start the service if there is none."""
        return self.connection or await self._connecting.run("connection", self._open)

    async def connect_verified(self) -> Connection:
        """Return a connection to the service that answers at the address now."""
        connection = await self.connect()
        if await connection.is_replaced():
            self.invalidate(connection)
            connection = await self.connect()
        return connection

    async def probe(self) -> None:
        """Raise if the service does not respond. Does not generate anything."""
        connection = self.connection
        if connection is not None:
            try:
                await connection.dialect.get_status()
            except ServiceError:  # it is down, or a service of another generation replaced it
                self.invalidate(connection)
            else:
                return
        await self.connect()

    def invalidate(self, connection: Connection) -> None:
        """Drop a connection whose service is gone."""
        if connection is not self.connection:
            return  # another call was first
        self.connection = None
        self._forget()
        if connection.loaded and not connection.dialect.manages_calls:
            # Recover in the background, so that the next calls need not wait for the loading.
            self._recovery = asyncio.create_task(self._reload_models(connection.loaded))

    async def aclose(self) -> None:
        self.connection = None
        if self.replacement is not None:
            await self.replacement.aclose()
        await self.abandoned_reads.aclose()
        recovery, self._recovery = self._recovery, None
        # A task of another event loop, one that has ended, can't be awaited here.
        if recovery is not None and recovery.get_loop() is asyncio.get_running_loop():
            recovery.cancel()
            await asyncio.wait({recovery})

    async def _open(self) -> Connection:
        connection = self.connection = await self._connect()
        if self._set_name(connection.endpoint.base_url):
            # A new address is another engine. Failures of the old one must not block calls to it,
            # and its pace must not refuse any.
            self.breaker.reset()
            self.readings = PromptReadings()
        return connection

    async def _reload_models(self, models: Sequence[str]) -> None:
        failure = await self._reload_once(models)
        for _ in range(MAX_RECOVERY_CRASHES):
            if not isinstance(failure, SERVICE_DOWN_ERRORS):
                break
            failure = await self._reload_once(models)
        if failure is not None:
            log.warning("the models of %s could not be loaded again: %s", self.name, failure)

    async def _reload_once(self, models: Sequence[str]) -> FoundryError | None:
        """Connect and load the models. Return the error, if any."""
        connection: Connection | None = None
        try:
            connection = await self.connect()
            for model in models:
                await connection.ensure_loaded(await connection.resolve(model))
        except FoundryError as error:
            if isinstance(error, SERVICE_DOWN_ERRORS) and connection is self.connection:
                self.connection = None
                self._forget()
            return error
        return None

    def _set_name(self, name: str) -> bool:
        """Set the name and return whether it changed."""
        changed = name != self.breaker.service
        self.breaker.service = self.limiter.service = name
        return changed


class ServicePool:
    """All the services of a client.

    `make_own` creates the handle of our own engine host, which alone serves the demo model.

    Attributes:
        handles: The services of the settings, and our own engine host once it is used.
    """

    def __init__(
        self, services: Sequence[ServiceHandle], make_own: Callable[[], ServiceHandle]
    ) -> None:
        self._services = self.handles = tuple(services)
        self._make_own = make_own
        self._own: ServiceHandle | None = None
        if len(self._services) > 1:
            for service in self._services:
                service.limiter.on_idle = partial(self._move_waiting_call, service)

    def __iter__(self) -> Iterator[ServiceHandle]:
        return iter(self.handles)

    @property
    def primary(self) -> ServiceHandle:
        """The first service of the settings."""
        return self._services[0]

    def pick(self, tried: AbstractSet[ServiceHandle] = frozenset()) -> ServiceHandle:
        """Return the least busy of the healthy services. Those in `tried` come last."""
        if len(self._services) == 1:
            return self._services[0]
        return min(self._services, key=lambda service: (service in tried, *_get_load(service)))

    def has_untried(self, tried: AbstractSet[ServiceHandle]) -> bool:
        return any(service not in tried for service in self._services)

    def select(self, name: str, tried: AbstractSet[ServiceHandle]) -> ServiceHandle | None:
        """As `select_for_model`, but returns None if that would have to connect first."""
        if len(self._services) == 1:
            return None if name.lower() == DEMO else self._services[0]
        return self.pick(tried)

    async def select_for_model(
        self, name: str, tried: AbstractSet[ServiceHandle] = frozenset()
    ) -> ServiceHandle:
        """Return the service to call next. For `demo` this may be our own engine host."""
        service = self.pick(tried)
        # With several services, the user has listed those to use, so our own is not added.
        if name.lower() == DEMO and len(self._services) == 1:
            connection = service.connection or await service.connect()
            # Discovery found a service that Foundry Local started. It does not have the model.
            if connection.endpoint.origin in {"cli", "port"}:
                if self._own is None:
                    self._own = self._make_own()
                    self.handles = (*self._services, self._own)
                return self._own
        return service

    def _move_waiting_call(self, free: ServiceHandle) -> None:
        """Let a call that waits for the busiest service use the free one."""
        if free.breaker.state == "closed" and free.connection is not None:
            max(self._services, key=lambda service: service.limiter.queued).limiter.move_waiter()

    async def aclose(self) -> None:
        for service in self:
            await service.aclose()


def _get_load(service: ServiceHandle) -> tuple[int, int]:
    """Return a sort key: healthy services before failing ones, then by their calls."""
    if service.breaker.is_probe_due:
        return 0, 0  # first of all: without a call to probe it, the service would stay excluded
    # `attempts` counts calls from their assignment on. In a burst the first calls still connect and
    # load the model, and the limiter does not know them yet.
    calls = max(len(service.attempts), service.limiter.load)
    return (1 if service.breaker.state == "closed" else 2), calls
