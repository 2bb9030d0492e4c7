"""The HTTP server of the gateway: connections, slow clients, and TLS."""

from __future__ import annotations

import asyncio
import logging
import ssl
from asyncio import sslproto
from collections import Counter
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.streams import EMPTY_PAYLOAD

from foundry_api.gateway.client_address import get_client_network
from foundry_api.gateway.errors import RequestError, format_defect, make_error_body
from foundry_api.gateway.exchange import make_request_id
from foundry_api.gateway.guard import UnknownVersionRequest
from foundry_api.gateway.open_files import RESERVED_FILES, get_max_open_files
from foundry_api.types.errors import ConfigurationError
from foundry_api.wire.listening import listen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from aiohttp import StreamReader

    from foundry_api.gateway.config import GatewayConfig
    from foundry_api.wire.listening import Listener

__all__ = ["GatewayServer", "TlsConnection", "TlsFiles"]

log = logging.getLogger("foundry_api.gateway")

MAX_HEADERS = 128
MAX_LINE_BYTES = 16 * 1024
# Of all lines together. Everybody may send a head, so it is what a client without a key may store.
MAX_HEAD_BYTES = 64 * 1024
# A body in chunks may have this much more than its content: a chunk of one byte takes six. Without
# a bound an extension of a chunk, or the trailers, could go on for as long as a body may take.
MAX_CHUNK_BYTES = 64 * 1024
MAX_CHUNK_FACTOR = 8
BACKLOG = 1024
# asyncio's default of 60 s would let a client without a hello keep a socket for long.
TLS_HANDSHAKE_S = 10
TLS_SHUTDOWN_S = 5
# Two records of TLS. asyncio's default is 256 KiB for each connection.
TLS_BUFFER_BYTES = 32 * 1024
# A client may take the time limit of a write, and one second more per 64 KiB that wait for it.
WRITE_BYTES_PER_S = 64 * 1024
# After the server closes, handlers get this long to send their last bytes.
CLOSE_GRACE_S = 2.0


class GatewayServer(web.Server):
    """Accepts connections, a limited number from each address and in all."""

    def __init__(
        self,
        handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        config: GatewayConfig,
    ) -> None:
        self._options: dict[str, Any] = {
            "keepalive_timeout": config.idle_timeout_s,
            "access_log": None,
            "auto_decompress": False,
            "max_headers": MAX_HEADERS,
            "max_line_size": MAX_LINE_BYTES,
            "max_field_size": MAX_LINE_BYTES,
            "lingering_time": 1.0,
        }
        super().__init__(handle, handler_cancellation=True, **self._options)
        self.write_timeout_s = config.write_timeout_s
        self._max_connections = _limit_connections(config.max_connections)
        self._max_per_address = config.max_connections_per_address
        self._per_network: Counter[str] = Counter()
        self._transports: set[asyncio.Transport] = set()
        self._closing: set[asyncio.Transport] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def listen(self, host: str, port: int, tls: TlsFiles | None) -> Listener:
        """Accept connections at an address; raises OSError if it cannot be used."""
        context = None if tls is None else tls.context
        make_protocol: Callable[[], asyncio.BaseProtocol] = (
            self if context is None else lambda: TlsConnection(self, context)
        )
        listener = await listen(make_protocol, host, port, backlog=BACKLOG)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.write_timeout_s, self._abort_stuck)
        return listener

    async def aclose(self) -> None:
        """Close all connections. Handlers that still run get a moment, then they are cancelled."""
        if self._timer is not None:
            self._timer.cancel()
        self.pre_shutdown()
        await self.shutdown(CLOSE_GRACE_S)
        for transport in list(self._transports):
            transport.abort()

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        return self.make_connection()

    def make_connection(self, *, is_counted: bool = False) -> web.RequestHandler:
        """Return the protocol of a connection, which its TLS may have counted already."""
        return _ClientConnection(
            self, is_counted=is_counted, loop=asyncio.get_running_loop(), **self._options
        )

    def _make_request(
        self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any
    ) -> web.BaseRequest:
        if message.version in (HttpVersion11, HttpVersion10):
            # A waiting call would keep a second copy of its headers, of more than 1 KiB.
            message = message._replace(raw_headers=())
            return web.BaseRequest(message, payload, protocol, writer, task, self._loop)
        # aiohttp's parser takes any version, and its response would be of the same one.
        message = message._replace(version=HttpVersion11, should_close=True)
        return UnknownVersionRequest(message, payload, protocol, writer, task, self._loop)

    def add_connection(self, transport: asyncio.Transport) -> str | None:
        """Count a connection, and return the network of its client; None if there are too many."""
        peer: tuple[object, ...] | None = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        network = get_client_network(address)
        if (
            self._per_network[network] >= self._max_per_address
            or len(self._transports) >= self._max_connections
        ):
            log.info("refused a connection from %s: too many are open", address)
            return None
        self._per_network[network] += 1
        self._transports.add(transport)
        return network

    def remove_connection(self, network: str, transport: asyncio.Transport) -> None:
        """Count a connection that has ended."""
        self._transports.discard(transport)
        self._per_network[network] -= 1
        if not self._per_network[network]:
            del self._per_network[network]

    def _abort_stuck(self) -> None:
        # A closed connection stays open until its client has read everything that was written.
        closing = {transport for transport in self._transports if transport.is_closing()}
        for transport in closing & self._closing:
            transport.abort()
        self._closing = closing
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.write_timeout_s, self._abort_stuck)


class TlsConnection(sslproto.SSLProtocol):
    """The TLS of a connection, between its socket and its protocol.

    asyncio's servers make their own, of which two things do harm: it is reported only when the
    handshake has ended, so clients that never say hello count nowhere, and it has a buffer of
    256 KiB.
    """

    max_size = TLS_BUFFER_BYTES  # of the buffer; an attribute of the base class

    def __init__(self, server: GatewayServer, context: ssl.SSLContext) -> None:
        super().__init__(
            asyncio.get_running_loop(),
            server.make_connection(is_counted=True),
            context,
            None,  # type: ignore[arg-type] # nobody waits for the handshake
            server_side=True,
            ssl_handshake_timeout=TLS_HANDSHAKE_S,
            ssl_shutdown_timeout=TLS_SHUTDOWN_S,
        )
        self._server = server
        self._network: str | None = None
        self._client: asyncio.Transport | None = None
        self._is_new = True

    def buffer_updated(self, nbytes: int) -> None:
        """Read what has arrived; tell a client that speaks HTTP here to use TLS."""
        if self._is_new and nbytes:
            self._is_new = False
            # The first record of TLS is not text, and a request begins with its method.
            if bytes(self.get_buffer(0)[:1]).isupper():
                self._refuse_http()
                return
        super().buffer_updated(nbytes)

    def _refuse_http(self) -> None:
        if self._client is not None:
            error = RequestError(
                400,
                "https_required",
                "This port of the gateway speaks HTTPS. Use an address that begins with https://.",
            )
            self._client.write(_make_refusal(error))
            self._client.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, and start its handshake."""
        self._client = client = cast("asyncio.Transport", transport)
        self._network = self._server.add_connection(client)
        if self._network is None:
            client.abort()
        else:
            super().connection_made(client)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note that the connection has ended."""
        if self._network is not None and self._client is not None:
            self._server.remove_connection(self._network, self._client)
        super().connection_lost(exc)


class _MessageQueue(list[Any]):
    """The requests of a connection that nothing serves yet: nearly always one or none.

    The deque of aiohttp takes 760 bytes, also when it is empty.
    """

    __slots__ = ()

    def popleft(self) -> Any:
        return self.pop(0)


class _ClientConnection(web.RequestHandler):
    """A connection of a client. HTTP that cannot be parsed gets an error in OpenAI's shape."""

    # Thousands of connections may wait; each with a dictionary would need much more memory.
    __slots__ = (
        "_body",
        "_body_bytes",
        "_client",
        "_head_bytes",
        "_is_counted",
        "_network",
        "_server",
        "_stall_timer",
    )

    def __init__(self, server: GatewayServer, *, is_counted: bool, **options: Any) -> None:
        super().__init__(server, **options)
        self._messages = cast("Any", _MessageQueue())
        self._server = server
        self._is_counted = is_counted
        self._network: str | None = None  # of a connection that is counted here
        self._client: asyncio.Transport | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0  # of a head that has not ended
        self._body: StreamReader = EMPTY_PAYLOAD  # of a request, until it is complete
        self._body_bytes = 0  # received since its head, with the form of its chunks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._client = client = cast("asyncio.Transport", transport)
        if not self._is_counted:
            self._network = self._server.add_connection(client)
            if self._network is None:
                client.abort()
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._network is not None and self._client is not None:
            self._server.remove_connection(self._network, self._client)
        self._network = self._client = None
        self._stop_stall_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Note that so much waits for the client that its handler has to wait too."""
        super().pause_writing()
        client = self._client
        if client is not None:
            waiting_s = client.get_write_buffer_size() / WRITE_BYTES_PER_S
            # It is not armed for clients that read what they get, which are nearly all.
            self._stall_timer = asyncio.get_running_loop().call_later(
                self._server.write_timeout_s + waiting_s, client.abort
            )

    def resume_writing(self) -> None:
        """Note that the client has read what waited for it."""
        self._stop_stall_timer()
        super().resume_writing()

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def data_received(self, data: bytes) -> None:
        body, queued = self._body, len(self._messages)
        super().data_received(data)
        if len(self._messages) > queued:
            if not body.is_eof():  # the parser gave up: what follows is an error, not a request
                self._end_body(body)
            self._body, self._body_bytes = self._messages[-1][1], 0
        elif not body.is_eof():
            self._body_bytes += len(data)
            if self._body_bytes > MAX_CHUNK_BYTES + MAX_CHUNK_FACTOR * body.total_bytes:
                self._end_body(body)
        if self._body.is_eof():
            self._body = EMPTY_PAYLOAD  # what nobody reads is not kept as long as its connection
        if self._waiter is None or self._messages:  # a request is being served, or may be now
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()

    def _end_body(self, body: StreamReader) -> None:
        """Tell the reader of a body that it is not valid HTTP, and read nothing more."""
        body.set_exception(web.RequestPayloadError("the body is not valid HTTP"))
        body.feed_eof()
        self.close()

    def log_exception(self, *args: Any, **kw: Any) -> None:
        error = kw.get("exc_info")
        if isinstance(error, web.RequestPayloadError):  # of a client whose response was sent
            log.debug("a connection was closed: %s", error)
        elif isinstance(error, BaseException):
            log.error("a connection failed: %s", format_defect(error))
        else:
            super().log_exception(*args, **kw)

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's
        # Called for every body that was read. Unless it paused, nothing waits to be parsed.
        if self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)

    def _refuse_head(self) -> None:
        problem = f"The head of the request is larger than {MAX_HEAD_BYTES} bytes."
        if self._client is not None and not self._client.is_closing():
            self._client.write(_make_refusal(RequestError(431, "header_too_large", problem)))
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        del request, message  # the message may quote what the client sent
        identifier = make_request_id()
        if status >= 500:  # noqa: PLR2004
            place = "" if exc is None else format_defect(exc)
            log.error("request %s failed: %s", identifier, place)
        error = RequestError(
            status,
            "internal_error" if status >= 500 else "invalid_http",  # noqa: PLR2004
            "The gateway failed." if status >= 500 else "The request is not valid HTTP.",  # noqa: PLR2004
        )
        response = web.Response(
            body=make_error_body(error),
            status=status,
            content_type="application/json",
            headers={"x-request-id": identifier},
        )
        response.force_close()
        return response


def _make_refusal(error: RequestError) -> bytes:
    """Return a response that is sent without a request."""
    body = make_error_body(error)
    return (
        b"HTTP/1.1 %d %b\r\nContent-Type: application/json; charset=utf-8\r\n"
        b"x-request-id: %b\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
        % (
            error.status,
            HTTPStatus(error.status).phrase.encode(),
            make_request_id().encode(),
            len(body),
            body,
        )
    )


class TlsFiles:
    """A certificate and its key, which can be replaced while connections are open.

    Args:
        certificate: PEM file with the certificate and its chain.
        key: PEM file with the private key.

    Attributes:
        context: The context to listen with.

    Raises:
        ConfigurationError: The files cannot be read or do not belong together.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._current = self._load()
        self.context = self._load()
        # Loading other files into the same context could leave both certificates in it.
        self.context.sni_callback = self._select

    def reload(self) -> None:
        """Read the files again; if they cannot be used, the former ones stay in use."""
        self._current = self._load()

    def _select(self, connection: ssl.SSLObject, _name: str | None, _old: ssl.SSLContext) -> None:
        connection.context = self._current

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        for name, path in (("certificate", self._certificate), ("key", self._key)):
            try:
                path.read_bytes()  # the error of OpenSSL names no file
            except OSError as error:
                raise ConfigurationError(
                    f"the TLS {name} {path} cannot be read: {error.strerror}",
                    hint="Give a PEM file that this user may read.",
                ) from error
        try:
            context.load_cert_chain(self._certificate, self._key, self._refuse_passphrase)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"the TLS certificate {self._certificate} cannot be used with the key {self._key}: "
                f"{error}",
                hint="Give a PEM file with the certificate and its chain, and its private key.",
            ) from error
        return context

    def _refuse_passphrase(self) -> str:
        # OpenSSL would ask for it, at a terminal that nobody watches.
        raise ConfigurationError(
            f"the TLS key {self._key} cannot be used: it is encrypted",
            hint="Give one without a passphrase, which only this user may read.",
        )


def _limit_connections(max_connections: int) -> int:
    """Return how many connections this process can open, at most `max_connections`.

    Beyond that, nothing could be opened any more: no database, no connection to the engine.
    """
    max_files = get_max_open_files()
    if max_files is None or max_files >= max_connections + RESERVED_FILES:
        return max_connections
    limit = max(max_files - RESERVED_FILES, max_files // 2)
    log.warning(
        "max_connections is %d, but this process may open %d files: %d connections are served",
        max_connections,
        max_files,
        limit,
    )
    return limit
