"""A response cache in the memory of this process."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from foundry_api.core.cache.base import CacheStats, ResponseCache, validate_limits

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MemoryCache"]

MAX_BYTES = 64 * 2**20


class _Entry(NamedTuple):
    answer: bytes
    stored_at: float


class MemoryCache(ResponseCache):
    """Caches answers in memory, and removes the least recently used first.

    Several clients can share one cache, also in several threads.

    Args:
        max_bytes: Maximum size of the compressed answers with their keys, at about ten bytes per
            token. A larger answer is not stored. Default: 64 MiB.
        max_age_s: Seconds after which an answer expires. Default: never.
        only_deterministic: See `ResponseCache`.
        monotonic: Monotonic clock in seconds, for tests.

    Raises:
        ConfigurationError: A limit is not above 0.
    """

    def __init__(
        self,
        *,
        max_bytes: int = MAX_BYTES,
        max_age_s: float | None = None,
        only_deterministic: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(only_deterministic=only_deterministic)
        validate_limits(max_bytes, max_age_s)
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._bytes = 0
        self._hits = self._misses = self._stores = self._evictions = 0

    async def get(self, key: str) -> bytes | None:
        """Return the answer stored under a key, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and self._is_expired(entry):
                self._evict(key)
                entry = None
            if entry is None:
                self._misses += 1
                return None
            self._hits += 1
            self._entries.move_to_end(key)
            return entry.answer

    async def put(self, key: str, answer: bytes, *, model: str) -> bool:
        """Store an answer. Return False if it is larger than the cache."""
        del model
        size = _get_size(key, answer)
        if size > self._max_bytes:
            return False
        with self._lock:
            self._drop(key)
            while self._bytes + size > self._max_bytes:
                self._evict(next(iter(self._entries)))
            self._entries[key] = _Entry(answer, self._monotonic())
            self._bytes += size
            self._stores += 1
        return True

    async def clear(self) -> int:
        """Delete all answers and return their number."""
        with self._lock:
            count = len(self._entries)
            self._entries.clear()
            self._bytes = 0
            return count

    async def stats(self) -> CacheStats:
        """Return the size of the cache, and its hits and misses since it was created."""
        with self._lock:
            for key in [key for key, entry in self._entries.items() if self._is_expired(entry)]:
                self._evict(key)
            return CacheStats(
                hits=self._hits,
                misses=self._misses,
                stores=self._stores,
                evictions=self._evictions,
                entries=len(self._entries),
                bytes=self._bytes,
                max_bytes=self._max_bytes,
            )

    def _is_expired(self, entry: _Entry) -> bool:
        if self._max_age_s is None:
            return False
        return self._monotonic() - entry.stored_at >= self._max_age_s

    def _evict(self, key: str) -> None:
        self._drop(key)
        self._evictions += 1

    def _drop(self, key: str) -> None:
        if entry := self._entries.pop(key, None):
            self._bytes -= _get_size(key, entry.answer)


def _get_size(key: str, answer: bytes) -> int:
    return len(key) + len(answer)
