"""The interface of response caches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from foundry_api.types.errors import ConfigurationError
from foundry_api.types.serialization import Result

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from foundry_api.types.events import Event

__all__ = ["CacheStats", "NullCache", "ResponseCache", "validate_limits"]


class CacheStats(Result, msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of a cache.

    Attributes:
        hits: Lookups that found an answer.
        misses: Lookups that did not.
        stores: Answers that were stored.
        evictions: Answers that were removed because of their age or for lack of space.
        entries: Answers in the cache now.
        bytes: Size of these answers.
        max_bytes: Maximum size.
    """

    hits: int = 0
    misses: int = 0
    stores: int = 0
    evictions: int = 0
    entries: int = 0
    bytes: int = 0
    max_bytes: int = 0


class ResponseCache(ABC):
    """Base class of caches, which store answers as bytes.

    A cache must not fail a call, so only `clear` and `stats` may raise.

    Args:
        only_deterministic: Store only answers of repeatable calls: those with temperature 0 or a
            seed. A call can override this with `cache="always"` or `cache="never"`.

    Attributes:
        only_deterministic: As above.
        active: Whether the cache ever stores anything.
    """

    active = True

    def __init__(self, *, only_deterministic: bool = True) -> None:
        self.only_deterministic = only_deterministic

    @abstractmethod
    async def get(self, key: str) -> bytes | None:
        """Return the answer stored under a key, or None."""

    @abstractmethod
    async def put(self, key: str, answer: bytes, *, model: str) -> bool:
        """Store an answer.

        Args:
            key: The key.
            answer: The answer.
            model: Id of the model, for statistics.

        Returns:
            Whether the answer was stored.
        """

    @abstractmethod
    async def clear(self) -> int:
        """Delete all answers.

        Returns:
            The number of deleted answers.

        Raises:
            ConfigurationError: The cache cannot be used.
        """

    @abstractmethod
    async def stats(self) -> CacheStats:
        """Return the size of the cache and its hits and misses.

        Raises:
            ConfigurationError: The cache cannot be used.
        """

    @asynccontextmanager
    async def lock(self, key: str) -> AsyncGenerator[bytes | None]:
        """Let only one of the programs that share the cache make an answer.

            async with cache.lock(key) as answer:
                ...     # answer is not None if another program has made it meanwhile

        The default does nothing, which suits a cache of one process: the calls of a client share
        an answer without it.

        Args:
            key: The key of the answer.
        """
        del key
        yield None

    def bind(self, home: Path | None, on_event: Callable[[Event], None]) -> None:
        """Called when a client starts to use the cache.

        Args:
            home: The `home` of the client, for a cache that stores files there.
            on_event: Receives the events of the cache.
        """
        del home, on_event

    def unbind(self, on_event: Callable[[Event], None]) -> None:
        """Called when a client no longer uses the cache.

        Args:
            on_event: As in `bind`.
        """
        del on_event

    async def close(self) -> None:  # noqa: B027 - many caches have nothing to close
        """Close files and threads. The next use opens them again."""


class NullCache(ResponseCache):
    """A cache that stores nothing."""

    active = False

    async def get(self, key: str) -> bytes | None:
        del key
        return None

    async def put(self, key: str, answer: bytes, *, model: str) -> bool:
        del key, answer, model
        return False

    async def clear(self) -> int:
        return 0

    async def stats(self) -> CacheStats:
        return CacheStats()


def validate_limits(max_bytes: int, max_age_s: float | None) -> None:
    """Raise ConfigurationError for limits under which nothing could be stored."""
    if not max_bytes > 0:
        raise ConfigurationError(
            f"the cache's max_bytes is {max_bytes}", hint="Give bytes above 0, such as 64 * 2**20."
        )
    if max_age_s is not None and not max_age_s > 0:
        raise ConfigurationError(
            f"the cache's max_age_s is {max_age_s}",
            hint="Give seconds above 0, such as 86400, or None for no limit.",
        )
