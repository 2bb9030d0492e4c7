"""Any request to a service, with the guards of every call: breaker, turns, retries and bounds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlencode

import msgspec

from foundry_api.core.attempt import GuardedAttempt
from foundry_api.core.call import GuardedCall
from foundry_api.types.errors import FoundryError, InvalidRequest, RouteMissing, ServiceNotRunning
from foundry_api.types.events import CallEnded
from foundry_api.types.results import RawReply
from foundry_api.types.values import (
    UNENCODABLE,
    as_bool,
    as_float,
    as_int,
    as_text,
    encode,
    shown,
    without_secrets,
)
from foundry_api.wire.headers import checked_headers
from foundry_api.wire.transport import IDEMPOTENT_METHODS, LAST_SUCCESS, READING_METHODS

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.core.call import CallTools, Order
    from foundry_api.core.service_pool import Service
    from foundry_api.resilience.silence import Watch
    from foundry_api.types.events import Operation
    from foundry_api.wire.transport import Response

__all__ = ["DEFAULT_TIMEOUT_S", "RawCall", "RawRequest", "raw_request"]

DEFAULT_TIMEOUT_S = 30.0

_METHOD = re.compile(r"[A-Z]{1,20}")
_PATH = re.compile(r"/(?!/)[!-~]*")
_ID = re.compile(r"/(?=[^/]{16})[^/]*[0-9][^/]*")


class RawRequest(msgspec.Struct, frozen=True):
    """A request as the caller wants it, already checked.

    Attributes:
        method: In capitals.
        path: With its query.
        headers: Of the caller's own.
        body: Already encoded.
    """

    method: str
    path: str
    headers: dict[str, str] = {}
    body: bytes | None = None

    @property
    def name(self) -> str:
        """What it is called in events: without its query, and without the ids in its path."""
        route = _ID.sub("/{id}", self.path.partition("?")[0])
        return f"{self.method} {route}"


class RawAttempt(GuardedAttempt):
    """Sends one request that is for no model. `close` has to be called, however it ends."""

    def __init__(
        self, service: Service, request: RawRequest, watch: Watch, clock: Callable[[], float]
    ) -> None:
        super().__init__(service, watch, clock)
        self._request = request

    async def enter(self, *, again: bool) -> None:
        """Find the service, and wait for a turn if the request makes work.

        Raises:
            FoundryError: There is no service, no turn, or no time for it.
        """
        self._permit = self.service.breaker.try_enter() or await self._enter()
        with self._watch:
            self.connection = await self.service.connect()
        if self._request.method not in READING_METHODS:  # which wait for no turn
            self._slot = self.service.limiter.try_acquire()
            if self._slot is None:
                await self._queue(again=again)

    async def send(self, silence_s: float) -> RawReply:
        """Send it, and read the whole answer.

        Raises:
            FoundryError: The service refused it, failed, or said nothing.
        """
        request, connection = self._request, self.reached
        message = connection.wire.request(
            request.method, request.path, request.body, request.headers
        )
        response = await self._open(message, silence_s, silence_s)
        if response.status > LAST_SUCCESS:
            raise await self._refusal(response)
        body = await self._body(response)
        return RawReply(
            status=response.status,
            headers=response.headers,
            body=body,
            service=connection.base_url,
        )

    async def _body(self, response: Response) -> bytes:
        body = bytearray()
        while block := await self._block(response):
            body += block
        return bytes(body)


class RawCall(GuardedCall[RawRequest, RawAttempt]):
    """A request and its whole answer.

    Args:
        tools: What the client's calls share.
        order: What the caller ordered.
        service: Whom to ask, where no other will do; None for any.
    """

    _operation: Operation = "request"

    def __init__(
        self, tools: CallTools, order: Order[RawRequest], service: Service | None = None
    ) -> None:
        super().__init__(tools, order)
        self._only = service

    async def reply(self) -> RawReply:
        """The answer."""
        watch = self._begin()
        try:
            reply = await self._made(watch)
        except BaseException as error:
            self._tell_failure(watch, error)
            raise
        watch.stop()
        reply = msgspec.structs.replace(reply, attempts=self._attempts)
        self._tell_answer(reply)
        return reply

    async def _made(self, watch: Watch) -> RawReply:
        while True:
            try:
                attempt = await self._prepare(watch)
                reply = await attempt.send(self._silence_bounds()[0])
            except FoundryError as error:
                await self._after(error, watch)
            else:
                self._close(attempt, None)
                self._tools.retry.budget.succeeded()
                return reply

    async def _prepare(self, watch: Watch) -> RawAttempt:
        self._service, self._attempt_started = None, self._tools.clock()
        watch.ignore_silence("connecting")
        with watch:
            service = await self._pick(self._model)
        attempt = self._attempt = self._new_attempt(service, watch)
        await attempt.enter(again=bool(self._attempts))
        self._service = attempt.reached.base_url
        self._tell_attempt(attempt)
        return attempt

    def _new_attempt(self, service: Service, watch: Watch) -> RawAttempt:
        return RawAttempt(service, self._request, watch, self._tools.clock)

    async def _pick(self, name: str) -> Service:
        return self._only or await super()._pick(name)

    def _silence_bounds(self) -> tuple[float, float]:
        timeout_s = self._order.timeout_s
        bound_s = DEFAULT_TIMEOUT_S if timeout_s == "auto" else timeout_s
        return bound_s, bound_s

    async def _after(self, error: FoundryError, watch: Watch) -> None:
        if isinstance(error, RouteMissing):
            error.hint = "Check the method and the path; the generations differ in their routes."
        await super()._after(error, watch)

    def _is_final(self, error: FoundryError, attempt: RawAttempt | None) -> bool:
        del attempt
        may_be_done = not isinstance(error, ServiceNotRunning)
        return may_be_done and self._request.method not in IDEMPOTENT_METHODS

    def _completed(self, error: FoundryError) -> FoundryError:
        """The error with what only the call knows; a model it has none."""
        model = error.model
        completed = super()._completed(error)
        completed.model = model
        return completed

    def _tell_answer(self, reply: RawReply) -> None:
        self._tools.events.emit(
            CallEnded(
                call=self._number,
                outcome="answered",
                model=self._model,
                service=reply.service,
                attempts=reply.attempts,
                timings=self._timings(self._tools.clock() - self._started),
                operation=self._operation,
            )
        )


def raw_request(
    method: str,
    path: str,
    *,
    json: Any = None,
    params: Mapping[str, str | int | float | bool] | None = None,
    headers: Mapping[str, str] | None = None,
) -> RawRequest:
    """A request that can go to no other host, and that HTTP allows.

    Raises:
        InvalidRequest: An argument is at fault; `.field` names it.
    """
    method, path = _method(method), _path(path)
    told = checked_headers("headers", headers, InvalidRequest)
    body = None
    if json is not None:
        body = _encoded(json)
        told = {"Content-Type": "application/json", **told}
    return RawRequest(method, path + _query(path, params), told, body)


def _method(method: object) -> str:
    name = as_text(method)
    if name is None or not _METHOD.fullmatch(name.upper()):
        raise InvalidRequest(f"method is {shown(method)}, not a method of HTTP", field="method")
    return name.upper()


def _path(path: object) -> str:
    text = as_text(path)
    if text is None or not _PATH.fullmatch(text) or "#" in text:
        raise InvalidRequest(
            f"path is {without_secrets(path)}, not a path on the service",
            field="path",
            hint="Begin it with one slash, and percent-encode what is no printable ASCII.",
        )
    return text


def _query(path: str, params: Mapping[str, str | int | float | bool] | None) -> str:
    if params is None:
        return ""
    if not isinstance(cast("object", params), Mapping):
        raise InvalidRequest(f"params is {shown(params)}, not a mapping", field="params")
    if not params:
        return ""
    told = {name: _parameter(name, value) for name, value in params.items()}
    return ("&" if "?" in path else "?") + urlencode(told)


def _parameter(name: str, value: object) -> str:
    if (text := as_text(value)) is not None:
        return text
    whole = as_int(value)
    number = as_float(value) if whole is None else whole
    if number is not None:
        return str(number)
    if (flag := as_bool(value)) is not None:
        return "true" if flag else "false"  # what all generations take
    # A parameter may be a credential: only its type is shown.
    raise InvalidRequest(
        f"params[{name!r}] is of type {type(value).__name__}, not a text", field="params"
    )


def _encoded(json: Any) -> bytes:
    try:
        return encode(json)
    except UNENCODABLE as error:
        raise InvalidRequest(f"json cannot be sent as JSON: {error}", field="json") from error
