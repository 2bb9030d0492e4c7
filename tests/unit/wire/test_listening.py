"""A listener goes on, whatever becomes of single connections."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
import sys
import time
from typing import Any, ClassVar

import pytest

from foundry_api.wire import listening
from foundry_api.wire.listening import Listener, listen

HOST = "127.0.0.1"
PLATFORMS = pytest.mark.parametrize("platform", ["linux", "win32"])


class Greeter(asyncio.Protocol):
    """Says hello, and sends back what it gets."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(b"hello")

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)
        self._transport.close()


async def converse(listener: Listener) -> bytes:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(HOST, listener.port)
        writer.write(b" you")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return answer


def reset_at_once(port: int) -> None:
    client = socket.create_connection((HOST, port))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


class FailingSocket(socket.socket):
    """A listening socket whose accept raises these errors before it works."""

    errors: ClassVar[list[Exception]] = []

    def accept(self) -> tuple[socket.socket, Any]:
        if self.errors:
            raise self.errors.pop(0)
        return super().accept()


async def listen_with_failures(monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> Listener:
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", FailingSocket)  # asyncio makes it
        listener = await listen(Greeter, HOST, 0, platform="win32")
    # Not before: on Windows, a pair of sockets is made by accepting one.
    monkeypatch.setattr(FailingSocket, "errors", list(errors))
    return listener


@PLATFORMS
async def test_connections_outlast_the_listener(platform: str) -> None:
    listener = await listen(Greeter, HOST, 0, platform=platform)
    reader, writer = await asyncio.open_connection(HOST, listener.port)
    assert await reader.readexactly(5) == b"hello"
    listener.close()
    with pytest.raises(ConnectionError):
        await asyncio.open_connection(HOST, listener.port)
    writer.write(b" you")
    assert await reader.read() == b" you"
    writer.close()
    await writer.wait_closed()


@PLATFORMS
async def test_a_port_in_use_is_an_error(platform: str) -> None:
    with socket.create_server((HOST, 0)) as other, pytest.raises(OSError):  # noqa: PT011 - any
        await listen(Greeter, HOST, other.getsockname()[1], platform=platform)


@pytest.mark.parametrize("platform", sorted({"win32", sys.platform}))
async def test_clients_that_reset_their_connections_at_once_end_nothing(platform: str) -> None:
    """On Windows, asyncio's own server ends with the first one."""
    listener = await listen(Greeter, HOST, 0, platform=platform)
    for _ in range(20):
        reset_at_once(listener.port)
        await asyncio.sleep(0)
    assert await converse(listener) == b"hello you"
    listener.close()


async def test_a_client_that_has_left_is_not_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listener = await listen_with_failures(
        monkeypatch,
        ConnectionResetError(),
        ConnectionAbortedError(),
        BlockingIOError(),
        OSError(errno.ENOTCONN, "not connected"),
    )
    assert await converse(listener) == b"hello you"
    assert FailingSocket.errors == []
    assert caplog.records == []
    listener.close()


async def test_other_errors_are_reported_and_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listening, "RETRY_S", 0.05)
    listener = await listen_with_failures(monkeypatch, OSError(errno.EMFILE, "Too many open files"))
    began_at = time.monotonic()
    assert await converse(listener) == b"hello you"
    assert time.monotonic() - began_at >= 0.05
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "Too many open files" in caplog.text
    listener.close()


async def test_closing_does_not_wait_for_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "RETRY_S", 600)
    listener = await listen_with_failures(monkeypatch, OSError(errno.EMFILE, "Too many open files"))
    with socket.create_connection((HOST, listener.port)):
        while FailingSocket.errors:  # noqa: ASYNC110 - of a thread
            await asyncio.sleep(0.001)
        listener.close()


async def test_a_connection_that_cannot_be_served_is_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    protocols: list[asyncio.Protocol] = []

    def make_protocol() -> asyncio.Protocol:
        protocols.append(Greeter())
        if len(protocols) == 1:
            raise ValueError("no protocol")
        return protocols[-1]

    listener = await listen(make_protocol, HOST, 0, platform="win32")
    reader, writer = await asyncio.open_connection(HOST, listener.port)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(5)
    writer.close()
    assert await converse(listener) == b"hello you"
    assert "no protocol" in caplog.text
    listener.close()


def test_an_event_loop_may_be_closed_before_its_listener() -> None:
    listener = asyncio.run(listen(Greeter, HOST, 0, platform="win32"))
    with socket.create_connection((HOST, listener.port)) as client:
        assert client.recv(1) == b""
    listener.close()
