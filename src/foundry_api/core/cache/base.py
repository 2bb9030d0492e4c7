"""What every cache is: a place for answers, which a client looks into before it calls."""

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
    """A cache at one moment.

    Attributes:
        hits: Lookups that found an answer.
        misses: Lookups that found none.
        stores: Answers that were kept.
        evictions: Answers that had to go, for their age or for want of room.
        entries: Answers that are here now.
        bytes: What they take.
        max_bytes: What they may take.
    """

    hits: int = 0
    misses: int = 0
    stores: int = 0
    evictions: int = 0
    entries: int = 0
    bytes: int = 0
    max_bytes: int = 0


class ResponseCache(ABC):
    """Keeps answers as bytes. None of what calls use may raise: a cache is never what they fail of.

    Args:
        only_deterministic: Keep only answers of calls that have one: temperature 0, or a seed. A
            call may say otherwise with `cache="always"` or `cache="never"`.

    Attributes:
        only_deterministic: As above.
    """

    active = True
    """Whether it ever keeps anything."""

    def __init__(self, *, only_deterministic: bool = True) -> None:
        self.only_deterministic = only_deterministic

    @abstractmethod
    async def get(self, key: str) -> bytes | None:
        """The answer kept under a key, if there is one."""

    @abstractmethod
    async def put(self, key: str, answer: bytes, *, model: str) -> bool:
        """Keep an answer; whether it was.

        Args:
            key: Its key.
            answer: The answer.
            model: Who gave it, to tell people.
        """

    @abstractmethod
    async def clear(self) -> int:
        """Forget every answer; how many there were.

        Raises:
            ConfigurationError: It cannot be used.
        """

    @abstractmethod
    async def stats(self) -> CacheStats:
        """What it holds, and how it was used.

        Raises:
            ConfigurationError: It cannot be used.
        """

    @asynccontextmanager
    async def lock(self, key: str) -> AsyncGenerator[bytes | None]:
        """Be the only one who makes an answer, of all that share the cache.

            async with cache.turn(key) as made:
                ...     # made is the print_answer, if somebody else made it meanwhile

        A cache that one process has to itself needs none: a client's own calls share anyway.
        """
        del key
        yield None

    def bind(self, home: Path | None, tell: Callable[[Event], None]) -> None:
        """A client begins to use the cache.

        Args:
            home: The client's `home`, for a cache that lies there.
            tell: Wants to hear what happens to the cache.
        """
        del home, tell

    def unbind(self, tell: Callable[[Event], None]) -> None:
        """A client uses the cache no more."""
        del tell

    async def close(self) -> None:  # noqa: B027 - not every cache has something to let go of
        """Let go of files and threads. The next use takes them up again."""


class NullCache(ResponseCache):
    """The cache of a client that has none."""

    active = False

    async def get(self, key: str) -> bytes | None:
        """Nothing."""
        del key
        return None

    async def put(self, key: str, answer: bytes, *, model: str) -> bool:
        """Keep nothing."""
        del key, answer, model
        return False

    async def clear(self) -> int:
        """Nothing is here."""
        return 0

    async def stats(self) -> CacheStats:
        """Nothing is here."""
        return CacheStats()


def validate_limits(max_bytes: int, max_age_s: float | None) -> None:
    """Refuse bounds under which nothing could be kept.

    Raises:
        ConfigurationError: One of them is not above 0.
    """
    if not max_bytes > 0:
        raise ConfigurationError(
            f"the cache's max_bytes is {max_bytes}", hint="Give bytes above 0, such as 64 * 2**20."
        )
    if max_age_s is not None and not max_age_s > 0:
        raise ConfigurationError(
            f"the cache's max_age_s is {max_age_s}",
            hint="Give seconds above 0, such as 86400; None keeps answers however old they are.",
        )
