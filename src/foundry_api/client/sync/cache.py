"""`SyncCache`, written by `python3 dev.py generate` from core/cache/base.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foundry_api.client.sync.background import BackgroundLoop
    from foundry_api.core.cache.base import CacheStats, ResponseCache

__all__ = ["SyncCache"]


class SyncCache:
    """Where a client's answers are kept."""

    def __init__(self, loop: BackgroundLoop, calls: ResponseCache) -> None:
        self._loop = loop
        self._async = calls

    def clear(self) -> int:
        """Forget every answer; how many there were.

        Raises:
            ConfigurationError: It cannot be used.
        """
        return self._loop.run(self._async.clear)

    def stats(self) -> CacheStats:
        """What it holds, and how it was used.

        Raises:
            ConfigurationError: It cannot be used.
        """
        return self._loop.run(self._async.stats)
