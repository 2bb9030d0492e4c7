"""The services of a client, and the choice of the one to call next."""

from __future__ import annotations

import asyncio
import difflib
import logging
import math
from functools import partial
from typing import TYPE_CHECKING, Protocol

from foundry_api.core.abandoned_reads import AbandonedReads
from foundry_api.resilience.prompt_reading import PromptReadings
from foundry_api.resilience.single_flight import SingleFlight
from foundry_api.types.errors import (
    FoundryError,
    ModelNotFound,
    ServiceCrashed,
    ServiceError,
    ServiceNotRunning,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from foundry_api.core.connection import Connection
    from foundry_api.core.engine_replacement import EngineReplacement
    from foundry_api.core.model_offer import ModelOffer
    from foundry_api.resilience.breaker import CircuitBreaker
    from foundry_api.resilience.limiter import Limiter

__all__ = ["DEMO", "ServiceHandle", "ServicePool"]

log = logging.getLogger("foundry_api")

# How often the models are loaded again after another crash. One of them may be its cause.
MAX_RECOVERY_CRASHES = 2

SERVICE_DOWN_ERRORS = (ServiceCrashed, ServiceNotRunning)

# How old a listing is at least before a call for an unknown model has the service asked again.
MIN_CHECK_S = 1.0
# How many checks in a row fail before calls that wait for their first token go elsewhere.
MAX_FAILED_CHECKS = 2

# Of more services than the first number, each call compares as many as the second one. To compare a
# hundred takes as long as much else that is done for a call, and finds hardly a better one.
MANY_SERVICES = 32
COMPARED_SERVICES = 16

# The order in which services are called.
PROBE_DUE, HEALTHY, FAILING = range(3)

# The model that this package ships. Only its own engine host serves it.
DEMO = "demo"


class RunningAttempt(Protocol):
    """What a service knows of a call that is assigned to it; see `Attempt`."""

    @property
    def name(self) -> str:
        """The name of the model, as it was requested."""
        ...

    def give_up(self) -> None:
        """End a wait for the first token."""
        ...


class ServiceHandle:
    """One service, across restarts, with its circuit breaker and its limiter.

    `name` is a placeholder until the address is known. `connect` finds or starts the service.
    `forget` drops the address that discovery found, so that the next `connect` searches again.
    `offer` has the models that it is called for; None for all calls.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Coroutine[None, None, Connection]],
        forget: Callable[[], None],
        breaker: CircuitBreaker,
        limiter: Limiter,
        *,
        offer: ModelOffer | None = None,
    ) -> None:
        self.breaker = breaker
        self.limiter = limiter
        self.attempts: set[RunningAttempt] = set()  # assigned to this service, and not ended yet
        self.readings = PromptReadings()
        self.abandoned_reads = AbandonedReads(limiter)
        self.replacement: EngineReplacement | None = None  # set by the owner, if it is allowed
        self.offer = offer
        self.weight = 1.0 if offer is None else offer.options.weight
        self.problem = ""  # why it does not respond; only if it has an offer
        self._checking: SingleFlight[None] = SingleFlight()
        self._checked_at = -math.inf
        self.failed_checks = 0  # since the last one that succeeded
        self.on_failed_check: Callable[[], None] | None = None  # set by the pool
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

    @property
    def is_healthy(self) -> bool:
        """Whether calls succeed, as far as is known."""
        return self.breaker.state == "closed" and not self.problem

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

    async def check(self, *, max_age_s: float = 0.0) -> None:
        """Find out whether the service responds, and which models it has. Raises nothing.

        A check in the last `max_age_s` counts. While the service does not respond, calls go to
        other services if there are any.
        """
        now = asyncio.get_running_loop().time()
        if self.offer is not None and not now - self._checked_at < max_age_s:
            await self._checking.run("check", partial(self._check, self.offer))

    async def _check(self, offer: ModelOffer) -> None:
        connection = self.connection
        try:
            connection = await self.connect()
            models = await connection.list_local_models()
        except FoundryError as error:
            self.problem = error.message
            self.failed_checks += 1
            if connection is not None and isinstance(error, ServiceError):
                self.invalidate(connection)
            if self.on_failed_check is not None:
                self.on_failed_check()
        else:
            self.problem, self.failed_checks = "", 0
            offer.update(models)
        self._checked_at = asyncio.get_running_loop().time()

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
        try:
            connection = self.connection = await self._connect()
        except FoundryError as error:
            if self.offer is not None:
                self.problem = error.message  # until a check or a call finds it again
            raise
        self.problem = ""
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
    Services that differ in their models have offers, all of them. They may join and leave, and
    there may be none.

    Attributes:
        handles: The services of the settings, and our own engine host once it is used.
        has_offers: Whether the services differ in their models.
    """

    def __init__(
        self, services: Sequence[ServiceHandle], make_own: Callable[[], ServiceHandle]
    ) -> None:
        self._set_services(services)
        self._make_own = make_own
        self._own: ServiceHandle | None = None
        self._next = 0  # the first service to compare for the next call, if there are many
        self.has_offers = all(service.offer is not None for service in self._services)
        # Most clients have one service, which gets every call.
        self._only = None if self.has_offers or len(services) > 1 else self._services[0]
        if self._only is None:
            for service in self._services:
                self._attach(service)

    def __iter__(self) -> Iterator[ServiceHandle]:
        return iter(self.handles)

    @property
    def primary(self) -> ServiceHandle:
        """The first service of the settings.

        Raises ServiceNotRunning if there is none at present.
        """
        if not self._services:
            raise _make_empty_error()
        return self._services[0]

    def add(self, service: ServiceHandle) -> None:
        """Add a service to those that differ in their models."""
        self._attach(service)
        self._set_services((*self._services, service))

    def remove(self, service: ServiceHandle) -> None:
        """Give a service no more calls. Those that wait for it go to others that have their models.

        Answers that have begun go on for as long as the service sends them.
        """
        self._set_services([one for one in self._services if one is not service])
        service.on_failed_check = service.limiter.on_idle = None
        self._leave(service, is_gone=True)

    def _set_services(self, services: Sequence[ServiceHandle]) -> None:
        self._services = self.handles = tuple(services)
        # A share of the calls by weight is a share among all services.
        self._are_many_alike = (
            len(services) > MANY_SERVICES and len({service.weight for service in services}) == 1
        )

    def _attach(self, service: ServiceHandle) -> None:
        service.on_failed_check = partial(self._leave, service)
        service.limiter.on_idle = partial(self._move_waiting_call, service)

    def pick(
        self, tried: AbstractSet[ServiceHandle] = frozenset(), name: str = ""
    ) -> ServiceHandle | None:
        """Return the least busy of the healthy services. Those in `tried` come last.

        Of many services, it may be one that is nearly the least busy. None if no service is known
        to have the model with a name. Without a name, any will do.
        """
        if self._only is not None:
            return self._only
        if self._are_many_alike and (service := self._pick_of_some(tried, name)) is not None:
            return service
        services = self._find_offering(name) if self.has_offers and name else self._services
        return min(
            services, key=lambda service: (service in tried, *_get_load(service)), default=None
        )

    def _pick_of_some(self, tried: AbstractSet[ServiceHandle], name: str) -> ServiceHandle | None:
        """Return the least busy of the next few services; None if none of them has room."""
        services = self._services
        compared: list[ServiceHandle] = []
        for offset in range(len(services)):
            service = services[(self._next + offset) % len(services)]
            has_model = not name or service.offer is None or service.offer.has(name)
            if has_model and service not in tried:
                compared.append(service)
                if len(compared) == COMPARED_SERVICES:
                    break
        else:  # these are all that have the model
            return min(compared, key=_get_load, default=None)
        # The next call begins behind them, so that each service has its turn.
        self._next = (self._next + offset + 1) % len(services)
        best = min(compared, key=_get_load)
        rank, is_full, _ = _get_load(best)
        return best if rank <= HEALTHY and not is_full else None

    def has_untried(self, tried: AbstractSet[ServiceHandle], name: str = "") -> bool:
        services: Sequence[ServiceHandle] = self._services
        if self.has_offers:
            services = self._find_offering(name) or self._find_unknown(name)
        return any(service not in tried for service in services)

    def select(self, name: str, tried: AbstractSet[ServiceHandle]) -> ServiceHandle | None:
        """As `select_for_model`, but returns None if that would have to connect first."""
        if self._only is not None:
            return None if name.lower() == DEMO else self._only
        return self.pick(tried, name)

    async def select_for_model(
        self, name: str, tried: AbstractSet[ServiceHandle] = frozenset()
    ) -> ServiceHandle:
        """Return the service to call next. For `demo` this may be our own engine host.

        Raises ModelNotFound if the services differ in their models and none has this one, and
        ServiceNotRunning if there is none at present.
        """
        service = self.pick(tried, name)
        if service is None:
            return await self._find_service(name, tried)
        # With several services, the user has listed those to use, so our own is not added.
        if name.lower() == DEMO and self._only is not None:
            connection = service.connection or await service.connect()
            # Discovery found a service that Foundry Local started. It does not have the model.
            if connection.endpoint.origin in {"cli", "port"}:
                if self._own is None:
                    self._own = self._make_own()
                    self.handles = (*self._services, self._own)
                return self._own
        return service

    async def check(self) -> None:
        """Check all services at the same time; see `ServiceHandle.check`."""
        await asyncio.gather(*(service.check() for service in self._services))

    async def _find_service(self, name: str, tried: AbstractSet[ServiceHandle]) -> ServiceHandle:
        """Ask the services for their models, as one may have got this one since it was asked."""
        checks = [
            asyncio.ensure_future(service.check(max_age_s=MIN_CHECK_S))
            for service in self._services
        ]
        try:
            for check in asyncio.as_completed(checks):
                await check
                if (service := self.pick(tried, name)) is not None:
                    return service
        finally:
            for check in checks:
                check.cancel()
            await asyncio.gather(*checks, return_exceptions=True)
        # It may be the model of a service that has never answered.
        if unknown := self._find_unknown(name):
            return min(unknown, key=lambda service: (service in tried, *_get_load(service)))
        if not self._services:
            raise _make_empty_error()
        models = [
            one for service in self._services if service.offer for one in service.offer.models
        ]
        names = sorted({text for one in models for text in (one.alias, one.id)})
        raise ModelNotFound(
            f"no service has a model named {name!r}",
            nearest=difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5),
            model=name,
        )

    def _find_offering(self, name: str) -> list[ServiceHandle]:
        """Return the services that are known to have a model."""
        return [one for one in self._services if one.offer is not None and one.offer.has(name)]

    def _find_unknown(self, name: str) -> list[ServiceHandle]:
        """Return the services that have never listed their models."""
        return [
            one for one in self._services if one.offer is not None and one.offer.has(name) is None
        ]

    def _move_waiting_call(self, free: ServiceHandle) -> None:
        """Let a call that waits for the busiest service use the free one."""
        if free.breaker.state != "closed" or free.connection is None or free.problem:
            return
        may_take = None if free.offer is None else free.offer.has
        if may_take is None:
            max(self._services, key=lambda service: service.limiter.queued).limiter.move_waiter()
            return
        waited_for = [service for service in self._services if service.limiter.queued]
        for service in sorted(waited_for, key=lambda service: -service.limiter.queued):
            if service.limiter.move_waiter(may_take):
                return

    def _leave(self, service: ServiceHandle, *, is_gone: bool = False) -> None:
        """Let calls that wait for a service go to others that have their models."""

        def may_go(model: str) -> bool:
            return any(other.is_healthy for other in self._find_offering(model))

        while service.limiter.move_waiter(may_go):
            pass
        # It hangs, as its connections have not ended. Once may be a moment of high load.
        if is_gone or service.failed_checks >= MAX_FAILED_CHECKS:
            for attempt in list(service.attempts):
                if may_go(attempt.name):
                    attempt.give_up()

    async def aclose(self) -> None:
        for service in self:
            await service.aclose()


def _make_empty_error() -> ServiceNotRunning:
    return ServiceNotRunning(
        "there is no service at present", hint="Call again once one has been added."
    )


def _get_load(service: ServiceHandle) -> tuple[int, bool, float]:
    """Return a sort key: healthy services before failing ones, then by their calls."""
    if service.breaker.is_probe_due and not service.problem:
        # First of all: without a call to probe it, the service would stay excluded.
        return PROBE_DUE, False, 0.0
    # `attempts` counts calls from their assignment on. In a burst the first calls still connect and
    # load the model, and the limiter does not know them yet.
    calls = max(len(service.attempts), service.limiter.load)
    is_full = calls >= service.limiter.limit
    return (HEALTHY if service.is_healthy else FAILING), is_full, (calls + 1) / service.weight
