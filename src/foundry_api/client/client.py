"""The asynchronous client, `FoundryAPIClient`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self

from foundry_api.client.batch import BatchMethods
from foundry_api.client.chat import ChatMethods
from foundry_api.client.endpoints import EndpointMethods
from foundry_api.client.models import Models
from foundry_api.client.responses import Responses
from foundry_api.client.tools import ToolMethods
from foundry_api.core.cache.base import ResponseCache
from foundry_api.core.call import CallRequest
from foundry_api.core.chat import make_chat_call, make_chat_request
from foundry_api.core.options import ChatOptions
from foundry_api.core.residency.policy import ModelResidency
from foundry_api.core.runtime import ClientRuntime
from foundry_api.resilience.breaker import BreakerSettings
from foundry_api.resilience.deadline import Deadline, current_deadline, enforce_deadline
from foundry_api.resilience.limiter import LimiterSettings
from foundry_api.types.checks import (
    check_cache,
    check_flag,
    check_model_names,
    check_timeout,
    reject_unknown_options,
)
from foundry_api.types.errors import ConfigurationError, ServiceError
from foundry_api.types.settings import Settings
from foundry_api.types.values import format_value, is_list_like
from foundry_api.wire.headers import validate_headers
from foundry_api.wire.hooks import BearerKey, Hooks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from foundry_api.core.cache.calls import CachedCall
    from foundry_api.core.chat import ChatCall
    from foundry_api.core.service_pool import ServiceHandle
    from foundry_api.monitor.health import HealthStatus
    from foundry_api.resilience.breaker import CircuitBreaker
    from foundry_api.resilience.limiter import Limiter
    from foundry_api.types.capabilities import Capabilities
    from foundry_api.types.events import Listener
    from foundry_api.types.messages import ChatRequest, Constraint, Message
    from foundry_api.types.services import ServiceOptions
    from foundry_api.wire.hooks import Auth, RequestHook, ResponseHook
    from foundry_api.wire.transport import Transport

__all__ = ["FoundryAPIClient"]

# Errors name the argument that the caller passed, not the setting that it becomes.
ARGUMENT_NAMES = {
    "timeout_s": "timeout",
    "deadline_s": "deadline",
    "connect_timeout_s": "connect_timeout",
}

_OPTIONS = frozenset(ChatOptions.__annotations__)
_ARGUMENT_TYPES: dict[str, type] = {
    "limiter": LimiterSettings,
    "breaker": BreakerSettings,
    "residency": ModelResidency,
    "cache": ResponseCache,
}


class FoundryAPIClient(ChatMethods, ToolMethods, EndpointMethods, BatchMethods):
    """An asynchronous client for Microsoft Foundry Local.

    Creating a client does no I/O. The first call finds a running service or starts an engine,
    which stops when the client is closed. One client can serve many tasks at once. It is bound to
    one event loop at a time and refuses calls from a second loop while the first one runs;
    `asyncio.run` may be called several times with the same client. For threads, use
    `FoundryClient`.

    Args:
        base_url: Address of a service, such as http://127.0.0.1:5273; default
            `FOUNDRY_BASE_URL`. Without either, a running service is found or one is started.
        api_key: Bearer token for `base_url`, for a gateway in front of a service; default
            `FOUNDRY_API_KEY`. It is sent to no other address, and no cloud key is ever read. A
            callable is called for each request, so the key may change.
        base_urls: Addresses of several services, instead of one. A call goes to the service with
            the fewest calls. It moves to another service on failure, or while it is queued and
            another is free. Default `FOUNDRY_BASE_URLS`.
        service: `auto` (default), or `embedded` to start an engine without looking for one.
        model: Default model; default `FOUNDRY_MODEL`, else phi-4-mini.
        timeout: Maximum seconds without a token, or `auto` to adapt to each model's latency;
            default `FOUNDRY_TIMEOUT`, else 30.
        deadline: Maximum seconds for a whole call, including queueing, loading and retries;
            default `FOUNDRY_DEADLINE`, else none.
        connect_timeout: Maximum seconds to connect; default `FOUNDRY_CONNECT_TIMEOUT`, else 5.
        max_retries: Further attempts after a failed one; default `FOUNDRY_RETRIES`, else 3.
        limiter: Concurrency limits of each service; the default adapts to its throughput.
        breaker: When the circuit breaker of a service opens, and for how long.
        residency: Which models stay in memory, and for how long; default `FOUNDRY_MODEL_IDLE` and
            `FOUNDRY_MEMORY_BUDGET`, else all stay.
        listeners: Called with every event of every call; see `foundry_api.types.events`.
        headers: Extra headers of every request to the service.
        auth: Adds the credential to every request for `base_url`, instead of `api_key`. Takes a
            `Request` and returns the one to send. Called once more when a credential is refused.
        request_hooks: Called with every request; each returns the request to send.
        response_hooks: Called with every request and the status and headers of its response.
        cache: Cache for repeated requests: a `MemoryCache` or a `SqliteCache`. It is closed with
            the client and reopens on its next use. Default `FOUNDRY_CACHE`, else none.
        home: Directory for the engine's data, logs and state; default `FOUNDRY_HOME`, else the
            platform's directories.
        transport: Sends the requests; default pooled connections. Foreign exceptions of a
            custom transport are raised as `HookFailed`.
        settings: All settings at once. The arguments above override them, and the environment is
            not read.

    Attributes:
        settings: The resolved settings.
        models: Manage models.
        responses: The Responses API: `await client.responses.create("…")`.
        events: Subscribe listeners here.
        metrics: Counters and histograms: `client.metrics.snapshot()`.
        cache: The cache: `await client.cache.stats()`, `await client.cache.clear()`. Without one,
            a cache that stores nothing.

    Raises:
        ConfigurationError: A setting is invalid.
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
        key, auth = _resolve_credentials(api_key, auth)
        _check_kinds(limiter=limiter, breaker=breaker, residency=residency, cache=cache)
        _check_transport(transport)
        self.settings = Settings.resolve(
            settings,
            names=ARGUMENT_NAMES,
            base_url=base_url,
            api_key=key,
            service=service,
            base_urls=base_urls,
            model=model,
            timeout_s=timeout,
            deadline_s=deadline,
            connect_timeout_s=connect_timeout,
            max_retries=max_retries,
            home=home,
        )
        if auth is not None:
            self.settings = replace(self.settings, api_key=None)
        self._backend = ClientRuntime(
            self.settings,
            headers=validate_headers("headers", headers, ConfigurationError),
            limiter=limiter,
            breaker=breaker,
            residency=residency,
            listeners=_callables("listeners", listeners),
            hooks=Hooks(
                auth,
                _callables("request_hooks", request_hooks),
                _callables("response_hooks", response_hooks),
            ),
            cache=cache,
            transport=transport,
        )
        self.events = self._backend.events
        self.metrics = self._backend.metrics
        self.cache = self._backend.cache
        self.models = Models(self._backend.connect, self._backend.route, self.settings.home)
        self.responses = Responses(self._backend)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings.described})"

    @property
    def services(self) -> tuple[ServiceHandle, ...]:
        """The client's services, each with its breaker and its limiter."""
        return self._backend.services.handles

    async def add_service(self, options: ServiceOptions) -> ServiceHandle:
        """Add a service to a client whose settings have `services`, which may be empty.

        Args:
            options: Its address, and the calls that it is for.

        Raises:
            ClientClosed: The client was closed.
            ConfigurationError: The settings have no `services`.
        """
        return self._backend.add_service(options)

    async def remove_service(self, service: ServiceHandle) -> None:
        """Remove a service that was added. Calls that wait for it go to others.

        Answers that have begun go on for as long as the service sends them.

        Args:
            service: What `add_service` returned.

        Raises:
            ConfigurationError: It was not added, or has been removed.
        """
        await self._backend.remove_service(service)

    @property
    def breaker(self) -> CircuitBreaker:
        """The circuit breaker of the service, or of the first of several."""
        return self._backend.services.primary.breaker

    @property
    def limiter(self) -> Limiter:
        """The limiter of the service, or of the first of several."""
        return self._backend.services.primary.limiter

    @enforce_deadline
    async def capabilities(self) -> Capabilities:
        """Return the capabilities of the service; of several services, those of the first.

        Raises:
            ClientClosed: The client was closed.
            ServiceError: No service was found or could be started.
        """
        return (await self._backend.connect()).dialect.capabilities

    @enforce_deadline
    async def health_check(self) -> HealthStatus:
        """Check the health of the service, or of the first of several. Nothing is generated.

        A service that does not respond has the status `down`; that is not an exception.

        Raises:
            ClientClosed: The client was closed.
            DeadlineExceeded: The caller's deadline has passed.
        """
        # It imports psutil, which a client with an embedded engine does not need for its calls.
        from foundry_api.monitor import health  # noqa: PLC0415

        try:
            connection = await self._backend.connect()
            return await health.check_health(connection, self.limiter.abandoned.describe())
        except ServiceError as error:
            return health.down_status(error)

    async def close(self) -> None:
        """Cancel running calls, close connections, and stop the engine that this client started."""
        await self._backend.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _build_request(
        self,
        messages: Iterable[Message | Mapping[str, Any]],
        options: ChatOptions,
        constraint: Constraint | None = None,
        *,
        is_validated: bool = False,
    ) -> CallRequest[ChatRequest]:
        # Every call passes here: what most calls leave out is tested before a function is called.
        settings = self.settings
        if self._backend.closed:
            self._backend.check_open()
        if not options.keys() <= _OPTIONS:
            reject_unknown_options(options, _OPTIONS)
        request_options: dict[str, Any] = {**options}
        take = request_options.pop
        model, timeout = take("model", None), take("timeout", None)
        deadline_s, download = take("deadline", None), take("download", None)
        cache = check_cache(take("cache")) if "cache" in options else "auto"
        timeout_s = None if timeout is None else check_timeout(timeout)
        if deadline_s is None:
            deadline_s = settings.deadline_s
        return CallRequest(
            models=(settings.model,) if model is None else check_model_names(model),
            request=make_chat_request(
                messages, constraint=constraint, is_validated=is_validated, **request_options
            ),
            timeout_s=settings.timeout_s if timeout_s is None else timeout_s,
            deadline=current_deadline() if deadline_s is None else Deadline.after(deadline_s),
            download=download is not None and check_flag("download", download),
            cache=cache,
        )

    def _new_call(self, request: CallRequest[ChatRequest]) -> ChatCall | CachedCall:
        cached = self._backend.cached
        if cached is not None and cached.is_cacheable(request):
            return cached.call(request)
        return make_chat_call(self._backend.call_context, request)


def _resolve_credentials(
    api_key: str | Callable[[], str | Awaitable[str]] | None, auth: Auth | None
) -> tuple[str | None, Auth | None]:
    """Return a fixed key, or the hook that adds a key that may change."""
    if api_key is not None and auth is not None:
        raise ConfigurationError("api_key and auth were both given", hint="Give one of them.")
    if auth is not None and not callable(auth):
        raise ConfigurationError(f"auth is of type {type(auth).__name__}, not a callable")
    if callable(api_key):
        return None, BearerKey(api_key)
    return api_key, auth


def _check_kinds(**arguments: object) -> None:
    for name, value in arguments.items():
        expected = _ARGUMENT_TYPES[name]
        if value is not None and not isinstance(value, expected):
            raise ConfigurationError(
                f"{name} is {format_value(value)}", hint=f"Give a {expected.__name__}."
            )


def _check_transport(transport: object) -> None:
    if transport is None:
        return
    if not all(callable(getattr(transport, name, None)) for name in ("send", "aclose")):
        raise ConfigurationError(
            f"transport is {format_value(transport)}, which sends no requests",
            hint="Give an object with the methods of foundry_api.wire.transport.Transport.",
        )


def _callables(name: str, values: object) -> tuple[Any, ...]:
    if not is_list_like(values):
        raise ConfigurationError(
            f"{name} is {format_value(values)}, not a list", hint=f"Give a list: {name}=[…]."
        )
    callables = tuple(values)
    for index, value in enumerate(callables):
        if not callable(value):
            raise ConfigurationError(
                f"{name}[{index}] is {format_value(value)}, which can't be called"
            )
    return callables
