"""One HTTP exchange: the request, its key, and the ways to answer it."""

from __future__ import annotations

import asyncio
import math
import os
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from aiohttp import web
from msgspec import structs

from foundry_api.gateway.call_headers import (
    NO_PATIENCE,
    make_limit_headers,
    read_patience,
    read_retry_count,
)
from foundry_api.gateway.checks import check_model_name
from foundry_api.gateway.errors import RequestError, make_error_body
from foundry_api.gateway.json_body import decode_json
from foundry_api.gateway.response import Response

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from foundry_api.core.options import TimeOptions
    from foundry_api.gateway.context import GatewayContext
    from foundry_api.gateway.keys.types import ApiKey
    from foundry_api.gateway.limits.admission import Ticket, Work
    from foundry_api.resilience.timeouts import Timer

__all__ = ["BODY_BYTES_PER_S", "BODY_GRACE_S", "Exchange", "make_request_id", "make_too_large"]

# A body may take this long, and one second more per 64 KiB.
BODY_GRACE_S = 30.0
# Of the bodies of one key that are arriving: they are in memory before its other limits apply.
MAX_RECEIVING_BYTES = 128 * 2**20
BODY_BYTES_PER_S = 64 * 1024
# The exchange ends a call itself, with the error that names the limit. This much later the client
# would do so.
DEADLINE_MARGIN_S = 1.0

_T = TypeVar("_T")

_encode = msgspec.json.Encoder().encode


# Of all bodies that were read: each deque of its own would take 760 bytes while a call waits.
_NO_BLOCKS: deque[bytes] = deque(maxlen=0)


class Exchange:
    """A request that the gateway serves.

    Attributes:
        context: What the gateway consists of.
        request: The HTTP request.
        id: The request's id, which its response, its log line and its errors have.
        route: The path of the route, such as `/v1/models/{id}`; empty before it is known.
        action: What the route does, for the audit log; empty if it is not recorded.
        path_id: The decoded id in the path.
        target: What an action was done to, for the audit log; empty for `path_id` or the model.
        key: The key of the caller; None without keys, and on open routes.
        headers: Further headers of the response.
        outcome: How it ended, for metrics and the audit log.
        first_event_at: When the first event of its stream was sent; None before.
        model: The model that was called; None before it is known.
        ticket: The admission of its call; None before, and on routes without a call.
        encode_error: Encodes an error in the shape that the caller expects.
        abort_error: Why the gateway itself ends the exchange; None unless it does.
    """

    __slots__ = (
        "_body",
        "_end_at",
        "_end_timer",
        "_ended",
        "_limit_s",
        "_loop",
        "_patience",
        "_task",
        "abort_error",
        "action",
        "context",
        "encode_error",
        "first_event_at",
        "headers",
        "id",
        "key",
        "model",
        "outcome",
        "path_id",
        "request",
        "route",
        "started_at",
        "target",
        "ticket",
    )

    def __init__(self, context: GatewayContext, request: web.BaseRequest) -> None:
        self.context = context
        self.request = request
        self.id = make_request_id()
        self.route = self.action = self.path_id = self.target = ""
        self.key: ApiKey | None = None
        self.started_at = context.monotonic()
        self.headers: dict[str, str] = {}
        self.outcome = "ok"
        self.first_event_at: float | None = None
        self.model: str | None = None
        self.ticket: Ticket | None = None
        self.encode_error: Callable[[RequestError], bytes] = make_error_body
        self._body: bytes | None = None
        self._patience = NO_PATIENCE
        self._end_at, self._limit_s = math.inf, math.inf
        self._end_timer: Timer | None = None
        self.abort_error: RequestError | None = None
        self._loop = asyncio.get_running_loop()  # once: until Python 3.12 it is a system call
        self._task = asyncio.current_task(self._loop)
        self._ended: asyncio.Future[None] | bool = False  # a future only if somebody waits for it

    def admit(self, work: Work) -> Ticket:
        """Admit the call of this exchange; see `Admission.admit`.

        The deadline that the caller sent is added to the work, and the limits of its key to the
        response, also to one that refuses the call. From then on the time of the call is limited.
        """
        self.model = work.model
        admission, headers = self.context.admission, self.request.headers
        self._patience = read_patience(headers)
        if read_retry_count(headers):
            admission.client_retries += 1
        patience_s = self._patience.first_byte_s
        if patience_s < math.inf:
            elapsed_s = self.context.monotonic() - self.started_at
            work = structs.replace(work, deadline_s=patience_s - elapsed_s)
        try:
            self.ticket = admission.admit(self.key, self.add_alias(work))
        except RequestError:
            accounts = admission.accounts
            self.headers |= make_limit_headers(accounts.get(self.key), accounts.clock())
            raise
        self._limit_time(patience_s)
        return self.ticket

    def add_alias(self, work: Work) -> Work:
        """Return the work with the further names of its model, which the key may have."""
        if self.key is None or self.key.models is None:
            return work
        return structs.replace(work, aliases=self.context.model_names.get_names(work.model))

    @property
    def owner(self) -> str | None:
        """The id of the caller's key, to which what it stores belongs; None without keys."""
        return None if self.key is None else self.key.id

    @property
    def time_options(self) -> TimeOptions:
        """The time limits for the calls of the client."""
        return {"timeout": self.context.read_timeouts, "deadline": self.remaining_s}

    @property
    def remaining_s(self) -> float:
        """Seconds until the client ends its call, unless the exchange has done so before."""
        # The exchange ends a call that is silent for too long: it knows what was sent.
        limit_s = min(self._patience.total_s, self.context.config.call_timeout_s)
        return max(0.0, self.started_at + limit_s - self.context.monotonic()) + DEADLINE_MARGIN_S

    def _limit_time(self, patience_s: float) -> None:
        """End the exchange after the caller's patience, or the limit of the gateway."""
        self._limit_s = min(self.context.config.call_timeout_s, patience_s)
        elapsed_s = self.context.monotonic() - self.started_at
        self._end_at = self._loop.time() + self._limit_s - elapsed_s
        if self._end_timer is None:
            self._end_timer = self.context.call_timers.take(self._loop, self._on_timer)
        self._end_timer.arm(self._end_at)

    def _on_timer(self) -> None:
        timer, limit_s = self._end_timer, self._limit_s
        if timer is not None and self._loop.time() < self._end_at:
            timer.arm(self._end_at)
            return
        if limit_s == self.context.config.call_timeout_s:
            code, whose = "call_timeout", "the limit of this gateway (call_timeout_s)"
        else:
            code, whose = "deadline_exceeded", "the time that its client waits"
        message = f"The call took longer than {limit_s:g} s, {whose}. Ask for a shorter answer."
        self.abort(RequestError(504, code, message, should_retry=False))

    def close(self) -> None:
        """Release what the exchange holds, at its end."""
        if self._end_timer is not None:
            self.context.call_timers.put_back(self._end_timer)
        if self.ticket is not None:
            self.ticket.close()  # usually closed already
        if isinstance(self._ended, asyncio.Future):
            self._ended.set_result(None)
        self._ended = True

    @property
    def ended(self) -> asyncio.Future[None]:
        """Done when the exchange has ended."""
        if isinstance(self._ended, bool):
            future: asyncio.Future[None] = self._loop.create_future()
            if self._ended:
                future.set_result(None)
            self._ended = future
        return self._ended

    def abort(self, error: RequestError) -> None:
        """End the exchange from outside; the caller gets the error."""
        if self.abort_error is None and self._task is not None:
            self.abort_error = error
            self._task.cancel()

    def take_abort_error(self) -> RequestError:
        """Return the error of `abort`, and let the cancelled task go on to send it."""
        error = self.abort_error
        if error is None or self._task is None:
            raise asyncio.CancelledError
        self._task.uncancel()
        self.outcome = error.code or "aborted"
        return error

    async def read_body(self) -> bytes:
        """Read the body of the request; further calls return it again, until `read_json`.

        Raises:
            RequestError: It is too large, or arrives too slowly; or the key sends many others.
        """
        if self._body is not None:
            return self._body
        limit = self.context.config.max_body_bytes
        if (self.request.content_length or 0) > limit:
            raise make_too_large(limit, "max_body_bytes")
        content = self.request.content
        if content.is_eof():  # most bodies arrive with their head
            self._body = content.read_nowait()
            if self._body:
                content._buffer = _NO_BLOCKS  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
            if len(self._body) > limit:
                raise make_too_large(limit, "max_body_bytes")
            return self._body
        body = bytearray()
        account = self.context.admission.accounts.get(self.key)
        try:
            async for block in self.iter_body(limit, "max_body_bytes"):
                body += block
                account.receiving_bytes += len(block)
                if len(body) < account.receiving_bytes > MAX_RECEIVING_BYTES:
                    raise RequestError(
                        429,
                        "rate_limit_exceeded",
                        "This key sends too many large bodies at the same time. Send fewer.",
                        retry_after_s=1.0,
                    )
        finally:
            account.receiving_bytes -= len(body)
        self._body = bytes(body)
        return self._body

    async def iter_body(self, limit: int, setting: str) -> AsyncGenerator[bytes]:
        """Yield the body of the request as it arrives; `setting` says how large it may be.

        Raises:
            RequestError: It is too large, or arrives too slowly.
        """
        if self._body is not None:
            yield self._body
            return
        if (self.request.content_length or 0) > limit:
            raise make_too_large(limit, setting)
        await self.ask_for_body()
        started_at, size = self._loop.time(), 0
        while True:
            end_at = started_at + BODY_GRACE_S + size / BODY_BYTES_PER_S
            try:
                async with asyncio.timeout_at(end_at):
                    block = await self.request.content.readany()
            except TimeoutError:
                raise RequestError(
                    408, "request_timeout", "The body of the request arrived too slowly."
                ) from None
            except web.RequestPayloadError:
                raise RequestError(
                    400, "invalid_http", "The body of the request is not valid HTTP."
                ) from None
            if not block:
                return
            size += len(block)
            if size > limit:
                raise make_too_large(limit, setting)
            yield block

    async def ask_for_body(self) -> None:
        """Tell a client to send the body if it waits for that."""
        if self.request.headers.get("Expect", "").lower() == "100-continue":
            await self.request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.request.writer.output_size = 0  # of the response, which has not started

    async def read_json(self, kind: type[_T]) -> _T:
        """Read the body and decode it as JSON of a type.

        Raises:
            RequestError: The body is not JSON, or a member has another type; `param` is its path.
        """
        self.require_json()
        body = await self.read_body()
        self._body = None  # a large body is not kept while its call waits
        value, ignored = decode_json(body, kind)
        if ignored:
            self.context.ignored_members[self.route] += ignored
        return value

    def require_json(self) -> None:
        """Refuse a request whose body is not said to be JSON.

        Raises:
            RequestError: 415.
        """
        content_type = self.request.headers.get("Content-Type", "")
        if (
            content_type != "application/json"
            and content_type.partition(";")[0].strip().lower() != "application/json"
        ):
            raise RequestError(
                415,
                "unsupported_media_type",
                "The body must be JSON: send Content-Type: application/json.",
            )

    def require_model(self, name: str | None) -> str:
        """Return the model of a request, or the default one.

        The path of Azure's clients has the model; as in Azure, it precedes that of the body.

        Raises:
            RequestError: The request names none, and there is no default that its key may use; or
                it is no name.
        """
        return check_model_name(self.path_id or name or self.context.get_default_model(self.key))

    def respond(
        self, body: bytes | None, *, status: int = 200, content_type: str = "application/json"
    ) -> Response:
        """Return a response with a body; with None, the handler prepares it and writes parts."""
        return Response(self._make_head(content_type), body, status)

    def respond_json(self, value: Any, *, status: int = 200) -> Response:
        """Return a response with a value as JSON."""
        return self.respond(_encode(value), status=status)

    def respond_error(self, error: RequestError) -> Response:
        """Return an error response."""
        self.headers |= error.headers
        response = self.respond(self.encode_error(error), status=error.status)
        is_unread = error.status in {408, 413} or error.code == "invalid_http"
        if is_unread or self.context.draining:
            response.force_close()  # the rest of the body, or a further request, is not read
        return response

    async def start_stream(self) -> Response:
        """Return an event stream to write to. Its head is sent with the first event."""
        self.headers["X-Accel-Buffering"] = "no"  # nginx would hold the events back
        if self._patience.silence_s < self._patience.total_s:
            # From now on the caller is never without a byte for long.
            self._limit_time(self._patience.total_s)
        response = self.respond(None, content_type="text/event-stream; charset=utf-8")
        await response.prepare(self.request)
        return response

    def _make_head(self, content_type: str) -> dict[str, str]:
        elapsed_s = self.context.monotonic() - self.started_at
        head = {
            "Content-Type": content_type,
            "x-request-id": self.id,
            "request-id": self.id,  # the name that Anthropic's clients read
            "openai-processing-ms": f"{elapsed_s * 1000:.0f}",
            "Cache-Control": "no-store",
            # Browsers have sessions here: they must not take what somebody sent for a page of ours.
            "X-Content-Type-Options": "nosniff",
            "Server": "foundry-api",
        }
        if self.ticket is not None:
            head["x-queue-ms"] = f"{self.ticket.queued_s * 1000:.0f}"
            # As of now: a call that has ended gave back what it did not use.
            head |= make_limit_headers(self.ticket.account, self.context.admission.accounts.clock())
        head |= self.headers
        return head


def make_request_id() -> str:
    """Return an id for a request."""
    return f"req_{os.urandom(12).hex()}"


def make_too_large(limit: int, setting: str) -> RequestError:
    """Return the error for a body that is larger than the limit of a setting."""
    return RequestError(
        413,
        "payload_too_large",
        f"The body is larger than {limit} bytes, the limit of this gateway ({setting}).",
    )
