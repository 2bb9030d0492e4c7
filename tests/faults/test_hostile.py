"""The misbehaving service of these tests leaves no connection behind."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from .hostile import ScriptedServer, stay_silent

LIMIT_S = 10


async def test_stopping_closes_a_connection_whose_script_has_not_begun() -> None:
    async with ScriptedServer(stay_silent) as server, asyncio.timeout(LIMIT_S):
        port = int(server.base_url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), LIMIT_S) as client:
            while not server.peers:  # noqa: ASYNC110 - the loop itself accepts it
                await asyncio.sleep(0)
            await server.stop()
            with contextlib.suppress(ConnectionError):
                assert await asyncio.to_thread(client.recv, 1) == b""
