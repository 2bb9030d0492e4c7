"""The caller's own cache: calls go on without what it fails at."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from foundry_api.core.cache.base import ResponseCache
from foundry_api.types.user_code import UserCode, describe

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from foundry_api.core.cache.base import CacheStats
    from foundry_api.types.events import Event

    Turn = AbstractAsyncContextManager[bytes | None]

__all__ = ["OwnCache"]

_T = TypeVar("_T")

log = logging.getLogger("foundry_api")


class OwnCache(ResponseCache):
    """Keeps answers in the cache that the caller gave to the client; its failures are logged.

    Args:
        cache: The caller's.
    """

    def __init__(self, cache: ResponseCache) -> None:
        # A subclass may not have called `ResponseCache.__init__`.
        super().__init__(only_deterministic=getattr(cache, "only_deterministic", True))
        self._cache = cache

    async def get(self, key: str) -> bytes | None:
        """See `ResponseCache.get`."""
        return _checked("get", await _called("get", partial(self._cache.get, key), None))

    async def put(self, key: str, answer: bytes, *, model: str) -> bool:
        """See `ResponseCache.put`."""
        kept = await _called(
            "put", lambda: self._cache.put(key, answer, model=model), default=False
        )
        return kept is True

    async def clear(self) -> int:
        """See `ResponseCache.clear`."""
        return await self._cache.clear()

    async def stats(self) -> CacheStats:
        """See `ResponseCache.stats`."""
        return await self._cache.stats()

    @asynccontextmanager
    async def lock(self, key: str) -> AsyncGenerator[bytes | None]:
        """See `ResponseCache.lock`. A turn that fails is none: the answer is made without."""
        entered = await _called("lock", partial(self._enter, key), None)
        if entered is None:
            yield None
            return
        turn, kept = entered
        try:
            yield _checked("lock", kept)
        except BaseException as error:
            await _end(turn, error)
            raise
        await _end(turn, None)

    def bind(self, home: Path | None, tell: Callable[[Event], None]) -> None:
        """See `ResponseCache.bind`."""
        _try("bind", partial(self._cache.bind, home, tell))

    def unbind(self, tell: Callable[[Event], None]) -> None:
        """See `ResponseCache.unbind`."""
        _try("unbind", partial(self._cache.unbind, tell))

    async def close(self) -> None:
        """See `ResponseCache.close`."""
        await _called("close", self._cache.close, None)

    async def _enter(self, key: str) -> tuple[Turn, bytes | None]:
        turn = self._cache.lock(key)
        return turn, await turn.__aenter__()


async def _end(turn: Turn, error: BaseException | None) -> None:
    """End a turn. An error that only passes through it is no failure of the cache."""
    code = UserCode()
    try:
        await turn.__aexit__(type(error) if error else None, error, None)
    except BaseException as failure:
        if failure is error:
            return
        if not code.is_own_failure(failure):
            raise
        _log("lock", failure)


async def _called(name: str, method: Callable[[], Awaitable[_T]], default: _T) -> _T:
    code = UserCode()
    try:
        return await method()
    except BaseException as error:
        if not code.is_own_failure(error):
            raise
        _log(name, error)
        return default


def _try(name: str, method: Callable[[], None]) -> None:
    code = UserCode()
    try:
        method()
    except BaseException as error:
        if not code.is_own_failure(error):
            raise
        _log(name, error)


def _checked(name: str, answer: object) -> bytes | None:
    if answer is None or isinstance(answer, bytes):
        return answer
    log.warning("cache: %s gave %s, not bytes", name, type(answer).__name__)
    return None


def _log(name: str, error: BaseException) -> None:
    log.warning("cache: %s failed, and the call goes on without: %s", name, describe(error))
