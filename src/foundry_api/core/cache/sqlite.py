"""Answers in a file: they stay when the program ends, and programs share them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from foundry_api.core.cache.base import CacheStats, ResponseCache, validate_limits
from foundry_api.core.residency.coordination import program_name
from foundry_api.resilience.single_flight import SingleFlight
from foundry_api.storage.paths import Paths
from foundry_api.types.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from foundry_api.core.cache.database import CacheDatabase
    from foundry_api.core.cache.file import CacheHistory, ResilientDatabase
    from foundry_api.types.events import CacheTrouble, Event

__all__ = ["SqliteCache", "Worker"]


_T = TypeVar("_T")


class Worker:
    """Runs questions to a file one after another.

    Args:
        open_shelf: Makes the file's shelf, in the thread.

    Attributes:
        troubles: What went wrong, for the event loop to take.
    """

    def __init__(self, open_shelf: Callable[[deque[CacheTrouble]], ResilientDatabase]) -> None:
        self.troubles: deque[CacheTrouble] = deque()
        self._open_shelf = open_shelf
        self._shelf: ResilientDatabase | None = None
        self._thread = ThreadPoolExecutor(1, "foundry-api-cache")

    async def run(self, question: Callable[[ResilientDatabase], _T]) -> _T:
        """The answer to a question. A caller who is cancelled waits until it is done: ms."""
        return await self._run(lambda: question(self._ensure_database()))

    async def close(self) -> None:
        """Close the file, and end the thread."""
        try:
            await self._run(self._close)
        finally:
            self._thread.shutdown()  # its last work is done: this takes microseconds

    async def _run(self, work: Callable[[], _T]) -> _T:
        future = asyncio.wrap_future(self._thread.submit(work))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait((future,))
            if not future.cancelled():
                future.exception()  # nobody wants to know any more
            raise

    def _ensure_database(self) -> ResilientDatabase:
        if self._shelf is None:
            self._shelf = self._open_shelf(self.troubles)
        return self._shelf

    def _close(self) -> None:
        if self._shelf is not None:
            self._shelf.close()


MAX_BYTES = 512 * 2**20
LEASE_S = 15.0
"""A claim lapses after so long without a sign of life of the program that made it."""

FIRST_WAIT_S = 0.01
LONGEST_WAIT_S = 0.25

log = logging.getLogger("foundry_api")


class SqliteCache(ResponseCache):
    """Keeps answers in a SQLite file. The one that was used longest ago goes first.

    Programs may share the file: what one has asked is an answer for all, and of those that ask the
    same at the same time one calls, while the others wait for its answer. When it dies, another
    takes over.

    **The answers lie there in plain text**, as far as compression leaves it plain, readable by this
    user only (0600). Of what was asked only hashes are kept.

    Nothing that happens to the file fails a call: one that is damaged, or of another version, is
    set aside as `NAME.corrupt-N` or `NAME.format-N` and a new one begun; where none can be written,
    calls go on without. Anything else at the path, such as a text, a link or another program's
    database, is left as it is, and calls go on without. That is logged once, and told as
    `CacheTrouble`. All work on the file is done in one thread, which `close` ends.

    Args:
        path: The file, on a local disk; default `answers.db` in the `cache` directory of the
            client's home, else in the platform's own directory for caches.
        max_bytes: Bound of the answers, in bytes as they are kept: compressed, some ten for each
            token. The file is a little larger. An answer larger than all of it is not kept.
        max_age_s: Seconds after which an answer is not given any more; None for never.
        only_deterministic: See `ResponseCache`.
        sleep: Waits for so many seconds.

    Raises:
        ConfigurationError: A bound is not above 0.
    """

    def __init__(
        self,
        path: Path | str | None = None,
        *,
        max_bytes: int = MAX_BYTES,
        max_age_s: float | None = None,
        only_deterministic: bool = True,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(only_deterministic=only_deterministic)
        validate_limits(max_bytes, max_age_s)
        self._path = path
        self._home: Path | None = None
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._sleep = sleep
        self._lookups: SingleFlight[bytes | None] = SingleFlight()
        self._claims: dict[str, str] = {}
        self._listeners: list[Callable[[Event], None]] = []
        self._client = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._past: CacheHistory | None = None
        self._lacks_sqlite = False

    @property
    def path(self) -> Path:
        """The file."""
        return (
            Path(self._path).expanduser() if self._path else Paths.from_home(self._home).cache_file
        )

    async def get(self, key: str) -> bytes | None:
        """The answer kept under a key, if there is one. Who asks at the same time asks once."""
        return await self._lookups.run(key, lambda: self._ask(lambda db: db.get(key), None))

    async def put(self, key: str, answer: bytes, *, model: str) -> bool:
        """Keep an answer; whether it was."""
        kept = await self._ask(lambda db: db.put(key, answer, model), otherwise=False)
        if kept:
            self._end_claims(key)
        return kept

    async def clear(self) -> int:
        """Forget every answer, those in files that were set aside too; how many there were.

        Raises:
            ConfigurationError: The file cannot be used.
        """
        return await self._on_shelf(lambda shelf: shelf.clear())

    async def stats(self) -> CacheStats:
        """What the file holds, and how all programs used it since it was made.

        Asked before anything else, it only reads the file, and makes none.

        Raises:
            ConfigurationError: The file cannot be used.
        """
        return await self._on_shelf(lambda shelf: shelf.stats())

    async def models(self) -> dict[str, tuple[int, int]]:
        """Answers, and the bytes that they take, by the models that gave them.

        Raises:
            ConfigurationError: The file cannot be used.
        """
        return await self._on_shelf(lambda shelf: shelf.models())

    @asynccontextmanager
    async def lock(self, key: str) -> AsyncGenerator[bytes | None]:
        """See `ResponseCache.lock`. Waits for another program's answer, as long as that lives."""
        token = secrets.token_hex(8)
        self._claims[token] = key
        try:
            made = await self._wait_for(key, token)
            if made is not None:
                self._end_claims(key)
                yield made
                return
            async with self._renewed(token):
                yield None
        finally:
            if self._claims.pop(token, None) is not None:
                await self._ask(lambda db: db.release(token), None)

    def bind(self, home: Path | None, tell: Callable[[Event], None]) -> None:
        """See `ResponseCache.bind`. Of several clients the first one's home counts."""
        if not self._listeners:
            self._home = home
        self._listeners.append(tell)

    def unbind(self, tell: Callable[[Event], None]) -> None:
        """See `ResponseCache.unbind`."""
        if tell in self._listeners:
            self._listeners.remove(tell)

    async def close(self) -> None:
        """Close the file, and end the thread. The next use opens it again."""
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            await worker.close()
            self._submit(worker)

    def _end_claims(self, key: str) -> None:
        """The answer is here: the claims on it have ended."""
        for token in [token for token, claimed in self._claims.items() if claimed == key]:
            del self._claims[token]

    async def _wait_for(self, key: str, token: str) -> bytes | None:
        """The answer that another program makes; None if it is this one's turn."""
        wait_s = FIRST_WAIT_S
        while True:
            found = await self._ask(lambda db: db.claim(key, token, LEASE_S), None)
            if found is None or isinstance(found, bytes):
                return found
            if wait_s == FIRST_WAIT_S:
                who = f"{found.program} (pid {found.pid})"
                log.info("waiting for %s, which is asking the same", who)
            await self._sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    @asynccontextmanager
    async def _renewed(self, token: str) -> AsyncGenerator[None]:
        """Keep a claim while inside."""
        renewing = asyncio.create_task(self._renew(token))
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.wait({renewing})

    async def _renew(self, token: str) -> None:
        while True:
            await self._sleep(LEASE_S / 3)
            await self._ask(lambda db: db.renew(token, LEASE_S), None)

    async def _ask(self, question: Callable[[CacheDatabase], _T], otherwise: _T) -> _T:
        """What the file says, or something else if it cannot be used."""
        try:
            return await self._on_shelf(lambda shelf: shelf.query(question, otherwise))
        except ConfigurationError as error:  # a Python without SQLite
            level = logging.DEBUG if self._lacks_sqlite else logging.WARNING
            self._lacks_sqlite = True
            log.log(level, "calls go on without a cache: %s", error)
            return otherwise

    async def _on_shelf(self, question: Callable[[ResilientDatabase], _T]) -> _T:
        with self._lock:
            worker = self._worker = self._worker or Worker(self._open_shelf)
        try:
            return await worker.run(question)
        finally:
            self._submit(worker)

    def _submit(self, worker: Worker) -> None:
        """Tell what went wrong in the thread, outside of it."""
        while worker.troubles:
            trouble = worker.troubles.popleft()
            for tell in self._listeners:
                tell(trouble)

    def _open_shelf(self, troubles: deque[CacheTrouble]) -> ResilientDatabase:
        try:
            # SQLite and psutil, which a client without such a cache does without.
            from foundry_api.core.cache.database import CacheLimits  # noqa: PLC0415
            from foundry_api.core.cache.file import CacheHistory, ResilientDatabase  # noqa: PLC0415
            from foundry_api.core.residency.usage_db import ClientProcess  # noqa: PLC0415
        except ImportError as error:
            raise ConfigurationError(
                f"this Python has no SQLite: {error}", hint="Use a MemoryCache."
            ) from error
        owner = ClientProcess.current(self._client, program_name(sys.argv))
        bounds = CacheLimits(self._max_bytes, self._max_age_s)
        past = self._past = self._past or CacheHistory()
        return ResilientDatabase(self.path, bounds, owner, past, troubles.append)
