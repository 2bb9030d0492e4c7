"""A cache that the user has written. Its failures do not fail calls."""

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

    CacheLock = AbstractAsyncContextManager[bytes | None]

__all__ = ["UserCache"]

_T = TypeVar("_T")  # the result of the user's method

log = logging.getLogger("foundry_api")


class UserCache(ResponseCache):
    """Forwards to the user's cache, and logs the errors of all methods that calls use."""

    def __init__(self, cache: ResponseCache) -> None:
        # The user's subclass may not have called `ResponseCache.__init__`.
        super().__init__(only_deterministic=getattr(cache, "only_deterministic", True))
        self._cache = cache

    async def get(self, key: str) -> bytes | None:
        return _check_bytes("get", await _call("get", partial(self._cache.get, key), None))

    async def put(self, key: str, answer: bytes, *, model: str) -> bool:
        is_stored = await _call(
            "put", lambda: self._cache.put(key, answer, model=model), default=False
        )
        return is_stored is True

    async def clear(self) -> int:
        return await self._cache.clear()

    async def stats(self) -> CacheStats:
        return await self._cache.stats()

    @asynccontextmanager
    async def lock(self, key: str) -> AsyncGenerator[bytes | None]:
        """As `ResponseCache.lock`. If the user's lock fails, the call is made without it."""

        async def enter() -> tuple[CacheLock, bytes | None]:
            lock = self._cache.lock(key)
            return lock, await lock.__aenter__()

        entered = await _call("lock", enter, None)
        if entered is None:
            yield None
            return
        lock, stored = entered
        try:
            yield _check_bytes("lock", stored)
        except BaseException as error:
            await _exit(lock, error)
            raise
        await _exit(lock, None)

    def bind(self, home: Path | None, on_event: Callable[[Event], None]) -> None:
        _try("bind", partial(self._cache.bind, home, on_event))

    def unbind(self, on_event: Callable[[Event], None]) -> None:
        _try("unbind", partial(self._cache.unbind, on_event))

    async def close(self) -> None:
        await _call("close", self._cache.close, None)


async def _exit(lock: CacheLock, error: BaseException | None) -> None:
    code = UserCode()
    try:
        await lock.__aexit__(type(error) if error else None, error, None)
    except BaseException as failure:
        if failure is error:  # the lock raised the error of the call again, as it may
            return
        if not code.is_own_failure(failure):
            raise
        _log("lock", failure)


async def _call(name: str, method: Callable[[], Awaitable[_T]], default: _T) -> _T:
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


def _check_bytes(name: str, answer: object) -> bytes | None:
    if answer is None or isinstance(answer, bytes):
        return answer
    log.warning("cache: %s returned %s, not bytes", name, type(answer).__name__)
    return None


def _log(name: str, error: BaseException) -> None:
    log.warning(
        "cache: %s failed, and the call continues without the cache: %s", name, describe(error)
    )
