"""A TCP forwarder in front of a service that can simulate outages."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal, Self

__all__ = ["Forwarder", "Outage"]

Outage = Literal["refuse", "drop", "stall"]

BLOCK = 64 * 1024


class Forwarder:
    """Listens on a port and forwards connections to the port `target` of this machine.

    `target` may be changed at any time; new connections then go there.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._outage: Outage | None = None
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop_listening()
        self._abort_all()
        self._flowing.set()
        if self._serving:
            await asyncio.wait(self._serving)

    async def begin(self, outage: Outage) -> None:
        """Refuse or drop connections, or stall them."""
        self._outage = outage
        if outage == "stall":
            self._flowing.clear()
            return
        if outage == "refuse":
            await self._stop_listening()
        self._abort_all()

    async def end(self) -> None:
        outage, self._outage = self._outage, None
        self._flowing.set()
        if outage == "refuse":
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def _abort_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a task runs this
        self._serving.add(task)
        self._writers.add(writer)
        try:
            # Failing connections are the purpose of an outage.
            with contextlib.suppress(OSError):
                if self._outage != "drop":
                    await self._forward(reader, writer)
        finally:
            self._close(writer)
            self._serving.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers.add(target_writer)
        directions = [
            asyncio.create_task(self._copy(reader, target_writer)),
            asyncio.create_task(self._copy(target_reader, writer)),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._close(target_writer)
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)

    def _close(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while block := await reader.read(BLOCK):
            await self._flowing.wait()
            writer.write(block)
            await writer.drain()
