"""Requests, responses and the transport protocol that tests and users can implement."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import msgspec

from foundry_api.types.errors import (
    ConfigurationError,
    ProtocolError,
    ServiceCrashed,
    ServiceNotRunning,
    StreamInterrupted,
)
from foundry_api.types.values import strip_secrets

if TYPE_CHECKING:
    from collections.abc import Awaitable

__all__ = [
    "IDEMPOTENT_METHODS",
    "MAX_BODY_BYTES",
    "MAX_SUCCESS_STATUS",
    "OK",
    "SAFE_METHODS",
    "BufferedResponse",
    "Request",
    "Response",
    "ResponseHead",
    "Transport",
    "fetch",
    "get_origin",
    "is_loopback",
    "make_unsendable_error",
    "make_url_error",
    "strip_query",
]

OK = 200
MAX_SUCCESS_STATUS = 299

# Methods that never start work on the engine.
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

# A second request does no harm even if the first one was carried out (RFC 9110, section 9.2.2).
IDEMPOTENT_METHODS = SAFE_METHODS | {"PUT", "DELETE"}

# Limit for a body that is read into memory. The largest known, the catalog, is below 1 MB.
MAX_BODY_BYTES = 16 * 2**20


class Request(msgspec.Struct, frozen=True):
    """One HTTP request.

    Attributes:
        method: The HTTP method, such as GET or POST.
        url: The absolute URL.
        headers: Additional headers. The transport adds those that HTTP itself needs.
        body: The encoded body; None for a request without one.
    """

    method: str
    url: str
    headers: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    body: bytes | None = None

    def with_headers(self, headers: Mapping[str, str]) -> Request:
        """Return a copy with additional headers.

        Args:
            headers: The headers to add. They replace headers of the same name, ignoring case.

        Returns:
            The changed copy.
        """
        replaced = {name.lower() for name in headers}
        others = {
            name: value for name, value in self.headers.items() if name.lower() not in replaced
        }
        return msgspec.structs.replace(self, headers={**others, **headers})

    def with_json(self, body: object) -> Request:
        """Return a copy with another body.

        Args:
            body: The value to encode as JSON.

        Returns:
            The changed copy.

        Raises:
            TypeError: The value cannot be encoded as JSON.
        """
        return msgspec.structs.replace(self, body=msgspec.json.encode(body))

    def json(self) -> Any:
        """Decode the body as JSON.

        Returns:
            The decoded value, or None if there is no body.

        Raises:
            msgspec.DecodeError: The body is not JSON.
        """
        return None if self.body is None else msgspec.json.decode(self.body)

    def __repr__(self) -> str:
        # Headers and queries may hold credentials, and bodies hold prompts.
        return f"Request({self.method} {strip_query(self.url)})"


class ResponseHead(msgspec.Struct, frozen=True):
    """The status and headers of a response.

    Attributes:
        status: The HTTP status.
        headers: The headers. Lookups ignore case.
        duration_s: Seconds from sending the request to receiving the head.
    """

    status: int
    headers: Mapping[str, str]
    duration_s: float


class Response(Protocol):
    """A response whose head has arrived and whose body is read in pieces."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers. Lookups ignore case; of repeated headers the first one counts."""
        ...

    @property
    def ended(self) -> bool:
        """Whether the whole body has arrived and has been read."""
        ...

    def read(self) -> Awaitable[bytes]:
        """Return the bytes that arrived since the last call, or b"" at the end of the body.

        Waits until at least one byte is available. If the wait is cancelled, nothing is lost:
        another task may continue to read.

        Raises:
            StreamInterrupted: The connection broke before the body ended.
            ProtocolError: The service sent something that is not HTTP.
        """
        ...

    def close(self) -> None:
        """Release the connection; close it if the body has not ended.

        Closing the connection is what makes an engine of SDK 2.1 or later stop generating.
        """
        ...


class Transport(Protocol):
    """Sends requests."""

    async def send(self, request: Request) -> Response:
        """Send a request and wait for the head of its response.

        Raises:
            ServiceNotRunning: No service accepts connections at the address.
            ConnectTimeout: No connection was accepted in time.
            ServiceCrashed: The connection broke before a response arrived.
            ProtocolError: The response is not HTTP, or exceeds a size limit.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


@dataclass(frozen=True, slots=True)
class BufferedResponse:
    """A response with its complete body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def fetch(
    transport: Transport,
    request: Request,
    *,
    timeout_s: float,
    max_bytes: int = MAX_BODY_BYTES,
) -> BufferedResponse:
    """Send a request and read the complete response, within a time and a size limit."""
    try:
        async with asyncio.timeout(timeout_s):
            response = await transport.send(request)
            try:
                return await _read_body(request, response, max_bytes)
            finally:
                response.close()
    except TimeoutError as error:
        raise ServiceNotRunning(
            f"no answer to {request.method} {strip_query(request.url)} within {timeout_s:g} s",
            hint="Something holds the port without answering: restart the service.",
        ) from error


async def _read_body(request: Request, response: Response, max_bytes: int) -> BufferedResponse:
    body = bytearray()
    try:
        while block := await response.read():
            body += block
            if len(body) > max_bytes:
                raise ProtocolError(
                    f"the answer to {strip_query(request.url)} is larger than {max_bytes} bytes",
                    service=get_origin(request.url),
                )
    except StreamInterrupted as error:
        # StreamInterrupted carries the text received so far; here the caller has received none.
        raise ServiceCrashed(error.message, service=error.service) from error
    return BufferedResponse(response.status, response.headers, bytes(body))


def get_origin(url: str) -> str:
    """Return scheme, host and port of a URL."""
    return "/".join(url.split("/", 3)[:3])


def strip_query(url: str) -> str:
    """Return a URL that may be shown: a query may hold a credential."""
    return url.partition("?")[0]


@functools.lru_cache(maxsize=64)
def is_loopback(url: str) -> bool:
    """Return whether a URL's host is this machine's loopback interface."""
    try:
        host = urlsplit(url).hostname or ""
        if host == "localhost" or host.endswith(".localhost"):
            return True
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def make_url_error(url: str) -> ConfigurationError:
    """Return the error for a URL that names no service."""
    return ConfigurationError(
        f"{strip_secrets(url)} is not a URL", hint="Give one like http://127.0.0.1:5273."
    )


def make_unsendable_error(service: str, reason: object) -> ConfigurationError:
    """Return the error for a request that HTTP cannot carry."""
    return ConfigurationError(
        f"the request to {service} cannot be sent: {reason}",
        hint="Check the API key and the headers.",
        service=service,
    )
