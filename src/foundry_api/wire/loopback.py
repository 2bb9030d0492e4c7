"""HTTP/1.1 to services on this machine: connections, their responses, and the pool.

A connection is an `asyncio.Protocol`. It takes the place of aiohttp's session: redirects, cookies,
proxies and TLS have no use on loopback, and handling them takes longer than all the rest of a short
call.
"""

from __future__ import annotations

import asyncio
import functools
import re
import select
import socket
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast
from urllib.parse import quote, urlsplit

from multidict import CIMultiDict, CIMultiDictProxy

from foundry_api._version import __version__
from foundry_api.types.errors import (
    ConnectTimeout,
    FoundryError,
    ProtocolError,
    ServiceCrashed,
    ServiceNotRunning,
    StreamInterrupted,
)
from foundry_api.wire.http_parser import PARSER_ERRORS, HttpParserError, make_parser
from foundry_api.wire.transport import (
    IDEMPOTENT_METHODS,
    get_origin,
    is_loopback,
    make_unsendable_error,
    make_url_error,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from typing import NoReturn

    from foundry_api.wire.transport import Request

__all__ = [
    "DEFAULT_HEADERS",
    "IDLE_CONNECTION_S",
    "MAX_HEADERS",
    "MAX_HEADER_BYTES",
    "QUICKACK_BLOCKS",
    "LoopbackConnection",
    "LoopbackPool",
    "LoopbackResponse",
    "has_unread_input",
    "is_loopback_http",
    "send_quickack",
]

HTTP_PORT = 80

# SDK 2.x uses one thread for each idle connection.
IDLE_CONNECTION_S = 15.0

DEFAULT_HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",  # no service compresses, and on loopback it would cost time
    "User-Agent": f"foundry-api/{__version__}",
}

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FORBIDDEN = re.compile(r"[\r\n\0]")
# What a path and a query may hold unencoded (RFC 3986), and the percent sign of what is encoded.
_PATH_CHARACTERS = "/:@!$&'()*+,;=-._~%"
_QUERY_CHARACTERS = f"{_PATH_CHARACTERS}?"

# Limit for one header. API gateways send tokens and policies of 16 KB.
MAX_HEADER_BYTES = 32 * 2**10
MAX_HEADERS = 512
# Limit for all headers, and for what has arrived of one that is not complete.
MAX_HEAD_BYTES = 256 * 2**10

# The connection stops receiving when this many bytes wait for the reader of the response.
MAX_BUFFERED_BYTES = 128 * 2**10

# Acknowledge the first blocks at once: the head and the first event. For the later ones the kernel
# waits, so that several events arrive as one block.
QUICKACK_BLOCKS = 2

_TCP_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux only

SWITCHING_PROTOCOLS = 101


@functools.lru_cache(maxsize=64)
def is_loopback_http(url: str) -> bool:
    """Return whether a URL needs neither encryption nor a proxy."""
    return url.startswith("http://") and is_loopback(url)


class LoopbackPool:
    """A connection pool on one event loop."""

    def __init__(self, connect_timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._connect_timeout_s = connect_timeout_s
        self._closed = False
        self._open: set[LoopbackConnection] = set()
        self._idle: dict[tuple[str, int], list[LoopbackConnection]] = {}
        self._idle_timer: asyncio.TimerHandle | None = None

    async def send(self, request: Request) -> LoopbackResponse:
        """Send a request and wait for the head of its response."""
        method, body = request.method, request.body
        address, head = _encode_head(method, request.url, tuple(request.headers.items()))
        if body is None:
            data = head + b"\r\n"
        else:
            data = b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
        while True:
            pooled = self._take_pooled(address)
            connection = await self._connect(address, request.url) if pooled is None else pooled
            try:
                await connection.send(data, is_head_request=method == "HEAD")
            except ConnectionLost as error:
                # The service may close an idle connection at any moment, so a pooled one that turns
                # out to be dead is replaced. But it may already have carried out the request:
                # only an idempotent one is sent again here.
                connection.close()
                if pooled is None or method not in IDEMPOTENT_METHODS or self._closed:
                    service = connection.service
                    raise ServiceCrashed(
                        f"{service} closed the connection before it answered", service=service
                    ) from error
            except BaseException:
                connection.close()
                raise
            else:
                return LoopbackResponse(connection, self._release)

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
            await asyncio.gather(*closing)

    def _release(self, connection: LoopbackConnection) -> None:
        """Take a connection back if its response was read to the end, else close it."""
        if self._closed or not connection.can_be_reused() or self._loop.is_closed():
            connection.close()
            return
        connection.idle_since = self._loop.time()
        idle = self._idle.get(connection.address)
        if idle is None:
            self._idle[connection.address] = [connection]
        else:
            idle.append(connection)
        if self._idle_timer is None:
            self._idle_timer = self._loop.call_later(IDLE_CONNECTION_S, self._close_idle)

    def _take_pooled(self, address: tuple[str, int]) -> LoopbackConnection | None:
        idle = self._idle.get(address)
        while idle:
            connection = idle.pop()
            if connection.is_usable():
                return connection
            connection.close()
        return None

    async def _connect(self, address: tuple[str, int], url: str) -> LoopbackConnection:
        service = get_origin(url)
        if self._closed:
            raise _make_closed_error(service)
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await self._loop.create_connection(
                    lambda: LoopbackConnection(self._loop, address, service), *address
                )
        except TimeoutError as error:
            limit_s = self._connect_timeout_s
            raise ConnectTimeout(
                f"{service} accepted no connection within {limit_s:g} s",
                limit_s=limit_s,
                stage="connecting",
                service=service,
            ) from error
        except ConnectionRefusedError as error:
            raise ServiceNotRunning(
                f"nothing accepts connections at {service}", service=service
            ) from error
        except UnicodeError as error:  # a host that DNS can't encode
            raise make_url_error(url) from error
        except OSError as error:
            raise ServiceNotRunning(
                f"no connection to {service}: {error.strerror or error}", service=service
            ) from error
        if self._closed:  # `aclose` ran while the connection was being opened
            connection.close()
            raise _make_closed_error(service)
        if not connection.closed.done():
            self._open.add(connection)
            connection.closed.add_done_callback(lambda _: self._open.discard(connection))
        return connection

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


class ConnectionLost(Exception):
    """The connection closed before a response. The service may have carried out the request."""


class Waiter(asyncio.Future[None]):
    """A future for one task, which `wake` and `fail` resume before they return.

    A plain future has the event loop resume it in its next iteration. Polling for that takes as
    long as the task then needs for a short answer. Only what the event loop itself calls may use
    the two methods, because a task cannot run within another one.
    """

    _resume: Callable[[Any], object]  # resumes the task
    _context: Context

    def wake(self) -> None:
        self.set_result(None)
        self._context.run(self._resume, self)

    def fail(self, error: BaseException) -> None:
        self.set_exception(error)
        self._context.run(self._resume, self)

    def add_done_callback(
        self, callback: Callable[[Self], object], /, *, context: Context | None = None
    ) -> None:
        """Store what resumes the task. The task calls this when it begins to wait."""
        self._resume, self._context = callback, context or copy_context()

    def cancel(self, msg: object = None) -> bool:
        is_cancelled = super().cancel(msg)
        if is_cancelled:  # perhaps by another task
            self.get_loop().call_soon(self._resume, self, context=self._context)
        return is_cancelled


class LoopbackConnection(asyncio.Protocol):
    """A connection, which serves one request at a time.

    The parser calls the methods that begin with `on_`. `send` and `read` wait for what they store;
    `read_until` has it handed over.

    Attributes:
        address: The host and port, as in the URL.
        service: The base URL of the service, for errors.
        closed: Done when the connection has closed.
        idle_since: When the last response ended, on the event loop's clock.
        status: The status of the response.
        headers: The headers of the response.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, address: tuple[str, int], service: str
    ) -> None:
        self.address = address
        self.service = service
        self.closed: asyncio.Future[None] = loop.create_future()
        self.idle_since = 0.0
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._poll: Callable[[int], object] | None = None
        self._waiter: Waiter | None = None  # of the task that waits for the response
        self._on_block: Callable[[bytes], bool] | None = None  # of the task, see `read_until`
        self._is_head_request = False
        self._has_head = self._has_ended = True
        self._is_read = False  # whether the reader has taken some of the body
        self._is_stopped = False  # whether the parser was stopped, because no more is expected
        self._ends_with_connection = False
        self._keeps_alive = True
        self._failure: FoundryError | None = None
        self._fields: list[tuple[bytes, bytes]] = []
        self._blocks: list[bytes] = []
        self._received_bytes = 0  # since the reader took the last block
        self._is_paused = False
        self._quickacks = 0  # left for this response
        self.on_body = self._blocks.append  # called for each event of a stream
        self._parser = make_parser(self)

    # --- for the pool ---------------------------------------------------------------------

    async def send(self, data: bytes, *, is_head_request: bool) -> None:
        """Send a request and wait for the head of its response."""
        transport = self._transport
        if transport is None:
            raise ConnectionLost
        self._is_head_request = is_head_request
        self._has_head = self._has_ended = self._is_read = False
        self._received_bytes = 0
        self._quickacks = QUICKACK_BLOCKS
        transport.write(data)
        while not self._has_head:
            waiter = self._waiter = Waiter(loop=self._loop)
            await waiter
            if self._failure is not None:
                raise self._failure
            if self._transport is None and not self._has_head:
                raise ConnectionLost

    def is_usable(self) -> bool:
        """Return whether an idle connection can take another request."""
        if self._transport is None or not self._keeps_alive:
            return False
        if self._poll is not None:  # the check of has_unread_input in a single system call
            return not self._poll(0)
        return not has_unread_input(self._transport)

    def can_be_reused(self) -> bool:
        """Return whether both ends are done with this exchange, and the service stays connected."""
        # A service may answer before it has received the request. If it never reads the rest, the
        # next request would wait behind it.
        return (
            self._keeps_alive
            and self.is_drained()
            and self._transport is not None
            and not self._transport.get_write_buffer_size()
        )

    def close(self) -> None:
        """Close the connection, and interrupt the response if it has not ended."""
        self._fail("the connection broke before the answer ended")
        # A closed event loop raises here. The garbage collector closes the socket then.
        if self._transport is not None and not self._loop.is_closed():
            self._transport.abort()

    # --- for the response -----------------------------------------------------------------

    def is_drained(self) -> bool:
        """Return whether the response has ended and been read."""
        return self._has_ended and not self._blocks

    async def read(self) -> bytes:
        """Return what has arrived of the body; wait if it is nothing. Empty at the end."""
        while not self._blocks:
            if self._has_ended:
                return b""
            await self._wait()
        return self.take()

    def take(self) -> bytes:
        """Return what has arrived of the body, without waiting."""
        blocks = self._blocks
        if not blocks:
            return b""
        block = blocks[0] if len(blocks) == 1 else b"".join(blocks)
        blocks.clear()
        self._is_read = True
        self._received_bytes = 0
        if self._is_paused:
            self._is_paused = False
            if self._transport is not None:
                self._transport.resume_reading()
        return block

    async def read_until(self, on_block: Callable[[bytes], bool]) -> None:
        """Pass what arrives of the body to `on_block`, until it returns True or the body ends."""
        if (block := self.take()) and on_block(block):
            return
        self._on_block = on_block
        try:
            if not self._has_ended:
                await self._wait()
        finally:
            self._on_block = None

    def _wait(self) -> Waiter:
        """Return a future that is done when something has arrived, or the response has failed."""
        if self._failure is not None:
            raise self._failure
        if self._waiter is not None and not self._waiter.done():
            raise StreamInterrupted(
                "another task is already reading the response", service=self.service
            )
        self._acknowledge()
        self._waiter = Waiter(loop=self._loop)
        return self._waiter

    def _acknowledge(self) -> None:
        """Acknowledge the first blocks at once."""
        if self._quickacks:
            self._quickacks -= 1
            send_quickack(self._socket)

    # --- called by the event loop ---------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        connected = self._socket = transport.get_extra_info("socket")
        if hasattr(select, "poll") and connected is not None:
            # For is_usable: a poll object per connection saves building one for every request.
            poll = select.poll()
            poll.register(connected, select.POLLIN)
            self._poll = poll.poll

    def data_received(self, data: bytes) -> None:
        if self._has_ended:
            # Unrequested, or after the end of a response. It would be taken for the next one.
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except PARSER_ERRORS as error:
            self._on_invalid_data(error)
        self._received_bytes += len(data)
        if self._received_bytes > MAX_BUFFERED_BYTES:
            self._limit_buffer()
        self._wake()

    def eof_received(self) -> None:
        # The service has sent all. The event loop would send the rest of the request before it
        # reports the end, which a service that no longer reads would delay for ever.
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._has_head and self._ends_with_connection and not exc and not self._failure:
            self._has_ended = True
        self._fail("the connection broke before the answer ended")
        if not self.closed.done():  # cancelled with a task that waited for it
            self.closed.set_result(None)
        self._wake()

    def _wake(self) -> None:
        """Hand over what has arrived, and wake the task if it waits for no more."""
        waiter = self._waiter
        if waiter is None or waiter.done():  # cancelled
            return
        if self._on_block is not None:
            try:
                is_enough = bool(self._blocks) and self._on_block(self.take())
            except Exception as error:  # noqa: BLE001 - raised in the task that reads
                waiter.fail(error)
                return
            if not is_enough and not self._has_ended:
                if self._failure is None:
                    self._acknowledge()
                else:
                    waiter.fail(self._failure)
                return
        self._waiter = None
        waiter.wake()

    def _limit_buffer(self) -> None:
        """Stop receiving if the reader of the response is slow."""
        if self._blocks:
            if not self._is_paused and self._transport is not None:
                self._is_paused = True
                self._transport.pause_reading()
        elif self._received_bytes > MAX_HEAD_BYTES and not self._has_ended:
            self._on_invalid_data(HttpParserError("its headers are too large"))

    def _on_invalid_data(self, error: Exception) -> None:
        if not (self._is_read or self._is_stopped):
            # What has arrived of the response is not to be trusted either.
            self._has_ended = False
            self._blocks.clear()
            self._failure = ProtocolError(
                f"{self.service} sent an invalid HTTP response", service=self.service
            )
            self._failure.__cause__ = error
        self.close()

    def _fail(self, message: str) -> None:
        """Interrupt the response, unless it has ended or its head has not arrived."""
        self._keeps_alive = False
        if self._has_head and not self._has_ended and self._failure is None:
            self._failure = StreamInterrupted(message, service=self.service)

    # --- called by the parser -------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._has_ended:
            self._keeps_alive = False  # it answers no request

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))
        if len(self._fields) > MAX_HEADERS:
            raise HttpParserError(f"more than {MAX_HEADERS} headers")

    def on_headers_complete(self) -> None:
        if self._has_ended:
            self._stop_parser()
        status = self._parser.get_status_code()
        fields = _decode_fields(tuple(self._fields))
        self._fields.clear()
        if 100 <= status < 200 and status != SWITCHING_PROTOCOLS:  # noqa: PLR2004
            return  # an interim response
        if fields.coding not in {None, "chunked"}:
            raise HttpParserError("a transfer coding that no service uses")
        self.status, self.headers = status, fields.headers
        self._has_head = True
        self._ends_with_connection = fields.are_without_length
        self._keeps_alive = self._parser.should_keep_alive()
        if self._is_head_request or status == SWITCHING_PROTOCOLS:
            # The parser expects a body, or what follows is another protocol.
            self._has_ended = True
            self._stop_parser()

    def on_message_complete(self) -> None:
        if self._has_head:  # else it is an interim response
            self._has_ended = True
            if self._fields:  # the trailers
                _check_sizes(self._fields)
                self._fields.clear()

    def _stop_parser(self) -> NoReturn:
        self._is_stopped = True
        raise HttpParserError("nothing more is expected")


class LoopbackResponse:
    """A response whose head has arrived. `release` gets its connection back."""

    __slots__ = ("_connection", "_release", "headers", "service", "status")

    def __init__(
        self, connection: LoopbackConnection, release: Callable[[LoopbackConnection], None]
    ) -> None:
        self.status = connection.status
        self.headers = connection.headers
        self.service = connection.service
        self._connection: LoopbackConnection | None = connection
        self._release = release

    @property
    def ended(self) -> bool:
        return self._connection is None or self._connection.is_drained()

    def read(self) -> Awaitable[bytes]:
        connection = self._connection
        if connection is None:
            raise StreamInterrupted("the response is closed", service=self.service)
        return connection.read()

    def take(self) -> bytes:
        """Return what has arrived of the body, without waiting."""
        return b"" if self._connection is None else self._connection.take()

    def read_until(self, on_block: Callable[[bytes], bool]) -> Awaitable[None]:
        """Pass the blocks of the body to `on_block`, until it returns True or the body ends.

        It is called when a block arrives, not when the task runs again. What it raises is raised
        here.
        """
        connection = self._connection
        if connection is None:
            raise StreamInterrupted("the response is closed", service=self.service)
        return connection.read_until(on_block)

    def close(self) -> None:
        """Release the connection, or close it if the body has not ended. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._release(connection)


def send_quickack(connection: socket.socket | None) -> None:
    """Send a pending TCP acknowledgement now instead of after the kernel's delay."""
    if _TCP_QUICKACK is None or connection is None:
        return
    try:  # noqa: SIM105 - `suppress` costs more than this call, which each answer makes
        connection.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)
    except OSError:
        pass  # a broken connection: the next read reports it


def has_unread_input(transport: asyncio.BaseTransport | None) -> bool:
    """Return whether a connection has input that the event loop has not read yet."""
    # On an idle connection that is the end of the stream: no service sends anything unrequested.
    # The event loop notices it only at its next poll, perhaps after a request was sent on it.
    connected = transport.get_extra_info("socket") if transport is not None else None
    if connected is None:
        return False
    try:
        if hasattr(select, "poll"):  # not on Windows; select() fails above descriptor 1023
            poll = select.poll()
            poll.register(connected, select.POLLIN)
            return bool(poll.poll(0))
        return bool(select.select([connected], (), (), 0)[0])
    except (OSError, ValueError):
        return True  # the socket is closed


def _make_closed_error(service: str) -> ServiceCrashed:
    return ServiceCrashed(f"the connections to {service} have been closed", service=service)


@functools.lru_cache(maxsize=256)
def _encode_head(
    method: str, url: str, headers: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, int], bytes]:
    """Return host and port, and the head without Content-Length and without the empty line."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        path = quote(parts.path or "/", safe=_PATH_CHARACTERS)
        query = f"?{quote(parts.query, safe=_QUERY_CHARACTERS)}" if parts.query else ""
    except ValueError as error:  # also for a lone surrogate
        raise make_url_error(url) from error
    if not host:
        raise make_url_error(url)
    service = get_origin(url)
    authority = parts.netloc.rpartition("@")[2]
    fields = {"Host": authority, **DEFAULT_HEADERS, **dict(headers)}
    lines = [f"{method} {path}{query} HTTP/1.1"]
    for name, value in fields.items():
        if not _TOKEN.fullmatch(name) or _FORBIDDEN.search(value):
            raise make_unsendable_error(
                service, f"the header {name!r} contains a character that is not allowed"
            )
        lines.append(f"{name}: {value}")
    try:
        return (host, port or HTTP_PORT), ("\r\n".join(lines) + "\r\n").encode()
    except UnicodeEncodeError as error:
        raise make_unsendable_error(service, "a header contains a lone surrogate") from error


class _Fields(NamedTuple):
    """The fields of a head, and what they say about the end of the body."""

    headers: CIMultiDictProxy[str]
    coding: str | None  # the transfer coding, in lower case
    are_without_length: bool


@functools.lru_cache(maxsize=32)
def _decode_fields(fields: tuple[tuple[bytes, bytes], ...]) -> _Fields:
    """Check the sizes and decode the fields. A service sends nearly the same ones every time."""
    _check_sizes(fields)
    headers = CIMultiDict(
        [
            (name.decode("ascii"), value.strip(b" \t").decode("utf-8", "surrogateescape"))
            for name, value in fields
        ]
    )
    coding = headers.get("Transfer-Encoding")
    return _Fields(
        CIMultiDictProxy(headers),
        None if coding is None else coding.lower(),
        coding is None and "Content-Length" not in headers,
    )


def _check_sizes(fields: Sequence[tuple[bytes, bytes]]) -> None:
    if any(len(name) + len(value) > MAX_HEADER_BYTES for name, value in fields):
        raise HttpParserError(f"a header is larger than {MAX_HEADER_BYTES} bytes")
