"""HTTP/1.1 to a service on this machine, without what a client of the whole web needs.

aiohttp's parser reads the answers. Its session, which minds redirects, cookies, proxies and
encryption, takes more time than all else in a short call, and has nothing to do here.
"""

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
    "has_arrivals",
    "is_loopback_http",
]

IDLE_CONNECTION_S = 15.0
"""The 2.x service spends a thread on each idle connection, so they are not kept for long."""

MAX_HEADER_BYTES = 32 * 2**10
"""Bound of one header. Gateways put tokens and policies of 16 KB there."""

MAX_HEADERS = 512

DEFAULT_HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "User-Agent": f"foundry-api/{__version__}",
}
"""Headers of every request. No service compresses; a proxy may, though nobody asked for it."""

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
    """Whether a request needs neither encryption nor, ever, a proxy."""
    return url.startswith("http://") and is_loopback(url)


def has_arrivals(transport: asyncio.BaseTransport | None) -> bool:
    """Whether something came over a connection that the event loop has not read yet.

    On an idle one that is its end, as no service speaks unasked. The event loop takes note of it
    when it next polls, which may be after a request was sent on the dead connection.
    """
    socket = transport.get_extra_info("socket") if transport is not None else None
    if socket is None:
        return False
    try:
        if hasattr(select, "poll"):  # select() takes no descriptor above 1023
            poll = select.poll()
            poll.register(socket, select.POLLIN)
            return bool(poll.poll(0))
        return bool(select.select([socket], (), (), 0)[0])
    except (OSError, ValueError):
        return True  # it is closed


class _LenientParser(HttpResponseParserPy):
    """aiohttp's parser as it is outside of Python's development mode."""

    lax = True

    def feed_data(self, data: bytes, *_: Any, **__: Any) -> Any:
        return super().feed_data(data, b"\n")


class LoopbackConnection(ResponseHandler):
    """One connection, which serves one request at a time.

    Args:
        loop: The event loop.
        address: Host and port at its other end.

    Attributes:
        address: As above.
        body: Of the answer that is being read.
        idle_since: When it was last used, on the loop's clock.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, address: tuple[str, int]) -> None:
        super().__init__(loop)
        self.address = address
        self.body: aiohttp.StreamReader | None = None
        self.idle_since = 0.0
        self._poll: Callable[[int], object] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Prepare to ask, before each request, whether something came while it was idle."""
        super().connection_made(transport)
        socket = transport.get_extra_info("socket")
        if hasattr(select, "poll") and socket is not None:
            poll = select.poll()
            poll.register(socket, select.POLLIN)
            self._poll = poll.poll

    def read_leniently(self, **options: Any) -> None:
        """Read the next answer in Python's development mode as leniently as outside of it.

        There aiohttp refuses an answer that names its type twice, as every stream of 2.x does
        (foundry-local-service.md, 1D).
        """
        self._parser = _LenientParser(
            self,
            self._loop,
            self._read_bufsize,
            payload_exception=aiohttp.ClientPayloadError,
            **options,
        )

    def is_usable(self) -> bool:
        """Whether a request may be sent on it, after it was idle."""
        if not self.is_connected() or self.should_close:
            return False
        if self._poll is not None:  # as `has_arrivals`, in one call of the system
            return not self._poll(0)
        return not has_arrivals(self.transport)

    def close(self) -> None:
        """Close it. Where its event loop has ended, its socket is closed when it is collected."""
        if not self._loop.is_closed():
            super().close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell whoever reads the body.

        aiohttp 3.14 closes a connection whose bytes are not HTTP, and tells nobody who waits for
        more of its body.
        """
        super().connection_lost(exc)
        body = self.body
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError("the connection was closed"))


class PendingResponse(NamedTuple):
    """A request that was sent, and the head of its answer.

    Attributes:
        status: The HTTP status.
        headers: Of the answer.
        body: Of the answer.
        connection: Where it comes from.
    """

    status: int
    headers: Mapping[str, str]
    body: aiohttp.StreamReader
    connection: LoopbackConnection


class LoopbackPool:
    """A pool of connections, on one event loop.

    Args:
        connect_timeout_s: Bound of making a connection.
    """

    def __init__(self, connect_timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._connect_timeout_s = connect_timeout_s
        self._closed = False
        self._open: set[LoopbackConnection] = set()
        self._idle: dict[tuple[str, int], list[LoopbackConnection]] = {}
        self._idle_timer: asyncio.TimerHandle | None = None

    async def send(self, request: Request) -> PendingResponse:
        """Send a request and wait for the head of its answer.

        A pooled connection that turns out to be dead is replaced: the service may close an idle
        one at any moment. If it dies after the request was sent, the service may have carried that
        out, so that only an idempotent request is sent again here.

        Raises:
            ServiceNotRunning: Nothing accepts connections there.
            ConnectionTimeoutError: Nothing did so in time.
            ClientError: The connection broke, or what came is not HTTP.
            ValueError: The request cannot be sent.
        """
        address, head = _encode_head(request.method, request.url, tuple(request.headers.items()))
        while True:
            pooled = self._take_pooled(address)
            connection = await self._connect(address, request.url) if pooled is None else pooled
            try:
                return await _send_on(connection, head, request.body)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                connection.close()
                if pooled is None or request.method not in IDEMPOTENT_METHODS or self._closed:
                    raise
            except BaseException:
                connection.close()
                raise

    def release(self, pending: PendingResponse) -> None:
        """The answer was read, as far as it was wanted: its connection is kept if it was whole."""
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
        """Close every connection. From now on none is made."""
        self._closed = True
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._idle.clear()
        closing = [connection.closed for connection in self._open]
        for connection in self._open:
            connection.close()
        if self._loop is asyncio.get_running_loop():  # elsewhere their ends cannot be waited for
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
            raise _connect_error(get_origin(url), error) from error
        if self._closed:
            connection.close()
            raise aiohttp.ServerDisconnectedError("the connections were closed meanwhile")
        if connection.closed is not None:
            self._open.add(connection)
            connection.closed.add_done_callback(functools.partial(self._on_closed, connection))
        return connection

    def _on_closed(self, connection: LoopbackConnection, closed: asyncio.Future[None]) -> None:
        closed.exception()  # taken, so that the event loop does not complain of it
        self._open.discard(connection)

    def _close_idle(self) -> None:
        """Close what was idle for too long, and look again when the next one will have been."""
        oldest_allowed = self._loop.time() - IDLE_CONNECTION_S
        self._idle_timer = None
        for address, idle in list(self._idle.items()):
            for connection in idle:
                if connection.idle_since <= oldest_allowed:
                    connection.close()
            self._idle[address] = [
                idle_connection
                for idle_connection in idle
                if idle_connection.idle_since > oldest_allowed
            ]
            if not self._idle[address]:
                del self._idle[address]
        if self._idle:
            oldest = min(
                idle_connection.idle_since
                for idle in self._idle.values()
                for idle_connection in idle
            )
            self._idle_timer = self._loop.call_at(oldest + IDLE_CONNECTION_S, self._close_idle)


def _connect_error(service: str, error: OSError) -> ServiceNotRunning:
    if isinstance(error, ConnectionRefusedError):
        return ServiceNotRunning(f"nothing accepts connections at {service}", service=service)
    return ServiceNotRunning(f"no connection to {service}: {error.strerror}", service=service)


async def _send_on(
    connection: LoopbackConnection, head: bytes, body: bytes | None
) -> PendingResponse:
    transport = connection.transport
    if transport is None:
        raise aiohttp.ServerDisconnectedError
    connection.set_response_params(**_RESPONSE_PARAMS)
    if helpers.DEBUG:
        connection.read_leniently(**_RESPONSE_PARAMS)
    if body is None:
        transport.write(head + b"\r\n")
    else:
        transport.write(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body))
    try:
        message, content = await connection.read()
        while 100 <= message.code < 200 and message.code != 101:  # noqa: PLR2004 - not yet it
            message, content = await connection.read()
    except HttpProcessingError as error:
        raise aiohttp.ClientPayloadError(error.message) from error
    connection.body = content
    return PendingResponse(message.code, message.headers, content, connection)


@functools.lru_cache(maxsize=256)
def _encode_head(
    method: str, url: str, headers: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, int], bytes]:
    """Where a request goes, and its head without the length of its body and without its end."""
    parts = URL(url)
    if parts.host is None or parts.port is None:
        raise aiohttp.InvalidURL(url)
    fields = {"Host": parts.host_port_subcomponent or "", **DEFAULT_HEADERS, **dict(headers)}
    lines = [f"{method} {parts.raw_path_qs} HTTP/1.1"]
    for name, value in fields.items():
        if not _TOKEN.fullmatch(name) or _FORBIDDEN.search(value):
            raise ValueError(f"the header {name!r} holds a character that no header may hold")
        lines.append(f"{name}: {value}")
    return (parts.host, parts.port), ("\r\n".join(lines) + "\r\n").encode()
