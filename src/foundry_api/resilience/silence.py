"""The bound on silence: how long a call waits for the next sign of life."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from foundry_api.errors import SilenceTimeout

if TYPE_CHECKING:
    from collections.abc import Awaitable

__all__ = ["KEEP_ALIVE_CAP", "SilenceBound"]

KEEP_ALIVE_CAP = 10
"""A service that only says that it is alive may do so for this many times the bound.

From 2.1 on it says so every 250 ms while it reads a long prompt, which may take longer than any
bound that would notice a dead engine in time; but it says so too when it hangs.
"""

_T = TypeVar("_T")


class SilenceBound:
    """Waits for a stream, bounded by its silence.

    Any byte is life; but without a token the wait ends at `KEEP_ALIVE_CAP` times the bound. Only
    waiting counts, so that a caller may take his time between two chunks.

    Args:
        timeout_s: Seconds of silence after which the wait is over.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._waited_s = 0.0

    def token(self) -> None:
        """Tell that the stream brought a token."""
        self._waited_s = 0.0

    async def wait(self, awaitable: Awaitable[_T]) -> _T:
        """The awaited value.

        Raises:
            SilenceTimeout: The bound fell first.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        token_left_s = self._timeout_s * KEEP_ALIVE_CAP - self._waited_s
        scope = asyncio.timeout(min(self._timeout_s, token_left_s))
        try:
            async with scope:
                return await awaitable
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise self._fallen(alive=token_left_s < self._timeout_s) from error
        finally:
            self._waited_s += loop.time() - started

    def _fallen(self, *, alive: bool) -> SilenceTimeout:
        limit_s = self._timeout_s * KEEP_ALIVE_CAP if alive else self._timeout_s
        what = "only signs of life, but no token," if alive else "nothing"
        return SilenceTimeout(f"the engine sent {what} for {limit_s:g} s", limit_s=limit_s)
