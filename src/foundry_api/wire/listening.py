"""Listening sockets that outlast connections which end before they are accepted.

On Windows, asyncio closes a listening socket when a client resets its connection too soon
(https://github.com/python/cpython/issues/93821): a single one would end the service of all others.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import select
import socket
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Listener", "listen"]

log = logging.getLogger("foundry_api.wire")

BACKLOG = 128
# As asyncio elsewhere: others may close their sockets meanwhile.
RETRY_S = 1.0
# Errors of accepting a client that has left, without a class of their own.
CLIENT_HAS_LEFT = frozenset({errno.ENOTCONN, errno.EPROTO})


class Listener:
    """Listens at an address until it is closed.

    Attributes:
        port: The port, of the first address if there are several.
    """

    def __init__(self, server: asyncio.Server) -> None:
        self.port: int = server.sockets[0].getsockname()[1]
        self._server = server

    def close(self) -> None:
        """Accept no more connections. Those that are open stay open."""
        self._server.close()


async def listen(
    make_protocol: Callable[[], asyncio.BaseProtocol],
    host: str | None = None,
    port: int = 0,
    *,
    sock: socket.socket | None = None,
    backlog: int = BACKLOG,
    platform: str = sys.platform,
) -> Listener:
    """Accept connections at an address, or of a socket that is bound to one.

    Raises:
        OSError: The address cannot be used.
    """
    loop = asyncio.get_running_loop()
    has_thread = platform == "win32"
    server: asyncio.Server
    if sock is None:
        server = await loop.create_server(
            make_protocol, host, port, backlog=backlog, start_serving=not has_thread
        )
    else:
        server = await loop.create_server(
            make_protocol, sock=sock, backlog=backlog, start_serving=not has_thread
        )
    return _ThreadListener(server, make_protocol, backlog) if has_thread else Listener(server)


class _ThreadListener(Listener):
    """Accepts in a thread, at the addresses of a server that does not serve.

    asyncio's own `sock_accept` would leave the socket of a connection that was reset to the garbage
    collector, and report it with a traceback each time.
    """

    def __init__(
        self,
        server: asyncio.Server,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        backlog: int,
    ) -> None:
        super().__init__(server)
        self._make_protocol = make_protocol
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[None]] = set()
        self._sockets = [listening.dup() for listening in server.sockets]
        self._wake, self._wait = socket.socketpair()
        server.close()
        try:
            for listening in self._sockets:
                listening.settimeout(0)
                listening.listen(backlog)
        except OSError:
            self._close_sockets()
            raise
        self._thread = threading.Thread(target=self._run, name="foundry-api-accept", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._wake.close()
        self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                readable, _, _ = select.select([*self._sockets, self._wait], [], [])
                if self._wait in readable:
                    return
                for listening in readable:
                    self._accept(listening)
        except RuntimeError:  # the event loop is closed
            return
        finally:
            self._close_sockets()

    def _accept(self, listening: socket.socket) -> None:
        try:
            accepted, _ = listening.accept()
        except OSError as error:
            has_left = isinstance(error, (ConnectionError, BlockingIOError))
            if has_left or error.errno in CLIENT_HAS_LEFT:
                return
            log.warning("no connection can be accepted: %s", error)
            select.select([self._wait], [], [], RETRY_S)
            return
        try:
            accepted.settimeout(0)
            self._loop.call_soon_threadsafe(self._connect, accepted)
        except BaseException:
            accepted.close()
            raise

    def _connect(self, accepted: socket.socket) -> None:
        task = self._loop.create_task(self._make_transport(accepted))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _make_transport(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, accepted)
        except Exception:
            accepted.close()
            log.exception("an accepted connection failed")

    def _close_sockets(self) -> None:
        for each in (*self._sockets, self._wait, self._wake):
            each.close()
