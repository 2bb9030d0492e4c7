"""HTTP/1.1 to services on this machine, over aiohttp's parser but without its session."""

from __future__ import annotations

import asyncio
import functools
import re
import select
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
from aiohttp import helpers
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpResponseParserPy
from yarl import URL

from foundry_api._version import __version__
from foundry_api.types.errors import ServiceNotRunning
from foundry_api.wire.transport import IDEMPOTENT_METHODS, get_origin, is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from foundry_api.wire.transport import Request

__all__ = [
    "LoopbackConnection",
    "LoopbackPool",
    "PendingResponse",
    "has_unread_input",
    "is_loopback_http",
]

# SDK 2.x uses one thread for each idle connection.
IDLE_CONNECTION_S = 15.0

# Limit for one header. API gateways send tokens and policies of 16 KB.
MAX_HEADER_BYTES = 32 * 2**10

MAX_HEADERS = 512

DEFAULT_HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",  # no service compresses, and on loopback it would cost time
    "User-Agent": f"foundry-api/{__version__}",
}

_RESPONSE_PARAMS: dict[str, Any] = {
    "read_until_eof": True,
    "auto_decompress": False,
    "max_line_size": MAX_HEADER_BYTES,
    "max_field_size": MAX_HEADER_BYTES,
    "max_headers": MAX_HEADERS,
}

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FORBIDDEN = re.compile(r"[\r\n\0]")


@functools.lru_cache(maxsize=64)
def is_loopback_http(url: str) -> bool:
    """Return whether a URL needs neither encryption nor a proxy."""
    return url.startswith("http://") and is_loopback(url)


class PendingResponse(NamedTuple):
    """The head of a response, and what its body is read from."""

    status: int
    headers: Mapping[str, str]
    body: aiohttp.StreamReader
    connection: LoopbackConnection


class LoopbackPool:
    """A connection pool on one event loop.

    It takes the place of aiohttp's session: redirects, cookies, proxies and TLS have no use on
    loopback, and handling them takes longer than all the rest of a short call.
    """

    def __init__(self, connect_timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._connect_timeout_s = connect_timeout_s
        self._closed = False
        self._open: set[LoopbackConnection] = set()
        self._idle: dict[tuple[str, int], list[LoopbackConnection]] = {}
        self._idle_timer: asyncio.TimerHandle | None = None

    async def send(self, request: Request) -> PendingResponse:
        """Send a request and wait for the head of its response."""
        body = request.body
        address, head = _encode_head(request.method, request.url, tuple(request.headers.items()))
        while True:
            pooled = self._take_pooled(address)
            connection = await self._connect(address, request.url) if pooled is None else pooled
            try:
                transport = connection.transport
                if transport is None:
                    raise aiohttp.ServerDisconnectedError  # noqa: TRY301 - handled as any other
                connection.set_response_params(**_RESPONSE_PARAMS)
                if helpers.DEBUG:  # in Python's development mode
                    connection.read_leniently(**_RESPONSE_PARAMS)
                if body is None:
                    transport.write(head + b"\r\n")
                else:
                    transport.write(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body))
                message, content = await connection.read()
                # 100 to 199 are interim responses, but 101 (another protocol) is final.
                while 100 <= message.code < 200 and message.code != 101:  # noqa: PLR2004
                    message, content = await connection.read()
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                # The service may close an idle connection at any moment, so a pooled one that turns
                # out to be dead is replaced. But it may already have carried out the request:
                # only an idempotent one is sent again here.
                connection.close()
                if pooled is None or request.method not in IDEMPOTENT_METHODS or self._closed:
                    raise
            except HttpProcessingError as error:
                connection.close()
                raise aiohttp.ClientPayloadError(error.message) from error
            except BaseException:
                connection.close()
                raise
            else:
                connection.body = content
                return PendingResponse(message.code, message.headers, content, connection)

    def release(self, pending: PendingResponse) -> None:
        """Return the connection to the pool if the body was read to its end, else close it."""
        connection = pending.connection
        connection.body = None
        closed = self._closed or self._loop.is_closed()
        if closed or connection.should_close or not pending.body.at_eof():
            connection.close()
            return
        connection.idle_since = self._loop.time()
        self._idle.setdefault(connection.address, []).append(connection)
        if self._idle_timer is None:
            self._idle_timer = self._loop.call_later(IDLE_CONNECTION_S, self._close_idle)

    async def aclose(self) -> None:
        """Close all connections, and refuse to open new ones."""
        self._closed = True
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._idle.clear()
        closing = [connection.closed for connection in self._open]
        for connection in self._open:
            connection.close()
        if self._loop is asyncio.get_running_loop():  # futures of another loop cannot be awaited
            await asyncio.gather(*filter(None, closing), return_exceptions=True)

    def _take_pooled(self, address: tuple[str, int]) -> LoopbackConnection | None:
        idle = self._idle.get(address)
        while idle:
            connection = idle.pop()
            if connection.is_usable():
                return connection
            connection.close()
        return None

    async def _connect(self, address: tuple[str, int], url: str) -> LoopbackConnection:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await self._loop.create_connection(
                    lambda: LoopbackConnection(self._loop, address), *address
                )
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError from error
        except OSError as error:
            raise _make_connect_error(get_origin(url), error) from error
        if self._closed:  # `aclose` ran while the connection was being opened
            connection.close()
            raise aiohttp.ServerDisconnectedError("the connections have been closed")
        if connection.closed is not None:
            self._open.add(connection)
            connection.closed.add_done_callback(functools.partial(self._on_closed, connection))
        return connection

    def _on_closed(self, connection: LoopbackConnection, closed: asyncio.Future[None]) -> None:
        closed.exception()  # retrieved, so that the event loop does not log it
        self._open.discard(connection)

    def _close_idle(self) -> None:
        """Close connections that were idle for too long; run again when the next one is due."""
        oldest_allowed = self._loop.time() - IDLE_CONNECTION_S
        self._idle_timer = None
        for address, idle in list(self._idle.items()):
            for connection in idle:
                if connection.idle_since <= oldest_allowed:
                    connection.close()
            self._idle[address] = [
                connection for connection in idle if connection.idle_since > oldest_allowed
            ]
            if not self._idle[address]:
                del self._idle[address]
        if self._idle:
            oldest = min(
                connection.idle_since for idle in self._idle.values() for connection in idle
            )
            self._idle_timer = self._loop.call_at(oldest + IDLE_CONNECTION_S, self._close_idle)


class LoopbackConnection(ResponseHandler):
    """A connection, which serves one request at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, address: tuple[str, int]) -> None:
        super().__init__(loop)
        self.address = address
        self.body: aiohttp.StreamReader | None = None  # of the response being read
        self.idle_since = 0.0  # on the event loop's clock
        self._poll: Callable[[int], object] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # For is_usable: a poll object per connection saves building one for every request.
        socket = transport.get_extra_info("socket")
        if hasattr(select, "poll") and socket is not None:
            poll = select.poll()
            poll.register(socket, select.POLLIN)
            self._poll = poll.poll

    def read_leniently(self, **options: Any) -> None:
        """Replace the parser by one that is lenient in Python's development mode, too."""
        # In that mode, aiohttp rejects the two Content-Type headers of every stream of SDK 2.x.
        self._parser = _LenientParser(
            self,
            self._loop,
            self._read_bufsize,
            payload_exception=aiohttp.ClientPayloadError,
            **options,
        )

    def is_usable(self) -> bool:
        """Return whether an idle connection can take another request."""
        if not self.is_connected() or self.should_close:
            return False
        if self._poll is not None:  # the check of has_unread_input in a single system call
            return not self._poll(0)
        return not has_unread_input(self.transport)

    def close(self) -> None:
        # A closed event loop raises here. The garbage collector closes the socket then.
        if not self._loop.is_closed():
            super().close()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        # aiohttp 3.14 closes a connection that sends something other than HTTP, but does not
        # wake the reader of its body, which would wait forever.
        body = self.body
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError("the connection was closed"))


class _LenientParser(HttpResponseParserPy):
    """aiohttp's parser as it behaves outside Python's development mode."""

    lax = True

    def feed_data(self, data: bytes, *_: Any, **__: Any) -> Any:
        return super().feed_data(data, b"\n")


def has_unread_input(transport: asyncio.BaseTransport | None) -> bool:
    """Return whether a connection has input that the event loop has not read yet."""
    # On an idle connection that is the end of the stream: no service sends anything unrequested.
    # The event loop notices it only at its next poll, perhaps after a request was sent on it.
    socket = transport.get_extra_info("socket") if transport is not None else None
    if socket is None:
        return False
    try:
        if hasattr(select, "poll"):  # not on Windows; select() fails above descriptor 1023
            poll = select.poll()
            poll.register(socket, select.POLLIN)
            return bool(poll.poll(0))
        return bool(select.select([socket], (), (), 0)[0])
    except (OSError, ValueError):
        return True  # the socket is closed


def _make_connect_error(service: str, error: OSError) -> ServiceNotRunning:
    if isinstance(error, ConnectionRefusedError):
        return ServiceNotRunning(f"nothing accepts connections at {service}", service=service)
    return ServiceNotRunning(f"no connection to {service}: {error.strerror}", service=service)


@functools.lru_cache(maxsize=256)
def _encode_head(
    method: str, url: str, headers: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, int], bytes]:
    """Return host and port, and the head without Content-Length and without the empty line."""
    parts = URL(url)
    if parts.host is None or parts.port is None:
        raise aiohttp.InvalidURL(url)
    fields = {"Host": parts.host_port_subcomponent or "", **DEFAULT_HEADERS, **dict(headers)}
    lines = [f"{method} {parts.raw_path_qs} HTTP/1.1"]
    for name, value in fields.items():
        if not _TOKEN.fullmatch(name) or _FORBIDDEN.search(value):
            raise ValueError(f"the header {name!r} contains a character that is not allowed")
        lines.append(f"{name}: {value}")
    return (parts.host, parts.port), ("\r\n".join(lines) + "\r\n").encode()
