"""The transport: pools of connections, with bounds and without surprises."""

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
    has_arrivals,
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


_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)


def send_quickack(transport: asyncio.BaseTransport | None) -> None:
    """Send the acknowledgement that is due now, if any. The system goes back to delaying later."""
    if _QUICK_ACK is None or transport is None:
        return
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):  # it broke; reading it will say so
            connection.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)


QUICKACK_BLOCKS = 2
"""The head and the first event. Later blocks are larger, the fewer acknowledgements there are."""


class HttpTransport:
    """Requests over pools of connections.

    Services on this machine are reached directly, and others over aiohttp's session: it speaks TLS
    and knows the proxies of the environment, which can't reach the caller's loopback. Redirects
    are not followed and cookies not kept, because no service sends any. A body that is compressed
    although nobody asked for it is decompressed, within bounds.

    Args:
        connect_timeout_s: Bound of making a connection. On loopback it takes microseconds; a remote
            service that takes longer than the default is as good as dead.
        is_loopback_http: Whether a URL is reached directly.
        check: Called before anything is sent on an event loop for the first time, and after
            `aclose`; raises if nothing may be sent any more.
    """

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
        """Send a request and wait for the head of its answer. See `Transport.send`."""
        pools = self._current
        if pools is None or self._loop is not asyncio.get_running_loop():
            self._check()
            pools = await self._open_pools()
        try:
            if not self._use_loopback(request.url):
                return _make_session_response(await _send(pools.get_session(), request))
            exchange = await pools.loopback.send(request)
            response = HttpResponse(
                exchange.status,
                exchange.headers,
                exchange.body,
                socket=exchange.connection.transport,
                url=request.url,
                release=functools.partial(pools.loopback.release, exchange),
            )
            return _decoded(response) if "Content-Encoding" in exchange.headers else response
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._make_send_error(request, error) from error
        except RuntimeError as error:
            if not pools.closed:
                raise
            raise self._make_send_error(request, error) from error

    def _make_send_error(self, request: Request, error: Exception) -> FoundryError:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            service, limit_s = get_origin(request.url), self._connect_timeout_s
            return ConnectTimeout(
                f"{service} accepted no connection within {limit_s:g} s",
                limit_s=limit_s,
                stage="connecting",
                service=service,
            )
        return _classify_send_error(request, error)

    async def aclose(self) -> None:
        """Close every connection. New ones are made if it is used again."""
        self._current = None
        if self._exit_handler is not None:
            atexit.unregister(self._exit_handler)
        if self._pools is not None:
            pools, self._pools = self._pools, None
            await pools.aclose()

    async def _open_pools(self) -> _ConnectionPools:
        # The pools of another loop are left for that loop to close.
        self._loop = asyncio.get_running_loop()
        self._pools = _loop_scoped_pools(self._connect_timeout_s)
        self._current = await anext(self._pools)
        self._exit_handler = functools.partial(_close_at_exit, self._loop, weakref.ref(self._pools))
        atexit.register(self._exit_handler)
        return self._current


class _ConnectionPools:
    """The connections of one event loop."""

    def __init__(self, connect_timeout_s: float) -> None:
        self.loopback = LoopbackPool(connect_timeout_s)
        self._connect_timeout_s = connect_timeout_s
        self._loop = asyncio.get_running_loop()
        self._session: aiohttp.ClientSession | None = None
        self.closed = False

    def get_session(self) -> aiohttp.ClientSession:
        """The session for services that are not reached directly."""
        if self.closed:
            raise aiohttp.ServerDisconnectedError("the connections were closed meanwhile")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
                headers=DEFAULT_HEADERS,
                auto_decompress=False,
                max_line_size=MAX_HEADER_BYTES,
                max_field_size=MAX_HEADER_BYTES,
                max_headers=MAX_HEADERS,
            )
        return self._session

    async def aclose(self) -> None:
        """Close every connection. From now on none is made."""
        self.closed = True
        await self.loopback.aclose()
        if self._session is None:
            return
        if self._loop is asyncio.get_running_loop():
            await self._session.close()
        else:
            # It closes at once. Its connections' ends cannot be waited for on another event loop.
            with contextlib.suppress(RuntimeError):
                await self._session.close()


def _close_at_exit(
    loop: asyncio.AbstractEventLoop, pools: Callable[[], AsyncGenerator[_ConnectionPools] | None]
) -> None:
    """Close what the loop did not: `python -m asyncio` ends its own without closing anything."""
    open_pools = pools()
    if open_pools is not None and not loop.is_closed() and not loop.is_running():
        loop.run_until_complete(open_pools.aclose())


async def _loop_scoped_pools(connect_timeout_s: float) -> AsyncGenerator[_ConnectionPools]:
    """Pools. As a generator, because `asyncio.run` closes those that are left at its end.

    So a client that was never closed leaves no open socket behind, and one client serves several
    `asyncio.run` calls one after the other.
    """
    pools = _ConnectionPools(connect_timeout_s)
    try:
        yield pools
    finally:
        await pools.aclose()


async def _send(session: aiohttp.ClientSession, request: Request) -> aiohttp.ClientResponse:
    """The head of the answer. Dead pooled connections are replaced as by `LoopbackPool`."""
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
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if _NEW_CONNECTION.get() or request.method not in IDEMPOTENT_METHODS or session.closed:
                raise
        else:
            if isinstance(session.connector, _Connector):
                session.connector.track_reader(response)
            return response
        finally:
            _NEW_CONNECTION.reset(token)


_NEW_CONNECTION: ContextVar[bool] = ContextVar("foundry_api_connection_made", default=False)
"""Whether the request of this task made a connection, instead of taking one from the pool."""


class _Connector(aiohttp.TCPConnector):
    """Knows two things of a connection that aiohttp does not tell, or only at 20 µs a request."""

    def __init__(self) -> None:
        # aiohttp leaves the type of its socket factory's address open.
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            limit=0, keepalive_timeout=IDLE_CONNECTION_S
        )
        self._readers: dict[ResponseHandler, aiohttp.StreamReader] = {}

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> AiohttpConnection | None:
        while (connection := await super()._get(key, traces)) is not None:
            protocol = connection.protocol
            if protocol is not None and not has_arrivals(protocol.transport):
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
        """Take note of who reads from a connection."""
        connection = response.connection
        if connection is not None and connection.protocol is not None:
            self._readers[connection.protocol] = response.content

    def _on_closed(self, protocol: ResponseHandler, closed: asyncio.Future[None]) -> None:
        """Tell the reader of a connection that is gone.

        aiohttp 3.14 closes a connection whose bytes are not HTTP, and tells nobody who waits for
        more of its body.
        """
        closed.exception()  # taken, so that the event loop does not complain of it
        content = self._readers.pop(protocol, None)
        if content is not None and not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection was closed"))


class HttpResponse:
    """An answer whose head has come.

    Attributes:
        status: The HTTP status.
        headers: The headers.

    Args:
        status: The HTTP status.
        headers: The headers.
        content: The body.
        socket: The connection, while it is open.
        url: Whom the request went to, for errors.
        release: Called at the end, whether or not the body was read to its end.
    """

    __slots__ = (
        *("_content", "_acknowledged_blocks", "_release", "_socket", "_url"),
        *("headers", "status"),
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
        """Whether the end of the body has come, and all before it was read."""
        return self._content.at_eof()

    @property
    def service(self) -> str:
        """Base URL of who answers."""
        return get_origin(self._url)

    async def read(self) -> bytes:
        """What came of the body since the last time; nothing at its end."""
        content = self._content
        try:
            if self._acknowledged_blocks < QUICKACK_BLOCKS and not content.at_eof():
                self._acknowledged_blocks += 1
                send_quickack(self._socket)
            return await content.readany()
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            # aiohttp has no error of its own for reading on when the connection was closed here.
            raise StreamInterrupted(
                "the connection broke before the answer ended", service=self.service
            ) from error

    def close(self) -> None:
        """Free the connection, or close it if the body has not ended. Once more does nothing."""
        release, self._release = self._release, None
        if release is not None:
            release()


class DecodedResponse:
    """A response whose body is compressed, decompressed.

    Attributes:
        status: The HTTP status.
        headers: The headers.

    Args:
        response: As it comes.
        coding: How its body is compressed.
    """

    def __init__(self, response: HttpResponse, coding: str) -> None:
        self.status, self.headers = response.status, response.headers
        self._response = response
        self._encoded = BodyDecompressor(coding, response.service)

    @property
    def ended(self) -> bool:
        """Whether the end of the body has come, and all before it was read."""
        return self._response.ended and self._encoded.is_drained

    async def read(self) -> bytes:
        """What came of the body since the last time; nothing at its end."""
        encoded = self._encoded
        while not (piece := encoded.read()):
            block = await self._response.read()
            if not block:
                return encoded.finish()
            encoded.feed(block)
        return piece

    def close(self) -> None:
        """Free the connection, or close it if the body has not ended. Once more does nothing."""
        self._response.close()


def _decoded(response: HttpResponse) -> HttpResponse | DecodedResponse:
    coding = response.headers["Content-Encoding"].strip().lower()
    return DecodedResponse(response, coding) if coding in SUPPORTED_ENCODINGS else response


def _make_session_response(response: aiohttp.ClientResponse) -> HttpResponse | DecodedResponse:
    def release() -> None:
        response.release() if response.content.at_eof() else response.close()

    connection = response.connection
    made = HttpResponse(
        response.status,
        response.headers,
        response.content,
        socket=connection.transport if connection else None,
        url=str(response.url.origin()),
        release=release,
    )
    return _decoded(made) if "Content-Encoding" in response.headers else made


def _classify_send_error(request: Request, error: Exception) -> FoundryError:
    service = get_origin(request.url)
    match error:
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
        case ValueError():  # before anything was sent: a line end in a header, above all
            return ConfigurationError(
                f"the request to {service} cannot be sent: {error}",
                hint="Check the API key and the headers.",
                service=service,
            )
        case aiohttp.ClientPayloadError() | aiohttp.ClientResponseError():
            return ProtocolError(f"{service} does not speak HTTP as it should", service=service)
        case _:
            return ServiceCrashed(
                f"{service} closed the connection before it answered", service=service
            )


def _get_proxy(url: str) -> str | None:
    import urllib.request  # noqa: PLC0415 - 10 ms that calls to this machine need not wait for

    parts = urlsplit(url)
    with contextlib.suppress(OSError):  # the Windows registry may refuse to say
        if urllib.request.proxy_bypass(parts.hostname or ""):
            return None
    return urllib.request.getproxies().get(parts.scheme)
