"""The seam between protocol and network, so narrow that tests and users can put theirs in."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from foundry_api.types.errors import (
    ProtocolError,
    ServiceCrashed,
    ServiceNotRunning,
    StreamInterrupted,
)

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
    "strip_query",
]

OK = 200
MAX_SUCCESS_STATUS = 299
"""The last status that HTTP counts as a success."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that make no work for the engine."""

IDEMPOTENT_METHODS = SAFE_METHODS | {"PUT", "DELETE"}
"""Methods that may be sent again though the first one may have been carried out (RFC 9110, 9.2.2).
"""

MAX_BODY_BYTES = 16 * 2**20
"""Bound of a body that is read whole. The largest known, the whole catalog, is below 1 MB."""


class Request(msgspec.Struct, frozen=True):
    """One HTTP request.

    Attributes:
        method: GET or POST.
        url: The whole URL.
        headers: Headers beside those that HTTP itself needs.
        body: The body, already encoded.
    """

    method: str
    url: str
    headers: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    body: bytes | None = None

    def with_headers(self, headers: Mapping[str, str]) -> Request:
        """The same request with these headers beside its own, or in their place."""
        replaced = {name.lower() for name in headers}
        others = {
            name: value for name, value in self.headers.items() if name.lower() not in replaced
        }
        return msgspec.structs.replace(self, headers={**others, **headers})

    def with_json(self, body: object) -> Request:
        """The same request with this value as its JSON body."""
        return msgspec.structs.replace(self, body=msgspec.json.encode(body))

    def json(self) -> Any:
        """The body as a JSON value; None without a body."""
        return None if self.body is None else msgspec.json.decode(self.body)

    def __repr__(self) -> str:
        # Headers and queries hold credentials, and bodies prompts.
        return f"Request({self.method} {strip_query(self.url)})"


class ResponseHead(msgspec.Struct, frozen=True):
    """What comes of an answer ahead of its body.

    Attributes:
        status: The HTTP status.
        headers: The headers; names compare without case.
        duration_s: Seconds from sending the request to this.
    """

    status: int
    headers: Mapping[str, str]
    duration_s: float


class Response(Protocol):
    """An answer whose status and headers are here and whose body is still to come."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers; names compare without case, of doubled ones the first counts."""
        ...

    @property
    def ended(self) -> bool:
        """Whether the end of the body has come, and all before it was read."""
        ...

    async def read(self) -> bytes:
        """What came of the body since the last time, at least a byte; nothing at its end.

        Raises:
            StreamInterrupted: The connection broke before the body ended.
            ProtocolError: What came is not HTTP.
        """
        ...

    def close(self) -> None:
        """Free the connection. Before the body's end this closes it, which frees a 2.1 engine."""
        ...


class Transport(Protocol):
    """Sends requests."""

    async def send(self, request: Request) -> Response:
        """Send a request and wait for the head of its answer.

        Raises:
            ServiceNotRunning: Nothing accepts connections at the address.
            ConnectTimeout: Nothing did so in time.
            ServiceCrashed: The connection broke before an answer came.
            ProtocolError: What came is not HTTP, or larger than the bounds.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...


@dataclass(frozen=True, slots=True)
class BufferedResponse:
    """An answer read whole."""

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
    """Send a request and read its whole answer, bounded in time and size.

    Raises:
        ServiceNotRunning: Nothing answers there, or not within `timeout_s` seconds.
        ServiceCrashed: The connection broke before the answer ended.
        ProtocolError: The answer is larger than `max_bytes`.
    """
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
        raise ServiceCrashed(error.message, service=error.service) from error
    return BufferedResponse(response.status, response.headers, bytes(body))


def get_origin(url: str) -> str:
    """Scheme, host and port of a URL."""
    return "/".join(url.split("/", 3)[:3])


def strip_query(url: str) -> str:
    """A URL as it may be shown: its query may hold a credential."""
    return url.partition("?")[0]


@functools.lru_cache(maxsize=64)
def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine by its loopback interface."""
    try:
        host = urlsplit(url).hostname or ""
        if host == "localhost" or host.endswith(".localhost"):
            return True
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
