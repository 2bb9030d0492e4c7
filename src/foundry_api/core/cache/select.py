"""Create the cache that the settings describe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.core.cache.base import NullCache, ResponseCache

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["make_cache"]


def make_cache(setting: str | Path) -> ResponseCache:
    """Return the cache for `off`, `memory`, `sqlite` or the path of a file."""
    # Most clients use none of them, so each is imported only when it is used.
    if setting == "off":
        return NullCache()
    if setting == "memory":
        from foundry_api.core.cache.memory import MemoryCache  # noqa: PLC0415

        return MemoryCache()
    from foundry_api.core.cache.sqlite import SqliteCache  # noqa: PLC0415

    return SqliteCache(None if setting == "sqlite" else setting)
