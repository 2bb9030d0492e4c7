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
from foundry_api.resilience.deadline import Deadline, current, enforce_deadline
from foundry_api.resilience.limiter import LimiterSettings
from foundry_api.types.checks import (
    check_cache,
    check_flag,
    check_timeout,
    model_names,
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
    from foundry_api.wire.hooks import Auth, RequestHook, ResponseHook
    from foundry_api.wire.transport import Transport

__all__ = ["FoundryAPIClient"]

ARGUMENTS = {
    "timeout_s": "timeout",
    "deadline_s": "deadline",
    "connect_timeout_s": "connect_timeout",
}
"""Arguments of a client that have other names than their settings."""

_OPTIONS = frozenset(ChatOptions.__annotations__)

KINDS: dict[str, type] = {
    "limiter": LimiterSettings,
    "breaker": BreakerSettings,
    "residency": ModelResidency,
    "cache": ResponseCache,
}


class FoundryAPIClient(ChatMethods, ToolMethods, EndpointMethods, BatchMethods):
    """Microsoft Foundry Local as an API.

    Creating a client does no I/O: its first call finds a running service or starts an engine of
    its own, which leaves with the client. A client may serve many tasks at once. It belongs to
    one event loop at a time, and refuses another one while that runs; `asyncio.run` may be called
    again with the same client. `FoundryClient` serves any number of threads.

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
        responses: The Responses API: `await client.responses.create("…")`.
        events: The event hook; subscribe listeners to it.
        metrics: What happened, counted: `client.metrics.snapshot()`.
        cache: Where answers are kept: `await client.cache.stats()`, `await client.cache.clear()`.
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
        key, auth = _resolve_credentials(api_key, auth)
        _check_kinds(limiter=limiter, breaker=breaker, residency=residency, cache=cache)
        _check_transport(transport)
        self.settings = Settings.resolve(
            settings,
            names=ARGUMENTS,
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
        self.models = Models(self._backend.connect, self._backend.route)
        self.responses = Responses(self._backend)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings.described})"

    @property
    def services(self) -> tuple[ServiceHandle, ...]:
        """The services that it calls, each with its breaker and its limiter."""
        return tuple(self._backend.services)

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
        """What the generation of the service can do; of several services, the first one's.

        Raises:
            ClientClosed: The client was closed.
            ServiceError: No service was found or could be started.
        """
        return (await self._backend.connect()).dialect.capabilities

    @enforce_deadline
    async def health_check(self) -> HealthStatus:
        """Look at the service once. It is not asked to generate anything.

        A service that does not answer is `down` in the result, not an exception. Of several
        services it is the first that is looked at.

        Raises:
            ClientClosed: The client was closed.
            DeadlineExceeded: The deadline around the caller passed.
        """
        # The look needs psutil, which calls do not.
        from foundry_api.monitor import health  # noqa: PLC0415

        try:
            return await health.check_health(await self._backend.connect())
        except ServiceError as error:
            return health.down_status(error)

    async def close(self) -> None:
        """End the calls, close the connections, and stop the engine, if this client started it."""
        await self._backend.close()

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
        settings = self.settings
        if self._backend.closed:
            self._backend.check_open()
        if not options.keys() <= _OPTIONS:
            reject_unknown_options(options, _OPTIONS)
        model, timeout = options.get("model"), options.get("timeout")
        deadline_s, download = options.get("deadline"), options.get("download")
        timeout_s = None if timeout is None else check_timeout(timeout)
        if deadline_s is None:
            deadline_s = settings.deadline_s
        return CallRequest(
            models=(settings.model,) if model is None else model_names(model),
            request=make_chat_request(
                messages,
                max_tokens=options.get("max_tokens"),
                temperature=options.get("temperature"),
                top_p=options.get("top_p"),
                seed=options.get("seed"),
                stop=options.get("stop"),
                tools=options.get("tools"),
                tool_choice=options.get("tool_choice"),
                constraint=constraint,
                extra=options.get("extra"),
                is_validated=is_validated,
            ),
            timeout_s=settings.timeout_s if timeout_s is None else timeout_s,
            deadline=current() if deadline_s is None else Deadline.after(deadline_s),
            download=download is not None and check_flag("download", download),
            cache=check_cache(options["cache"]) if "cache" in options else "auto",
        )

    def _new_call(self, order: CallRequest[ChatRequest]) -> ChatCall | CachedCall:
        cached = self._backend.cached
        if cached is not None and cached.is_cacheable(order):
            return cached.call(order)
        return make_chat_call(self._backend.tools, order)


def _resolve_credentials(
    api_key: str | Callable[[], str | Awaitable[str]] | None, auth: Auth | None
) -> tuple[str | None, Auth | None]:
    """A key that stays, or what puts one on that may change.

    Raises:
        ConfigurationError: Both were given.
    """
    if api_key is not None and auth is not None:
        raise ConfigurationError("api_key and auth were both given", hint="Give one of them.")
    if auth is not None and not callable(auth):
        raise ConfigurationError(f"auth is of type {type(auth).__name__}, not a callable")
    if callable(api_key):
        return None, BearerKey(api_key)
    return api_key, auth


def _check_kinds(**arguments: object) -> None:
    """Refuse an object that was meant for another argument.

    Raises:
        ConfigurationError: One is of a wrong type.
    """
    for name, value in arguments.items():
        kind = KINDS[name]
        if value is not None and not isinstance(value, kind):
            raise ConfigurationError(
                f"{name} is {format_value(value)}", hint=f"Give a {kind.__name__}."
            )


def _check_transport(transport: object) -> None:
    if transport is None:
        return
    if not all(callable(getattr(transport, name, None)) for name in ("send", "aclose")):
        raise ConfigurationError(
            f"transport is {format_value(transport)}, which sends no requests",
            hint="Give an object with the methods of foundry_api.wire.transport.Transport.",
        )


def _callables(name: str, given: object) -> tuple[Any, ...]:
    """Several callables.

    Raises:
        ConfigurationError: They are no list, or one can't be called.
    """
    if not is_list_like(given):
        raise ConfigurationError(
            f"{name} is {format_value(given)}, not a list", hint=f"Give a list: {name}=[…]."
        )
    several = tuple(given)
    for index, each in enumerate(several):
        if not callable(each):
            raise ConfigurationError(
                f"{name}[{index}] is {format_value(each)}, which can't be called"
            )
    return several
