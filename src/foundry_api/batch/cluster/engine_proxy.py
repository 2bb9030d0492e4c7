"""The HTTP proxy of an actor: lets gateways on other nodes reach its engine.

Engines of Foundry Local listen on loopback, without authentication. The proxy listens on the
address of its node, and requires a random token, which gateways get through Ray. The answers do not
travel through Ray: a call of an actor for each token would cost more than the token itself, and
HTTP has what a gateway needs, which is backpressure and an end of the engine's work when the
connection is closed.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from typing import TYPE_CHECKING, Any, cast

import msgspec
from aiohttp import web

from foundry_api.types.errors import (
    ConfigurationError,
    FoundryError,
    ServiceCrashed,
    ServiceNotRunning,
    StreamInterrupted,
)
from foundry_api.wire.listening import listen
from foundry_api.wire.transport import Request

if TYPE_CHECKING:
    from foundry_api.core.service_pool import ServiceHandle
    from foundry_api.wire.listening import Listener
    from foundry_api.wire.transport import Response

__all__ = ["EngineProxy"]

# A recording is the largest request; a gateway takes 25 MiB by default, and forms are larger.
MAX_BODY_BYTES = 40 * 2**20
# Of the bodies of all requests that are in memory.
MAX_BUFFERED_BYTES = 256 * 2**20

MAX_CONNECTIONS = 1024
# A connection that sends no request with the token in this time is closed.
TOKEN_TIMEOUT_S = 10.0
# How long a gateway may take to read, before its call is given up.
WRITE_TIMEOUT_S = 60.0
CLOSE_GRACE_S = 2.0

# Of one connection only, or set again for the other one.
HOP_HEADERS = frozenset(
    {
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "transfer-encoding",
        "upgrade",
    }
)


class EngineProxy(web.Server):
    """Passes requests that have the token to an engine.

    Attributes:
        token: The bearer token of this proxy.
    """

    def __init__(self, service: ServiceHandle) -> None:
        self._options: dict[str, Any] = {"access_log": None, "auto_decompress": False}
        # With cancellation, a gateway that leaves ends the handler, which stops the engine.
        super().__init__(self._handle, handler_cancellation=True, **self._options)
        self.token = secrets.token_urlsafe(32)
        self._authorization = f"Bearer {self.token}".encode()
        self._service = service
        self._buffered_bytes = 0
        self._listener: Listener | None = None
        self.connection_count = 0

    async def listen(self, host: str, port: int) -> str:
        """Accept connections, and return the address.

        Raises:
            ConfigurationError: The port cannot be used.
        """
        try:
            self._listener = await listen(self, host, port)
        except OSError as error:
            raise ConfigurationError(
                f"port {port} of {host} cannot be used: {error.strerror}",
                hint="Give the upstream another engine_port, or none for any free one.",
            ) from error
        port = self._listener.port
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def aclose(self) -> None:
        """Stop listening, and end all connections."""
        if self._listener is not None:
            self._listener.close()
        self.pre_shutdown()
        await self.shutdown(CLOSE_GRACE_S)

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        return _Connection(self, loop=asyncio.get_running_loop(), **self._options)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, self._authorization):
            return _refuse(401, "the token of this engine is missing or wrong")
        cast("_Connection", request.protocol).accept()
        body = bytearray()
        try:
            async for block in request.content.iter_any():
                body += block
                self._buffered_bytes += len(block)
                if len(body) > MAX_BODY_BYTES:
                    return _refuse(413, f"the request is larger than {MAX_BODY_BYTES} bytes")
                if self._buffered_bytes > MAX_BUFFERED_BYTES:
                    return _refuse(503, "too many large requests are sent at the same time")
            return await self._forward(request, bytes(body))
        finally:
            self._buffered_bytes -= len(body)

    async def _forward(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in HOP_HEADERS
        }
        has_body = bool(body) or request.method not in {"GET", "HEAD"}
        connection = None
        try:
            connection = await self._service.connect()
            upstream = await connection.transport.send(
                Request(
                    request.method,
                    connection.base_url + request.raw_path,
                    headers,
                    body if has_body else None,
                )
            )
        except (ServiceCrashed, ServiceNotRunning):
            if connection is not None:
                self._service.invalidate(connection)  # the next request starts another engine
            # As if the engine itself had ended the connection: the gateway calls another node.
            return _abort(request)
        except FoundryError as error:
            return _refuse(503, error.message)
        try:
            return await _pass_on(request, upstream)
        except (StreamInterrupted, TimeoutError):
            return _abort(request)
        finally:
            upstream.close()  # stops the engine, unless the answer is complete


class _Connection(web.RequestHandler):
    """A connection of a gateway, or of anybody who reaches the port."""

    __slots__ = ("_is_counted", "_proxy", "_timer")

    def __init__(self, proxy: EngineProxy, **options: Any) -> None:
        super().__init__(proxy, **options)
        self._proxy = proxy
        self._is_counted = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close a connection that never sends the token, or that is one too many."""
        super().connection_made(transport)
        client = cast("asyncio.Transport", transport)
        if self._proxy.connection_count >= MAX_CONNECTIONS:
            client.abort()
            return
        self._proxy.connection_count += 1
        self._is_counted = True
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(TOKEN_TIMEOUT_S, client.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note that the connection has ended."""
        self.accept()
        if self._is_counted:
            self._is_counted = False
            self._proxy.connection_count -= 1
        super().connection_lost(exc)

    def accept(self) -> None:
        """Keep the connection: a request had the token."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def _pass_on(request: web.BaseRequest, upstream: Response) -> web.StreamResponse:
    response = web.StreamResponse(
        status=upstream.status,
        headers=[
            (name, value)
            for name, value in upstream.headers.items()
            if name.lower() not in HOP_HEADERS
        ],
    )
    if (length := upstream.headers.get("Content-Length")) is not None:
        response.content_length = int(length)
    await response.prepare(request)
    while block := await upstream.read():
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await response.write(block)
    await response.write_eof()
    return response


def _refuse(status: int, message: str) -> web.Response:
    response = web.Response(
        status=status,
        body=msgspec.json.encode({"error": {"message": message}}),
        content_type="application/json",
    )
    response.force_close()  # the body may not have been read
    return response


def _abort(request: web.BaseRequest) -> web.Response:
    """End a connection without an answer, or in the middle of one."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=502)  # reaches nobody
