"""Raw connections to a gateway, and strict readers of what it answers."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from foundry_api.gateway.openapi.document import ERRORS
from gateway.shapes import check_shape

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from foundry_api.gateway.gateway import Gateway

__all__ = ["Connection", "Response", "check_error", "connect"]

# Longer than anything that a test waits for.
LIMIT_S = 60.0

_HEAD = re.compile(rb"HTTP/1\.[01] (\d{3}) [ -~]*\r\n((?:[!-9;-~]+: [ -~]*\r\n)*)\r\n")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})\r\n")
_BODILESS = frozenset({204, 304})


class Response(NamedTuple):
    """A response, as it was sent.

    Attributes:
        status: The status.
        headers: The headers; their names are in lower case.
        body: The body, without the form of its transfer.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def is_last(self) -> bool:
        """Whether it says that the connection ends."""
        return self.headers.get("connection", "").lower() == "close"


class Connection(asyncio.Protocol):
    """A connection to a gateway.

    Attributes:
        is_closed: Whether the gateway has closed it.
        was_reset: Whether it did so with data of ours unread, so that a response may be lost.
    """

    def __init__(self) -> None:
        self.is_closed = self.was_reset = False
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed, self.was_reset = True, exc is not None
        self._changed.set()

    async def send(self, data: bytes, cuts: Sequence[int] = ()) -> None:
        """Send data in one segment, or in several that end at `cuts`, until it is closed."""
        assert self._transport is not None
        for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
            if self.is_closed:
                return
            self._transport.write(data[start:end])
            # The gateway, in this loop too, reads each segment alone and may answer it.
            for _ in range(8 if cuts else 0):
                await asyncio.sleep(0)

    async def read_response(self) -> Response | None:
        """Return the next response; None if the gateway closed the connection instead.

        Raises:
            AssertionError: What it sent is not one, or not all of it.
        """
        while True:
            found = _split_response(self._received)
            if found is not None:
                response, size = found
                self._received = self._received[size:]
                if response.status == 100:
                    continue
                return response
            if self.is_closed:
                assert self.was_reset or not self._received, self._received
                return None
            self._changed.clear()
            async with asyncio.timeout(LIMIT_S):
                await self._changed.wait()

    async def read_to_end(self) -> list[Response]:
        """Return all further responses, until the gateway closes the connection."""
        responses: list[Response] = []
        while (response := await self.read_response()) is not None:
            responses.append(response)
        return responses

    def end(self) -> None:
        """Tell the gateway that no further request comes; it closes the connection then."""
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write_eof()

    def abort(self) -> None:
        """Close it at once."""
        assert self._transport is not None
        self._transport.abort()


@asynccontextmanager
async def connect(gateway: Gateway) -> AsyncGenerator[Connection]:
    """Connect to a gateway, with TLS if it has TLS."""
    scheme, _, rest = gateway.url.partition("://")
    address, _, port = rest.rpartition(":")
    context = None
    if scheme == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the authorities of the system
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, address, int(port), ssl=context)
    try:
        yield connection
    finally:
        connection.abort()


def _split_response(data: bytes) -> tuple[Response, int] | None:
    """Return the first response and its size; None if it is not complete."""
    if b"\r\n\r\n" not in data:
        return None
    head = _HEAD.match(data)
    assert head is not None, data
    lines = head[2].decode().splitlines()
    names = [line.partition(": ")[0].lower() for line in lines]
    assert len(set(names)) == len(names), data
    headers = dict(zip(names, (line.partition(": ")[2] for line in lines), strict=True))
    status, end = int(head[1]), head.end()
    if status < 200 or status in _BODILESS:
        return Response(status, headers, b""), end
    if headers.get("transfer-encoding") == "chunked":
        return _join_chunks(status, headers, data, end)
    length = int(headers["content-length"])
    if len(data) < end + length:
        return None
    return Response(status, headers, data[end : end + length]), end + length


def _join_chunks(
    status: int, headers: dict[str, str], data: bytes, position: int
) -> tuple[Response, int] | None:
    chunks: list[bytes] = []
    while match := _CHUNK.match(data, position):
        start, size = match.end(), int(match[1], 16)
        position = start + size + 2
        if len(data) < position:
            return None
        assert data[position - 2 : position] == b"\r\n", data
        if not size:
            return Response(status, headers, b"".join(chunks)), position
        chunks.append(data[start : position - 2])
    return None


def check_error(response: Response) -> None:
    """Fail unless a response is an error that the description of the API has."""
    assert response.headers["content-type"].startswith("application/json")
    assert response.headers["x-request-id"].startswith("req_")
    error = json.loads(response.body)
    if error.get("type") == "error":  # Anthropic's
        assert error["error"]["message"]
        return
    check_shape("error", error)
    assert error["error"]["code"] in ERRORS[response.status][1], error
