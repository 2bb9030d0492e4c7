"""The cache that a setting names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.core.cache.base import NullCache, ResponseCache

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["make_cache"]


def make_cache(setting: str | Path) -> ResponseCache:
    """Return the cache that a setting names: `off`, `memory`, `sqlite` or the path of a file."""
    # Each is imported only where it is used.
    if setting == "off":
        return NullCache()
    if setting == "memory":
        from foundry_api.core.cache.memory import MemoryCache  # noqa: PLC0415

        return MemoryCache()
    from foundry_api.core.cache.sqlite import SqliteCache  # noqa: PLC0415

    return SqliteCache(None if setting == "sqlite" else setting)
