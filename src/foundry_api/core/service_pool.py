"""The services that a client may call: how each is found, and what guards it."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from foundry_api.resilience.single_flight import SingleFlight
from foundry_api.types.errors import FoundryError, ServiceCrashed, ServiceError, ServiceNotRunning

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from foundry_api.core.connection import Connection
    from foundry_api.resilience.breaker import CircuitBreaker
    from foundry_api.resilience.limiter import Limiter

__all__ = ["DEMO", "ServiceHandle", "ServicePool"]

log = logging.getLogger("foundry_api")

MAX_RECOVERY_CRASHES = 2
"""How often a service may die again while what it had in memory is loaded, before that is given up:
what kills it may be the loading."""

SERVICE_GONE_ERRORS = (ServiceCrashed, ServiceNotRunning)

DEMO = "demo"
"""The model that this package carries; only its own engine host serves it."""


class ServiceHandle:
    """One service, over all its restarts.

    Args:
        name: Stands for its address until it is found.
        connect: Finds or starts it, and opens a connection.
        forget: Told when it has to be found anew.
        breaker: Guards it against calls while it fails.
        limiter: Guards it against more calls at once than it can use.

    Attributes:
        breaker: As above.
        limiter: As above.
        connection: The connection to it, while it is known to be there.
        attempts: Those that were assigned to it and have not ended.
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
        self.attempts: set[object] = set()
        self._connect = connect
        self._forget = forget
        self.connection: Connection | None = None
        self._connecting: SingleFlight[Connection] = SingleFlight()
        self._recovery: asyncio.Task[None] | None = None
        self._name(name)

    @property
    def name(self) -> str:
        """Its base URL, or what stands for it before it was found."""
        return self.breaker.service

    async def connect(self) -> Connection:
        """The connection to it; it is found or started if need be.

        Raises:
            ServiceError: It was not found, or could not be started.
        """
        return self.connection or await self._connecting.run("connection", self._open)

    async def connect_verified(self) -> Connection:
        """As `connect`, but found anew if another service has taken its place meanwhile.

        Raises:
            ServiceError: It was not found, or could not be started.
        """
        connection = await self.connect()
        if await connection.is_replaced():
            self.invalidate(connection)
            connection = await self.connect()
        return connection

    async def probe(self) -> None:
        """See whether it is there, without asking it to generate anything.

        Raises:
            FoundryError: It is not.
        """
        connection = self.connection
        if connection is not None:
            try:
                await connection.dialect.get_status()
            except ServiceError:  # it is gone, or another generation has taken its place
                self.invalidate(connection)
            else:
                return
        await self.connect()

    def invalidate(self, connection: Connection) -> None:
        """What was behind this connection is gone. Does nothing if another caller said so before.

        A service that had models in memory is found again at once, and they are loaded again,
        so that the next callers do not wait for it.
        """
        if connection is not self.connection:
            return
        self.connection = None
        self._forget()
        if connection.loaded:
            self._recovery = asyncio.create_task(self._reload_models(connection.loaded))

    async def aclose(self) -> None:
        """Forget the connection, and end what goes on in the background."""
        self.connection = None
        recovery, self._recovery = self._recovery, None
        if recovery is not None and recovery.get_loop() is asyncio.get_running_loop():
            recovery.cancel()
            await asyncio.wait({recovery})

    async def _open(self) -> Connection:
        connection = self.connection = await self._connect()
        if self._name(connection.endpoint.base_url):
            # Another engine took the place of the one that failed, so nothing is held against it.
            self.breaker.reset()
        return connection

    async def _reload_models(self, models: Sequence[str]) -> None:
        failure = await self._reload_once(models)
        for _ in range(MAX_RECOVERY_CRASHES):
            if not isinstance(failure, SERVICE_GONE_ERRORS):
                break
            failure = await self._reload_once(models)
        if failure is not None:
            log.warning("what %s had in memory could not be loaded again: %s", self.name, failure)

    async def _reload_once(self, models: Sequence[str]) -> FoundryError | None:
        """Find the service, and have the models loaded. What went wrong is returned."""
        connection: Connection | None = None
        try:
            connection = await self.connect()
            for model in models:
                await connection.ensure_loaded(await connection.resolve(model))
        except FoundryError as error:
            if isinstance(error, SERVICE_GONE_ERRORS) and connection is self.connection:
                self.connection = None
                self._forget()
            return error
        return None

    def _name(self, name: str) -> bool:
        changed = name != self.breaker.service
        self.breaker.service = self.limiter.service = name
        return changed


class ServicePool:
    """All the services of a client.

    Args:
        usable: Any of them may serve a call.
        own: Makes the engine host of our own, for the model that only it has.
    """

    def __init__(self, usable: Sequence[ServiceHandle], own: Callable[[], ServiceHandle]) -> None:
        self._usable = tuple(usable)
        self._make_own = own
        self._own: ServiceHandle | None = None
        if len(self._usable) > 1:
            for service in self._usable:
                service.limiter.on_idle = partial(self._relieve, service)

    def __iter__(self) -> Iterator[ServiceHandle]:
        """Those that are in use."""
        return iter((*self._usable, self._own) if self._own else self._usable)

    @property
    def primary(self) -> ServiceHandle:
        """The first one."""
        return self._usable[0]

    def pick(self, tried: AbstractSet[ServiceHandle] = frozenset()) -> ServiceHandle:
        """The one to call next: with the fewest calls, among those whose breaker is closed.

        One whose breaker waits for a trial comes before all, or it would never be found back.

        Args:
            tried: Failed this call before; they come last.
        """
        if len(self._usable) == 1:
            return self._usable[0]
        return min(self._usable, key=lambda service: (service in tried, *_load_key(service)))

    def has_untried(self, tried: AbstractSet[ServiceHandle]) -> bool:
        """Whether there is one that did not fail yet."""
        return any(service not in tried for service in self._usable)

    def select(self, name: str, tried: AbstractSet[ServiceHandle]) -> ServiceHandle | None:
        """As `select_for_model`, without waiting; None where a service has to be found first."""
        if len(self._usable) == 1 and name.lower() == DEMO:
            return None
        return self.pick(tried)

    async def select_for_model(
        self, name: str, tried: AbstractSet[ServiceHandle] = frozenset()
    ) -> ServiceHandle:
        """The one to call next for a model: our own for the model that only it has.

        Of several services the user named each; which of them is away shows when it is called, so
        that the call goes on to the next one.

        Raises:
            ServiceError: None was found.
        """
        service = self.pick(tried)
        if name.lower() == DEMO and len(self._usable) == 1:
            connection = service.connection or await service.connect()
            if connection.endpoint.origin in {"cli", "port"}:
                self._own = self._own or self._make_own()
                return self._own
        return service

    def _relieve(self, free: ServiceHandle) -> None:
        """Send a call that waits at another service to one that has a turn for it."""
        if free.breaker.state == "closed" and free.connection is not None:
            max(self._usable, key=lambda service: service.limiter.queued).limiter.move_one()

    async def aclose(self) -> None:
        """Forget every connection."""
        for service in self:
            await service.aclose()


def _load_key(service: ServiceHandle) -> tuple[int, int]:
    if service.breaker.is_probe_due:
        return 0, 0
    # A call counts from the moment at which it was assigned: in a burst, the first ones connect and
    # load before they line up.
    calls = max(len(service.attempts), service.limiter.load)
    return (1 if service.breaker.state == "closed" else 2), calls
