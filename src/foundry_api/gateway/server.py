"""The HTTP server of the gateway: connections, TLS, and the end of its life."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from typing import TYPE_CHECKING, Any

from aiohttp import web

from foundry_api.gateway.errors import RequestError, make_error_body
from foundry_api.types.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from foundry_api.gateway.config import GatewayConfig

__all__ = ["GatewayServer", "make_tls_context"]

log = logging.getLogger("foundry_api.gateway")

MAX_HEADERS = 128
MAX_LINE_BYTES = 16 * 1024


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
        self._max_connections = config.max_connections
        self._max_per_address = config.max_connections_per_address
        self._per_address: Counter[str] = Counter()

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        return _ClientConnection(self, loop=asyncio.get_running_loop(), **self._options)

    def add_connection(self, address: str) -> bool:
        """Count a connection; False if there are too many."""
        if (
            self._per_address[address] >= self._max_per_address
            or self._per_address.total() >= self._max_connections
        ):
            return False
        self._per_address[address] += 1
        return True

    def remove_connection(self, address: str) -> None:
        """Count a connection that has ended."""
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]


class _ClientConnection(web.RequestHandler):
    """A connection of a client. HTTP that cannot be parsed gets an error in OpenAI's shape."""

    def __init__(self, server: GatewayServer, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self._counted_address: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer: tuple[object, ...] | None = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        if not self._server.add_connection(address):
            log.warning("refused a connection from %s: too many are open", address)
            transport.close()
        else:
            self._counted_address = address
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._counted_address is not None:
            self._server.remove_connection(self._counted_address)
            self._counted_address = None
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        del request, message  # the message may quote what the client sent
        if status >= 500:  # noqa: PLR2004
            log.error("a request failed", exc_info=exc)
        error = RequestError(
            status,
            "internal_error" if status >= 500 else "invalid_http",  # noqa: PLR2004
            "The gateway failed." if status >= 500 else "The request is not valid HTTP.",  # noqa: PLR2004
        )
        response = web.Response(
            body=make_error_body(error), status=status, content_type="application/json"
        )
        response.force_close()
        return response


def make_tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Load a certificate and its key.

    Raises:
        ConfigurationError: They cannot be read or do not belong together.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"the TLS certificate {certificate} cannot be used: {error}",
            hint="Give a PEM file with the certificate and its chain, and its private key.",
        ) from error
    return context
