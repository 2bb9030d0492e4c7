"""The HTTP transport: one pool for loopback services, and an aiohttp session for all others."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import socket
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp

from foundry_api.types.errors import (
    ConfigurationError,
    ConnectTimeout,
    FoundryError,
    ProtocolError,
    ServiceCrashed,
    ServiceNotRunning,
    StreamInterrupted,
)
from foundry_api.types.settings import CONNECT_TIMEOUT_S
from foundry_api.types.values import strip_secrets
from foundry_api.wire.encoding import SUPPORTED_ENCODINGS, BodyDecompressor
from foundry_api.wire.loopback import (
    DEFAULT_HEADERS,
    IDLE_CONNECTION_S,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    LoopbackPool,
    has_unread_input,
    is_loopback_http,
)
from foundry_api.wire.transport import IDEMPOTENT_METHODS, get_origin, is_loopback

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ClientRequest, ConnectionKey
    from aiohttp.connector import Connection as AiohttpConnection
    from aiohttp.tracing import Trace

    from foundry_api.wire.transport import Request

__all__ = ["HttpResponse", "HttpTransport", "send_quickack"]

# Acknowledge the first blocks at once: the head and the first event. For the later ones the kernel
# waits, so that several events arrive as one block.
QUICKACK_BLOCKS = 2

_TCP_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux only

# Whether the current task's request opened a connection instead of reusing a pooled one.
_NEW_CONNECTION: ContextVar[bool] = ContextVar("foundry_api_connection_made", default=False)


class HttpTransport:
    """Sends requests over pooled connections, which are opened per event loop.

    Args:
        connect_timeout_s: Limit for opening a connection. On loopback that takes microseconds.
        use_loopback: Decides whether a URL is reached through the loopback pool.
        check: Called before the first request on an event loop and after `aclose`; raises if
            nothing may be sent any more.
    """

    # Redirects are not followed and cookies not stored, because no service generation sends any.

    def __init__(
        self,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        use_loopback: Callable[[str], bool] = is_loopback_http,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._check = check
        self._use_loopback = use_loopback
        self._pools: AsyncGenerator[_ConnectionPools] | None = None
        self._current: _ConnectionPools | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exit_handler: Callable[[], None] | None = None

    async def send(self, request: Request) -> HttpResponse | DecodedResponse:
        """Send a request and wait for the head of its response. See `Transport.send`."""
        pools = self._current
        if pools is None or self._loop is not asyncio.get_running_loop():
            self._check()
            pools = await self._open_pools()
        try:
            if not self._use_loopback(request.url):
                return await _send_with_session(pools.get_session(), request)
            pending = await pools.loopback.send(request)
            response = HttpResponse(
                pending.status,
                pending.headers,
                pending.body,
                socket=pending.connection.transport,
                url=request.url,
                release=functools.partial(pools.loopback.release, pending),
            )
            return _decode_body(response) if "Content-Encoding" in pending.headers else response
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _classify_send_error(request, error, self._connect_timeout_s) from error
        except RuntimeError as error:
            # aiohttp raises it if the session was closed while the request was being sent.
            if not pools.closed:
                raise
            raise _classify_send_error(request, error, self._connect_timeout_s) from error

    async def aclose(self) -> None:
        """Close all connections. The transport can be used again afterwards."""
        self._current = None
        if self._exit_handler is not None:
            atexit.unregister(self._exit_handler)
        if self._pools is not None:
            pools, self._pools = self._pools, None
            await pools.aclose()

    async def _open_pools(self) -> _ConnectionPools:
        # Another loop may still own pools. They are left for that loop to close.
        self._loop = asyncio.get_running_loop()
        self._pools = _open_loop_scoped_pools(self._connect_timeout_s)
        self._current = await anext(self._pools)
        # A weak reference: the exit handler must not keep a forgotten client's sockets open.
        self._exit_handler = functools.partial(_close_at_exit, self._loop, weakref.ref(self._pools))
        atexit.register(self._exit_handler)
        return self._current


class HttpResponse:
    """A response whose head has arrived."""

    __slots__ = (
        "_acknowledged_blocks",
        "_content",
        "_release",
        "_socket",
        "_url",
        "headers",
        "status",
    )

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        content: aiohttp.StreamReader,
        *,
        socket: asyncio.BaseTransport | None,
        url: str,
        release: Callable[[], object],
    ) -> None:
        self.status = status
        self.headers = headers
        self._content = content
        self._socket = socket
        self._url = url
        self._release: Callable[[], object] | None = release
        self._acknowledged_blocks = 0

    @property
    def ended(self) -> bool:
        return self._content.at_eof()

    @property
    def service(self) -> str:
        """Base URL of the service."""
        return get_origin(self._url)

    async def read(self) -> bytes:
        content = self._content
        try:
            if self._acknowledged_blocks < QUICKACK_BLOCKS and not content.at_eof():
                self._acknowledged_blocks += 1
                send_quickack(self._socket)
            return await content.readany()
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            # RuntimeError: aiohttp has no error class for reading from a connection closed here.
            raise StreamInterrupted(
                "the connection broke before the answer ended", service=self.service
            ) from error

    def close(self) -> None:
        """Release the connection, or close it if the body has not ended. Idempotent."""
        release, self._release = self._release, None
        if release is not None:
            release()


class DecodedResponse:
    """Decompresses the body of a response. Some proxies compress though we send `identity`."""

    def __init__(self, response: HttpResponse, coding: str) -> None:
        self.status, self.headers = response.status, response.headers
        self._response = response
        self._decompressor = BodyDecompressor(coding, response.service)

    @property
    def ended(self) -> bool:
        return self._response.ended and self._decompressor.is_drained

    async def read(self) -> bytes:
        decompressor = self._decompressor
        while not (piece := decompressor.read()):
            block = await self._response.read()
            if not block:
                return decompressor.finish()
            decompressor.feed(block)
        return piece

    def close(self) -> None:
        self._response.close()


def _decode_body(response: HttpResponse) -> HttpResponse | DecodedResponse:
    coding = response.headers["Content-Encoding"].strip().lower()
    return DecodedResponse(response, coding) if coding in SUPPORTED_ENCODINGS else response


def send_quickack(transport: asyncio.BaseTransport | None) -> None:
    """Send a pending TCP acknowledgement now instead of after the kernel's delay."""
    if _TCP_QUICKACK is None or transport is None:
        return
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):  # a broken connection: the next read reports it
            connection.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)


class _ConnectionPools:
    """The connections of one event loop."""

    def __init__(self, connect_timeout_s: float) -> None:
        self.loopback = LoopbackPool(connect_timeout_s)
        self._connect_timeout_s = connect_timeout_s
        self._loop = asyncio.get_running_loop()
        self._session: aiohttp.ClientSession | None = None
        self.closed = False

    def get_session(self) -> aiohttp.ClientSession:
        if self.closed:
            raise aiohttp.ServerDisconnectedError("the connections have been closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(),
                cookie_jar=aiohttp.DummyCookieJar(),
                # No total timeout: a long answer is bounded by the call's own deadlines.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
                headers=DEFAULT_HEADERS,
                auto_decompress=False,  # DecodedResponse does it, with limits
                max_line_size=MAX_HEADER_BYTES,
                max_field_size=MAX_HEADER_BYTES,
                max_headers=MAX_HEADERS,
            )
        return self._session

    async def aclose(self) -> None:
        """Close all connections, and refuse to open new ones."""
        self.closed = True
        await self.loopback.aclose()
        if self._session is None:
            return
        if self._loop is asyncio.get_running_loop():
            await self._session.close()
        else:
            # The session closes its sockets before it waits for their transports. That wait
            # fails here, because they belong to another event loop.
            with contextlib.suppress(RuntimeError):
                await self._session.close()


async def _open_loop_scoped_pools(connect_timeout_s: float) -> AsyncGenerator[_ConnectionPools]:
    # An async generator, because `asyncio.run` closes all that are still open when it ends. So a
    # client that was never closed leaks no socket, and can be used in several `asyncio.run` calls.
    pools = _ConnectionPools(connect_timeout_s)
    try:
        yield pools
    finally:
        await pools.aclose()


def _close_at_exit(
    loop: asyncio.AbstractEventLoop, pools: Callable[[], AsyncGenerator[_ConnectionPools] | None]
) -> None:
    # `python -m asyncio` ends without closing its event loop's async generators.
    open_pools = pools()
    if open_pools is not None and not loop.is_closed() and not loop.is_running():
        loop.run_until_complete(open_pools.aclose())


async def _send_with_session(
    session: aiohttp.ClientSession, request: Request
) -> HttpResponse | DecodedResponse:
    """Send a request; replace a dead pooled connection as `LoopbackPool.send` does."""
    # No proxy can reach the loopback interface of this machine.
    proxy = None if is_loopback(request.url) else _get_proxy(request.url)
    while True:
        token = _NEW_CONNECTION.set(False)
        try:
            response = await session.request(
                request.method,
                request.url,
                data=request.body,
                headers=request.headers,
                proxy=proxy,
                allow_redirects=False,
            )
            break
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if _NEW_CONNECTION.get() or request.method not in IDEMPOTENT_METHODS or session.closed:
                raise
        finally:
            _NEW_CONNECTION.reset(token)

    def release() -> None:
        response.release() if response.content.at_eof() else response.close()

    if isinstance(session.connector, _Connector):
        session.connector.track_reader(response)
    connection = response.connection
    wrapped = HttpResponse(
        response.status,
        response.headers,
        response.content,
        socket=connection.transport if connection else None,
        url=str(response.url.origin()),
        release=release,
    )
    return _decode_body(wrapped) if "Content-Encoding" in response.headers else wrapped


class _Connector(aiohttp.TCPConnector):
    """Adds three things to aiohttp's pool.

    It distinguishes new connections from reused ones (aiohttp's tracing does so for 20 µs a
    request), discards idle connections that the service has closed, and wakes readers of lost ones.
    """

    def __init__(self) -> None:
        # aiohttp leaves the type of its socket factory's address open.
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            limit=0, keepalive_timeout=IDLE_CONNECTION_S
        )
        self._readers: dict[ResponseHandler, aiohttp.StreamReader] = {}

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> AiohttpConnection | None:
        while (connection := await super()._get(key, traces)) is not None:
            protocol = connection.protocol
            if protocol is not None and not has_unread_input(protocol.transport):
                return connection
            connection.close()
        return None

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own method
    ) -> ResponseHandler:
        _NEW_CONNECTION.set(True)
        protocol = await super()._create_connection(req, traces, timeout)
        if protocol.closed is not None:
            protocol.closed.add_done_callback(functools.partial(self._on_closed, protocol))
        return protocol

    def track_reader(self, response: aiohttp.ClientResponse) -> None:
        """Remember which reader a connection feeds, for `_on_closed`."""
        connection = response.connection
        if connection is not None and connection.protocol is not None:
            self._readers[connection.protocol] = response.content

    def _on_closed(self, protocol: ResponseHandler, closed: asyncio.Future[None]) -> None:
        closed.exception()  # retrieved, so that the event loop does not log it
        # aiohttp 3.14 closes a connection that sends something other than HTTP, but does not
        # wake the reader of its body, which would wait forever.
        content = self._readers.pop(protocol, None)
        if content is not None and not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection was closed"))


def _get_proxy(url: str) -> str | None:
    # Importing it takes 10 ms, which calls to this machine need not spend.
    import urllib.request  # noqa: PLC0415

    parts = urlsplit(url)
    with contextlib.suppress(OSError):  # the Windows registry may be unreadable
        if urllib.request.proxy_bypass(parts.hostname or ""):
            return None
    return urllib.request.getproxies().get(parts.scheme)


def _classify_send_error(
    request: Request, error: Exception, connect_timeout_s: float
) -> FoundryError:
    service = get_origin(request.url)
    match error:
        case aiohttp.ConnectionTimeoutError():
            return ConnectTimeout(
                f"{service} accepted no connection within {connect_timeout_s:g} s",
                limit_s=connect_timeout_s,
                stage="connecting",
                service=service,
            )
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return ConfigurationError(
                f"{strip_secrets(request.url)} is not a URL",
                hint="Give one like http://127.0.0.1:5273.",
            )
        case aiohttp.ClientSSLError():
            return ProtocolError(
                f"no secure connection to {service}: {error}",
                hint="Check its certificate, and whether the address should begin with http://.",
                service=service,
            )
        case aiohttp.ClientConnectorError():
            return ServiceNotRunning(f"nothing accepts connections at {service}", service=service)
        # Raised before anything is sent, mostly for a line break in a header. It has to come
        # after InvalidURL, which is a ValueError, too.
        case ValueError():
            return ConfigurationError(
                f"the request to {service} cannot be sent: {error}",
                hint="Check the API key and the headers.",
                service=service,
            )
        case aiohttp.ClientPayloadError() | aiohttp.ClientResponseError():
            return ProtocolError(f"{service} sent an invalid HTTP response", service=service)
        case _:
            return ServiceCrashed(
                f"{service} closed the connection before it answered", service=service
            )
