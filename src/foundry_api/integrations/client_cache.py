"""One async client per event loop, for frameworks that call from different loops."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.client.client import FoundryAPIClient

__all__ = ["LoopClientCache"]

# Seconds for closing a client on the event loop of another thread.
CLOSE_S = 5.0


class LoopClientCache:
    """The async clients of the running event loops."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[asyncio.AbstractEventLoop, FoundryAPIClient] = {}

    def __reduce__(self) -> tuple[type[LoopClientCache], tuple[()]]:
        # A copy, as LangChain makes of a model, starts without clients. A lock cannot be copied.
        return LoopClientCache, ()

    async def get(self, make_client: Callable[[], FoundryAPIClient]) -> FoundryAPIClient:
        """Return the client of the running event loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            # The client of a closed loop is reused, with the engine that it may have started:
            # `asyncio.run` for each call would start an engine each time.
            closed_loops = [client_loop for client_loop in self._clients if client_loop.is_closed()]
            unused = [self._clients.pop(client_loop) for client_loop in closed_loops]
            client = self._clients.get(loop)
            if client is None:
                client = self._clients[loop] = unused.pop() if unused else make_client()
        for unused_client in unused:
            await unused_client.close()
        return client

    async def aclose(self) -> None:
        """Close all clients, each on its own event loop if that is still running."""
        with self._lock:
            clients, self._clients = self._clients, {}
        for loop, client in clients.items():
            if loop is asyncio.get_running_loop() or not loop.is_running():
                await client.close()
                continue
            closing = asyncio.run_coroutine_threadsafe(client.close(), loop)
            with contextlib.suppress(TimeoutError):  # the loop was stopped, or is blocked
                async with asyncio.timeout(CLOSE_S):
                    await asyncio.wrap_future(closing)
