"""The floor of overhead: the same streamed request on an asyncio protocol, with nothing around it.

It assumes a service that answers correctly and ends each body in one packet with its last event:
no time-outs, no errors, no pool limits.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from parts.baseline import decode_event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

END_OF_BODY = b"\r\n0\r\n\r\n"
HEAD = (
    "POST /catalogs/local/v1/chat/completions HTTP/1.1\r\nHost: {}\r\n"
    "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n"
)


class Connection(asyncio.Protocol):
    """Collects what arrives, and wakes the reader."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._received: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - asyncio declares the base class
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._received.append(data)
        if self._waiter is not None:
            self._waiter.set_result(None)
            self._waiter = None

    async def read(self) -> bytes:
        """Return what has arrived, once something has."""
        if not self._received:
            self._waiter = self._loop.create_future()
            await self._waiter
        data = b"".join(self._received)
        self._received.clear()
        return data


class Floor:
    """A pool of connections to one service."""

    def __init__(self, base_url: str) -> None:
        address = urlsplit(base_url)
        self._host, self._port = address.hostname, address.port
        self._authority = address.netloc
        self._idle: list[Connection] = []
        self._loop = asyncio.get_running_loop()

    async def complete(self, prompt: str) -> str:
        """Return the answer. Its events are decoded when all have arrived."""
        connection = await self._send(prompt)
        received = await connection.read()
        while not received.endswith(END_OF_BODY):
            received += await connection.read()
        self._idle.append(connection)
        return "".join(texts_of(received))

    async def stream(self, prompt: str) -> AsyncGenerator[str]:
        """Yield the texts of the answer."""
        connection = await self._send(prompt)
        rest = b""
        while not rest.endswith(END_OF_BODY):
            received = rest + await connection.read()
            complete = received.rfind(b"\n\n") + 2
            for text in texts_of(received[:complete]):
                yield text
            rest = received[complete:]
        self._idle.append(connection)

    async def close(self) -> None:
        for connection in self._idle:
            connection.transport.close()

    async def _send(self, prompt: str) -> Connection:
        if self._idle:
            connection = self._idle.pop()
        else:
            _, connection = await self._loop.create_connection(Connection, self._host, self._port)
        body = msgspec.json.encode(
            {
                "model": "tiny:1",
                "messages": [{"role": "user", "content": prompt}],
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )
        connection.transport.write(HEAD.format(self._authority, len(body)).encode() + body)
        return connection


def texts_of(received: bytes) -> list[str]:
    """Return the texts of the events in chunks of a body."""
    return [
        choice.delta.content or ""
        for event in received.split(b"data: ")[1:]
        if event.startswith(b"{")
        for choice in decode_event(event[: event.index(b"\n")]).choices
    ]
