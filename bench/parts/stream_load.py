"""Streamed chats over raw connections: a client that takes as little of the processor as possible.

A benchmark of a service shares the processors with its clients, which on other machines it would
not.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Load", "run"]

OK, END = b"HTTP/1.1 200", b"\r\n0\r\n\r\n"
COMPLETION_TOKENS = re.compile(rb'"completion_tokens": ?(\d+)')


class Load(NamedTuple):
    """What a number of calls got together."""

    tokens: int
    elapsed_s: float
    cpu_s: float

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.elapsed_s


class _Client(asyncio.Protocol):
    """A connection that makes one call after the other."""

    def __init__(self, requests: Iterator[bytes]) -> None:
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._received = bytearray()
        self._tokens = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - asyncio declares the base class
        self._transport = transport
        self._send_next()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._received.startswith(OK):
            self._fail(bytes(self._received).decode())
        elif self._received.endswith(END):
            counts = COMPLETION_TOKENS.findall(self._received)
            if not counts:
                self._fail(bytes(self._received).decode())
                return
            self._tokens += int(counts[-1])  # the last one is that of the whole answer
            self._received.clear()
            self._send_next()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"the connection was lost: {error or bytes(self._received).decode()}")

    def _send_next(self) -> None:
        assert self._transport is not None  # noqa: S101 - it is connected
        if (request := next(self._requests, None)) is not None:
            self._transport.write(request)
        elif not self.ended.done():
            self.ended.set_result(self._tokens)
            self._transport.abort()

    def _fail(self, message: str) -> None:
        if not self.ended.done():
            self.ended.set_exception(RuntimeError(message))


def _encode(url: str, body: dict[str, Any]) -> bytes:
    address = urlsplit(url)
    content = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}})
    head = f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return (head + content).encode()


async def run(url: str, bodies: list[dict[str, Any]], clients: int) -> Load:
    """Send chats from concurrent clients, each of which makes one call at a time."""
    address = urlsplit(url)
    requests = iter([_encode(url, body) for body in bodies])
    started_at, cpu_s = time.perf_counter(), time.process_time()
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda: _Client(requests), address.hostname, address.port))[1]
        for _ in range(min(clients, len(bodies)))
    ]
    tokens = sum(await asyncio.gather(*(connection.ended for connection in connections)))
    return Load(tokens, time.perf_counter() - started_at, time.process_time() - cpu_s)
