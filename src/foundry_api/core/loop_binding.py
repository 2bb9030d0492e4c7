"""The event loop that a client is bound to. Its shared state is not thread-safe."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LoopBinding"]


class LoopBinding:
    """Binds a client to one event loop at a time.

    `on_rebound` is called when the client is used on another loop after its loop has stopped.
    """

    def __init__(self, on_rebound: Callable[[], None] = lambda: None) -> None:
        self._on_rebound = on_rebound
        self._lock = threading.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None

    def bind(self) -> None:
        """Bind to the running event loop. Raise InvalidRequest if bound to another running loop."""
        loop = asyncio.get_running_loop()
        if self.loop is loop:
            return
        with self._lock:
            previous = self.loop
            if previous is not None and previous.is_running():
                raise InvalidRequest(
                    "the client is in use on another event loop, and serves one at a time",
                    hint="Use FoundryClient, which serves any number of threads, or a "
                    "FoundryAPIClient for each event loop.",
                )
            self.loop = loop
            if previous is not None:
                self._on_rebound()
