"""The cache in memory: lookups, eviction, expiry and statistics."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.core.cache.base import CacheStats, NullCache
from foundry_api.core.cache.memory import MemoryCache
from foundry_api.types.errors import ConfigurationError

KEY_BYTES = 1
ANSWER = b"x" * 9


async def kept(cache: MemoryCache, keys: str) -> str:
    return "".join([key for key in keys if await cache.get(key)])


async def test_stored_answer_is_found() -> None:
    cache = MemoryCache()
    assert await cache.get("a") is None
    assert await cache.put("a", b"one", model="demo:1")
    assert await cache.get("a") == b"one"
    assert await cache.put("a", b"other", model="demo:1")
    assert await cache.get("a") == b"other"
    assert await cache.stats() == CacheStats(
        hits=2, misses=1, stores=2, entries=1, bytes=6, max_bytes=64 * 2**20
    )


async def test_least_recently_used_is_evicted_first() -> None:
    cache = MemoryCache(max_bytes=30)
    for key in "abc":
        await cache.put(key, ANSWER, model="demo:1")
    await cache.get("a")
    await cache.put("d", ANSWER, model="demo:1")
    assert await kept(cache, "abcd") == "acd"
    assert (await cache.stats()).evictions == 1


async def test_large_answer_evicts_others_and_a_too_large_one_is_not_stored() -> None:
    cache = MemoryCache(max_bytes=30)
    for key in "abc":
        await cache.put(key, ANSWER, model="demo:1")
    assert not await cache.put("d", b"x" * 30, model="demo:1")
    assert await kept(cache, "abcd") == "abc"
    assert await cache.put("d", b"x" * 19, model="demo:1")
    assert await kept(cache, "abcd") == "cd"


async def test_expired_answer_is_not_returned() -> None:
    now = 0.0
    cache = MemoryCache(max_age_s=60, monotonic=lambda: now)
    await cache.put("a", ANSWER, model="demo:1")
    now = 59.9
    await cache.put("b", ANSWER, model="demo:1")
    assert await kept(cache, "ab") == "ab"
    now = 60.0
    assert await kept(cache, "ab") == "b"
    now = 1000.0
    stats = await cache.stats()
    assert (stats.entries, stats.bytes, stats.evictions) == (0, 0, 2)


async def test_cache_is_empty_after_clear() -> None:
    cache = MemoryCache()
    await cache.put("a", ANSWER, model="demo:1")
    assert await cache.clear() == 1
    assert await cache.get("a") is None
    assert (await cache.stats()).bytes == 0


STEPS = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(-1, 12)), max_size=60)


@given(STEPS)
async def test_totals_match_the_entries_after_any_operations(steps: list[tuple[str, int]]) -> None:
    """A size of -1 stands for a lookup."""
    cache = MemoryCache(max_bytes=20)
    model: dict[str, bytes] = {}
    for key, size in steps:
        if size < 0:
            assert await cache.get(key) == model.get(key)
            if key in model:
                model[key] = model.pop(key)
        elif KEY_BYTES + size <= 20:
            model.pop(key, None)
            while sum(KEY_BYTES + len(answer) for answer in model.values()) + KEY_BYTES + size > 20:
                model.pop(next(iter(model)))
            model[key] = b"x" * size
        await cache.put(key, b"x" * size, model="demo:1") if size >= 0 else None
    stats = await cache.stats()
    assert stats.entries == len(model)
    assert stats.bytes == sum(KEY_BYTES + len(answer) for answer in model.values())
    assert stats.hits + stats.misses == sum(size < 0 for _, size in steps)
    assert stats.stores - stats.evictions >= stats.entries


def test_cache_can_be_shared_by_threads() -> None:
    cache = MemoryCache(max_bytes=500)

    def use() -> None:
        for number in range(2000):
            for step in (
                cache.put(str(number % 90), b"x" * 8, model="m"),
                cache.get(str(number % 7)),
            ):
                with pytest.raises(StopIteration):
                    step.send(None)  # type: ignore[attr-defined] # neither ever waits

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache._bytes == sum(
        len(key) + len(entry.answer) for key, entry in cache._entries.items()
    )
    assert cache._bytes <= 500


@pytest.mark.parametrize(("max_bytes", "max_age_s"), [(0, None), (-1, None), (1, 0.0), (1, -1.0)])
def test_invalid_limits_are_rejected(max_bytes: int, max_age_s: float | None) -> None:
    with pytest.raises(ConfigurationError, match="the cache's max_"):
        MemoryCache(max_bytes=max_bytes, max_age_s=max_age_s)


async def test_null_cache_is_empty() -> None:
    cache = NullCache()
    assert not await cache.put("a", b"", model="demo:1")
    assert await cache.get("a") is None
    assert await cache.clear() == 0
    assert await cache.stats() == CacheStats()
    async with cache.lock("a") as made:
        assert made is None
