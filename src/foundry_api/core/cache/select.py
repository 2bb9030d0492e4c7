"""The cache that a setting names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.core.cache.base import NoCache, ResponseCache

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["cache_of"]


def cache_of(setting: str | Path) -> ResponseCache:
    """The cache that a setting names: `off`, `memory`, `sqlite`, or a path of a SQLite file."""
    # Each is imported only where it is used.
    if setting == "off":
        return NoCache()
    if setting == "memory":
        from foundry_api.core.cache.memory import MemoryCache  # noqa: PLC0415

        return MemoryCache()
    from foundry_api.core.cache.sqlite import SqliteCache  # noqa: PLC0415

    return SqliteCache(None if setting == "sqlite" else setting)
