"""The HTTP transport: one pool for loopback services, and an aiohttp session for all others."""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib
import weakref
from typing import TYPE_CHECKING

from foundry_api.types.settings import CONNECT_TIMEOUT_S
from foundry_api.wire.encoding import decode_body
from foundry_api.wire.loopback import LoopbackPool, is_loopback_http
from foundry_api.wire.transport import get_origin

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from foundry_api.wire.session import SessionPool
    from foundry_api.wire.transport import Request, Response

__all__ = ["HttpTransport"]


class HttpTransport:
    """Sends requests over pooled connections, which are opened per event loop.

    Args:
        connect_timeout_s: Limit for opening a connection. On loopback that takes microseconds.
        use_loopback: Decides whether a URL is reached through the loopback pool.
        check: Called before the first request on an event loop and after `aclose`; raises if
            nothing may be sent any more.
    """

    # Redirects are not followed and cookies not stored, because no service generation sends any.

    def __init__(
        self,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        use_loopback: Callable[[str], bool] = is_loopback_http,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._check = check
        self._use_loopback = use_loopback
        self._pools: AsyncGenerator[_ConnectionPools] | None = None
        self._current: _ConnectionPools | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exit_handler: Callable[[], None] | None = None

    async def send(self, request: Request) -> Response:
        """Send a request and wait for the head of its response. See `Transport.send`."""
        pools = self._current
        if pools is None or self._loop is not asyncio.get_running_loop():
            self._check()
            pools = await self._open_pools()
        response: Response
        if self._use_loopback(request.url):
            response = await pools.loopback.send(request)
        else:
            session = pools.session or await pools.open_session()
            response = await session.send(request)
        if "Content-Encoding" in response.headers:
            return decode_body(response, get_origin(request.url))
        return response

    async def aclose(self) -> None:
        """Close all connections. The transport can be used again afterwards."""
        self._current = None
        if self._exit_handler is not None:
            atexit.unregister(self._exit_handler)
        if self._pools is not None:
            pools, self._pools = self._pools, None
            await pools.aclose()

    async def _open_pools(self) -> _ConnectionPools:
        # Another loop may still own pools. They are left for that loop to close.
        self._loop = asyncio.get_running_loop()
        self._pools = _open_loop_scoped_pools(self._connect_timeout_s)
        self._current = await anext(self._pools)
        # A weak reference: the exit handler must not keep a forgotten client's sockets open.
        self._exit_handler = functools.partial(_close_at_exit, self._loop, weakref.ref(self._pools))
        atexit.register(self._exit_handler)
        return self._current


class _ConnectionPools:
    """The connections of one event loop."""

    def __init__(self, connect_timeout_s: float) -> None:
        self.loopback = LoopbackPool(connect_timeout_s)
        self.session: SessionPool | None = None
        self._connect_timeout_s = connect_timeout_s
        self._closed = False

    async def open_session(self) -> SessionPool:
        """Return the pool for services that are not on loopback."""
        # Its aiohttp takes 0.2 s to import, which calls to this machine need not spend.
        module = await asyncio.to_thread(importlib.import_module, "foundry_api.wire.session")
        session = self.session
        if session is None:
            session = module.SessionPool(self._connect_timeout_s, is_closed=self._closed)
            self.session = session
        return session

    async def aclose(self) -> None:
        """Close all connections, and refuse to open new ones."""
        self._closed = True
        await self.loopback.aclose()
        if self.session is not None:
            await self.session.aclose()


async def _open_loop_scoped_pools(connect_timeout_s: float) -> AsyncGenerator[_ConnectionPools]:
    # An async generator, because `asyncio.run` closes all that are still open when it ends. So a
    # client that was never closed leaks no socket, and can be used in several `asyncio.run` calls.
    pools = _ConnectionPools(connect_timeout_s)
    try:
        yield pools
    finally:
        await pools.aclose()


def _close_at_exit(
    loop: asyncio.AbstractEventLoop, pools: Callable[[], AsyncGenerator[_ConnectionPools] | None]
) -> None:
    # `python -m asyncio` ends without closing its event loop's async generators.
    open_pools = pools()
    if open_pools is not None and not loop.is_closed() and not loop.is_running():
        loop.run_until_complete(open_pools.aclose())
