"""`FoundryClient`, written by `python3 dev.py generate` from client/client.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.client.client import FoundryAPIClient
from foundry_api.client.sync.background import BackgroundLoop
from foundry_api.client.sync.batch_methods import SyncBatchMethods
from foundry_api.client.sync.cache import SyncCache
from foundry_api.client.sync.chat_methods import SyncChatMethods
from foundry_api.client.sync.endpoint_methods import SyncEndpointMethods
from foundry_api.client.sync.models import SyncModels
from foundry_api.client.sync.responses import SyncResponses
from foundry_api.client.sync.tool_methods import SyncToolMethods

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Literal, Self

    from foundry_api.core.cache.base import ResponseCache
    from foundry_api.core.residency.policy import ModelResidency
    from foundry_api.core.service_pool import ServiceHandle
    from foundry_api.monitor.health import HealthStatus
    from foundry_api.resilience.breaker import BreakerSettings, CircuitBreaker
    from foundry_api.resilience.limiter import Limiter, LimiterSettings
    from foundry_api.types.capabilities import Capabilities
    from foundry_api.types.events import Listener
    from foundry_api.types.settings import Settings
    from foundry_api.wire.hooks import Auth, RequestHook, ResponseHook
    from foundry_api.wire.transport import Transport

__all__ = ["FoundryClient"]


class FoundryClient(SyncChatMethods, SyncToolMethods, SyncEndpointMethods, SyncBatchMethods):
    """Microsoft Foundry Local as an API, for code without asyncio.

    Every call of `FoundryAPIClient`, blocking. Creating a client does no I/O: its first call
    finds a running service or starts an engine of its own, which leaves with the client, at the
    latest when the program ends. Many threads may use one client at once, also those that run an
    event loop, such as a notebook's. Streams are plain iterators: leaving one early frees the
    engine, and so does Ctrl-C during any call.

    The calls run on a thread of the client's own. Notifier, hooks and other callbacks are called
    there, and can't call the client themselves.

    Args:
        base_url: Address of a service, such as http://127.0.0.1:5273; default
            `FOUNDRY_BASE_URL`, else a service is searched for or started.
        api_key: Bearer token for `base_url`, for a gateway in front of a service; default
            `FOUNDRY_API_KEY`. It is sent nowhere else, and no key of a cloud is ever read. A
            callable gives it anew for each request, so that it may change.
        base_urls: Addresses of several services instead of one. Each call goes to the one with the
            fewest calls, and to another when that fails, or while it waits and the other is free;
            default `FOUNDRY_BASE_URLS`.
        service: `auto` (default), or `embedded` for an engine of its own without a search.
        model: Model of calls that name none; default `FOUNDRY_MODEL`, else phi-4-mini.
        timeout: Seconds without a token before a call gives up, or `auto` for what each model was
            seen to need; default `FOUNDRY_TIMEOUT`, else 30.
        deadline: Seconds for a whole call, with its queueing, loading and retries; default
            `FOUNDRY_DEADLINE`, else none.
        connect_timeout: Seconds that making a connection may take; default
            `FOUNDRY_CONNECT_TIMEOUT`, else 5.
        max_retries: Further attempts after a failed one; default `FOUNDRY_RETRIES`, else 3.
        limiter: How many calls may be in flight at each service; default as many as gain
            throughput, found while calls run.
        breaker: When calls to a service that fails are refused, and for how long.
        residency: Which models stay in the services' memory, and for how long; default
            `FOUNDRY_MODEL_IDLE` and `FOUNDRY_MEMORY_BUDGET`, else all.
        listeners: Called with every event of every call; see `foundry_api.types.events`.
        headers: Sent with every request to the service.
        auth: Puts the credential on every request for `base_url`, instead of `api_key`: gets a
            `Request`, gives the one to send. Called once more when a credential was refused.
        request_hooks: Called with every request to a service; each gives the one to send instead,
            and may change headers and body.
        response_hooks: Called with every request to a service and the head of its answer.
        cache: Where answers are kept, so that who asks the same again gets the same without the
            engine: a `MemoryCache` or a `SqliteCache`. It is closed with the client, and opens
            again where it is used on. Default `FOUNDRY_CACHE`, else none.
        home: Directory for the engine's data, logs and state; default `FOUNDRY_HOME`, else the
            platform's own directories.
        transport: Sends the requests; default one pooled aiohttp session. What one of your own
            raises is `HookFailed`, unless it is an error of this package.
        settings: All settings at once; the arguments above win over it, and the environment is
            then not read.

    Attributes:
        settings: As they were resolved.
        models: The models of the service.
        responses: The Responses API: `client.responses.create("…")`.
        events: The event hook; subscribe listeners to it.
        metrics: What happened, counted: `client.metrics.snapshot()`.
        cache: Where answers are kept: `client.cache.stats()`, `client.cache.clear()`.
            One that keeps nothing where there is none.

    Raises:
        ConfigurationError: A setting cannot be used.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | Callable[[], str | Awaitable[str]] | None = None,
        service: Literal["auto", "embedded"] | None = None,
        base_urls: Sequence[str] | None = None,
        model: str | None = None,
        timeout: float | Literal["auto"] | None = None,
        deadline: float | None = None,
        connect_timeout: float | None = None,
        max_retries: int | None = None,
        limiter: LimiterSettings | None = None,
        breaker: BreakerSettings | None = None,
        residency: ModelResidency | None = None,
        listeners: Iterable[Listener] = (),
        headers: Mapping[str, str] | None = None,
        auth: Auth | None = None,
        request_hooks: Iterable[RequestHook] = (),
        response_hooks: Iterable[ResponseHook] = (),
        cache: ResponseCache | None = None,
        home: Path | str | None = None,
        transport: Transport | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._async = FoundryAPIClient(
            base_url,
            api_key=api_key,
            service=service,
            base_urls=base_urls,
            model=model,
            timeout=timeout,
            deadline=deadline,
            connect_timeout=connect_timeout,
            max_retries=max_retries,
            limiter=limiter,
            breaker=breaker,
            residency=residency,
            listeners=listeners,
            headers=headers,
            auth=auth,
            request_hooks=request_hooks,
            response_hooks=response_hooks,
            cache=cache,
            home=home,
            transport=transport,
            settings=settings,
        )
        self._loop = BackgroundLoop(self._async.close)
        self.settings = self._async.settings
        self.events = self._async.events
        self.metrics = self._async.metrics
        self.cache = SyncCache(self._loop, self._async.cache)
        self.models = SyncModels(self._loop, self._async.models)
        self.responses = SyncResponses(self._loop, self._async.responses)

    @property
    def services(self) -> tuple[ServiceHandle, ...]:
        """The services that it calls, each with its breaker and its limiter."""
        return self._async.services

    @property
    def breaker(self) -> CircuitBreaker:
        """The circuit breaker of the service, or of the first of several."""
        return self._async.breaker

    @property
    def limiter(self) -> Limiter:
        """The limiter of the service, or of the first of several."""
        return self._async.limiter

    def capabilities(self) -> Capabilities:
        """What the generation of the service can do; of several services, the first one's.

        Raises:
            ClientClosed: The client was closed.
            ServiceError: No service was found or could be started.
        """
        return self._loop.run(self._async.capabilities)

    def health_check(self) -> HealthStatus:
        """Look at the service once. It is not asked to generate anything.

        A service that does not answer is `down` in the result, not an exception. Of several
        services it is the first that is looked at.

        Raises:
            ClientClosed: The client was closed.
            DeadlineExceeded: The deadline around the caller passed.
        """
        return self._loop.run(self._async.health_check)

    def close(self) -> None:
        """End the calls, close the connections, and stop the engine, if this client started it."""
        self._loop.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings.described})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
