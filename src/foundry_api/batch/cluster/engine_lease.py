"""An engine that runs as long as gateways ask for it."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from foundry_api._version import __version__
from foundry_api.batch.cluster.engine_proxy import EngineProxy
from foundry_api.batch.cluster.messages import EngineAddress

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from foundry_api.batch.protocol import BatchClient

__all__ = ["LEASE_S", "EngineLease"]

# Nobody else ends the actor of a gateway that was killed. A gateway that is started again within
# this time finds the models still in memory.
LEASE_S = 60.0


class EngineLease:
    """An engine with its proxy, from the first request for its address to the end of the lease.

    Args:
        open_client: Opens the client of the engine.
        end: Ends the actor.
        lease_s: Seconds that the engine is kept after the last request for its address.
    """

    def __init__(
        self,
        open_client: Callable[[], AbstractAsyncContextManager[BatchClient]],
        end: Callable[[], object],
        *,
        lease_s: float = LEASE_S,
    ) -> None:
        self._open_client = open_client
        self._end = end
        self._lease_s = lease_s
        self._expires_at = 0.0
        self._resources = AsyncExitStack()
        self._address: EngineAddress | None = None
        self._client: BatchClient | None = None
        self._lock = asyncio.Lock()

    async def renew(self, host: str, port: int) -> EngineAddress:
        """Extend the lease, and return the address of the engine. The first call starts it.

        Raises:
            FoundryError: The engine cannot be started, or the port cannot be used.
        """
        self._extend()
        async with self._lock:
            if self._client is None:
                self._client = await self._resources.enter_async_context(self._open_client())
            service = self._client.services[0]
            await service.probe()  # starts an engine that has ended
            if self._address is None:
                proxy = EngineProxy(service)
                self._resources.push_async_callback(proxy.aclose)
                url = await proxy.listen(host, port)
                self._address = EngineAddress(
                    url=url, token=proxy.token, pid=os.getpid(), version=__version__
                )
        self._extend()
        return self._address

    async def wait_and_end(self) -> None:
        """Wait for the end of the lease, and end the engine and its actor."""
        loop = asyncio.get_running_loop()
        self._extend()
        # It may be extended meanwhile.
        while (remaining_s := self._expires_at - loop.time()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(remaining_s)
        try:
            await self._resources.aclose()
        finally:
            self._end()

    def _extend(self) -> None:
        self._expires_at = asyncio.get_running_loop().time() + self._lease_s
