"""`SyncCache`, written by `python3 dev.py generate` from cache/store.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foundry_api.cache.store import CacheStats, ResponseCache
    from foundry_api.sync.background import BackgroundLoop

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
