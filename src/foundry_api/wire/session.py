"""HTTP to services on other machines, over an aiohttp session."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from contextvars import ContextVar
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp

from foundry_api.types.errors import (
    ConnectTimeout,
    FoundryError,
    ProtocolError,
    ServiceCrashed,
    ServiceNotRunning,
    StreamInterrupted,
)
from foundry_api.wire.loopback import (
    DEFAULT_HEADERS,
    IDLE_CONNECTION_S,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    QUICKACK_BLOCKS,
    has_unread_input,
    send_quickack,
)
from foundry_api.wire.transport import (
    IDEMPOTENT_METHODS,
    get_origin,
    is_loopback,
    make_unsendable_error,
    make_url_error,
)

if TYPE_CHECKING:
    import socket

    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ClientRequest, ConnectionKey
    from aiohttp.connector import Connection as AiohttpConnection
    from aiohttp.tracing import Trace

    from foundry_api.wire.transport import Request

__all__ = ["SessionPool"]

# Whether the current task's request opened a connection instead of reusing a pooled one.
_NEW_CONNECTION: ContextVar[bool] = ContextVar("foundry_api_connection_made", default=False)

# What OpenSSL says of an answer that is no TLS, by version.
_NOT_TLS = frozenset(
    {
        "PACKET_LENGTH_TOO_LONG",
        "RECORD_LAYER_FAILURE",
        "UNKNOWN_PROTOCOL",
        "WRONG_VERSION_NUMBER",
    }
)
# Results of its check of a certificate.
_EXPIRED = 10
_WRONG_NAME = frozenset({62, 64})  # of a host, of an address


class SessionPool:
    """The aiohttp session of one event loop. With `is_closed` it refuses to open connections."""

    def __init__(self, connect_timeout_s: float, *, is_closed: bool = False) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._loop = asyncio.get_running_loop()
        self._closed = is_closed
        self._session: aiohttp.ClientSession | None = None

    async def send(self, request: Request) -> SessionResponse:
        """Send a request and wait for the head of its response."""
        try:
            response = await _send(self._get_session(), request)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _classify_send_error(request, error, self._connect_timeout_s) from error
        except RuntimeError as error:
            # aiohttp raises it if the session was closed while the request was being sent.
            if not self._closed:
                raise
            raise _classify_send_error(request, error, self._connect_timeout_s) from error
        return SessionResponse(response)

    def _get_session(self) -> aiohttp.ClientSession:
        if self._closed:
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
        self._closed = True
        if self._session is None:
            return
        if self._loop is asyncio.get_running_loop():
            await self._session.close()
        else:
            # The session closes its sockets before it waits for their transports. That wait
            # fails here, because they belong to another event loop.
            with contextlib.suppress(RuntimeError):
                await self._session.close()


class SessionResponse:
    """A response whose head has arrived."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self._response = response
        self._acknowledged_blocks = 0
        connection = response.connection
        transport = connection.transport if connection else None
        self._socket: socket.socket | None = (
            transport.get_extra_info("socket") if transport else None
        )

    @property
    def ended(self) -> bool:
        return self._response.content.at_eof()

    async def read(self) -> bytes:
        content = self._response.content
        try:
            if self._acknowledged_blocks < QUICKACK_BLOCKS and not content.at_eof():
                self._acknowledged_blocks += 1
                send_quickack(self._socket)
            return await content.readany()
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            # RuntimeError: aiohttp has no error class for reading from a connection closed here.
            raise StreamInterrupted(
                "the connection broke before the answer ended",
                service=str(self._response.url.origin()),
            ) from error

    def close(self) -> None:
        """Release the connection, or close it if the body has not ended. Idempotent."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


async def _send(session: aiohttp.ClientSession, request: Request) -> aiohttp.ClientResponse:
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
    if isinstance(session.connector, _Connector):
        session.connector.track_reader(response)
    return response


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
    cause: BaseException = error.__cause__ or error
    match error:
        case aiohttp.ConnectionTimeoutError():
            return ConnectTimeout(
                f"{service} accepted no connection within {connect_timeout_s:g} s",
                limit_s=connect_timeout_s,
                stage="connecting",
                service=service,
            )
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return make_url_error(request.url)
        case aiohttp.ClientConnectorCertificateError():
            return _explain_certificate(service, error.certificate_error)
        case aiohttp.ClientConnectorSSLError():
            return _explain_tls_failure(service, cause)
        case aiohttp.ClientConnectorError():
            return ServiceNotRunning(f"nothing accepts connections at {service}", service=service)
        # Raised before anything is sent, mostly for a line break in a header. It has to come
        # after InvalidURL, which is a ValueError, too.
        case ValueError():
            return make_unsendable_error(service, error)
        case aiohttp.ClientPayloadError() | aiohttp.ClientResponseError():
            return ProtocolError(f"{service} sent an invalid HTTP response", service=service)
        case _:
            return ServiceCrashed(
                f"{service} closed the connection before it answered", service=service
            )


def _explain_certificate(service: str, error: Exception) -> FoundryError:
    problem, code = str(error), 0
    if isinstance(error, ssl.SSLCertVerificationError):
        problem, code = error.verify_message, error.verify_code
    if code in _WRONG_NAME:
        hint = "Use an address that the certificate names."
    elif code == _EXPIRED:
        hint = "Whoever runs the service has to renew it; check the clock of this machine too."
    else:
        hint = (
            "If you trust it, name in SSL_CERT_FILE the file with the certificate of the authority "
            "that issued it; a self-signed one is its own authority."
        )
    return ProtocolError(
        f"the certificate of {service} is not trusted: {problem}", hint=hint, service=service
    )


def _explain_tls_failure(service: str, error: BaseException) -> FoundryError:
    if isinstance(error, ssl.SSLError) and error.reason in _NOT_TLS:
        address = service.replace("https://", "http://", 1)
        return ProtocolError(
            f"{service} does not speak TLS", hint=f"Use {address}, without s.", service=service
        )
    return ProtocolError(
        f"no secure connection to {service}: {error}",
        hint="Check the address, and which versions of TLS the service speaks.",
        service=service,
    )
