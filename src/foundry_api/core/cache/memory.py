"""Answers in this process' memory: the fastest, and gone with it."""

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


class _Kept(NamedTuple):
    answer: bytes
    at: float


class MemoryCache(ResponseCache):
    """Keeps answers in memory. The one that was used longest ago goes first.

    Several clients may share one, also in several threads.

    Args:
        max_bytes: Bound of the answers with their keys, in bytes as they are kept: compressed,
            some ten for each token. One that is larger than all of it is not kept.
        max_age_s: Seconds after which an answer is not given any more; None for never.
        only_deterministic: See `ResponseCache`.
        clock: Seconds of a clock that never goes back.

    Raises:
        ConfigurationError: A bound is not above 0.
    """

    def __init__(
        self,
        *,
        max_bytes: int = MAX_BYTES,
        max_age_s: float | None = None,
        only_deterministic: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(only_deterministic=only_deterministic)
        validate_limits(max_bytes, max_age_s)
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0
        self._hits = self._misses = self._stores = self._evictions = 0

    async def get(self, key: str) -> bytes | None:
        """The answer kept under a key, if there is one. Never waits."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and self._is_old(kept):
                self._evict(key)
                kept = None
            if kept is None:
                self._misses += 1
                return None
            self._hits += 1
            self._kept.move_to_end(key)
            return kept.answer

    async def put(self, key: str, answer: bytes, *, model: str) -> bool:
        """Keep an answer; whether it was. Never waits."""
        del model
        size = _size(key, answer)
        if size > self._max_bytes:
            return False
        with self._lock:
            self._drop(key)
            while self._bytes + size > self._max_bytes:
                self._evict(next(iter(self._kept)))
            self._kept[key] = _Kept(answer, self._clock())
            self._bytes += size
            self._stores += 1
        return True

    async def clear(self) -> int:
        """Forget every answer; how many there were."""
        with self._lock:
            count = len(self._kept)
            self._kept.clear()
            self._bytes = 0
            return count

    async def stats(self) -> CacheStats:
        """What it holds now, and how it was used since it was made."""
        with self._lock:
            for key in [key for key, kept in self._kept.items() if self._is_old(kept)]:
                self._evict(key)
            return CacheStats(
                hits=self._hits,
                misses=self._misses,
                stores=self._stores,
                evictions=self._evictions,
                entries=len(self._kept),
                bytes=self._bytes,
                max_bytes=self._max_bytes,
            )

    def _is_old(self, kept: _Kept) -> bool:
        return self._max_age_s is not None and self._clock() - kept.at >= self._max_age_s

    def _evict(self, key: str) -> None:
        self._drop(key)
        self._evictions += 1

    def _drop(self, key: str) -> None:
        if kept := self._kept.pop(key, None):
            self._bytes -= _size(key, kept.answer)


def _size(key: str, answer: bytes) -> int:
    return len(key) + len(answer)
