"""One event loop at a time: what a client's calls share can't be used from two threads at once."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LoopBinding"]


class LoopBinding:
    """Binds a client to the event loop that it is used on, until that loop has ended.

    Args:
        rebound: Called when the client moves on to another event loop.

    Attributes:
        loop: The event loop that the client is bound to.
    """

    def __init__(self, on_rebound: Callable[[], None] = lambda: None) -> None:
        self._on_rebound = on_rebound
        self._lock = threading.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None

    def bind(self) -> None:
        """Bind the client to the running event loop.

        Raises:
            InvalidRequest: Another event loop runs that the client is bound to.
        """
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
