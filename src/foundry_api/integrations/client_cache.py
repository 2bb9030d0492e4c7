"""One async client for each event loop, for frameworks that call from whichever loop they run."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.client.client import FoundryAPIClient

__all__ = ["LoopClientCache"]

CLOSE_S = 5.0
"""Seconds that closing a client may take on an event loop of another thread."""


class LoopClientCache:
    """Keeps a client for each event loop that runs.

    The client of a loop that has ended is used again by the next loop, with the engine that it may
    have started; what is left over then is closed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[asyncio.AbstractEventLoop, FoundryAPIClient] = {}

    def __reduce__(self) -> tuple[type[LoopClientCache], tuple[()]]:
        return LoopClientCache, ()  # a copy has clients of its own

    async def get(self, make_client: Callable[[], FoundryAPIClient]) -> FoundryAPIClient:
        """Return the client of the running event loop.

        Args:
            make_client: Makes one.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            closed_loops = [client_loop for client_loop in self._clients if client_loop.is_closed()]
            unused = [self._clients.pop(client_loop) for client_loop in closed_loops]
            client = self._clients.get(loop)
            if client is None:
                client = self._clients[loop] = unused.pop() if unused else make_client()
        for client_loop in unused:
            await client_loop.close()
        return client

    async def aclose(self) -> None:
        """Close all clients, each on its own event loop if that still runs."""
        with self._lock:
            clients, self._clients = self._clients, {}
        for loop, client in clients.items():
            if loop is asyncio.get_running_loop() or not loop.is_running():
                await client.close()
                continue
            closing = asyncio.run_coroutine_threadsafe(client.close(), loop)
            with contextlib.suppress(TimeoutError):  # the loop ended, or is blocked
                async with asyncio.timeout(CLOSE_S):
                    await asyncio.wrap_future(closing)
