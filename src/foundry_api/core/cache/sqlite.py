"""A response cache in a SQLite file, which outlives the program and can be shared."""

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
from foundry_api.core.residency.coordination import get_program_name
from foundry_api.resilience.single_flight import SingleFlight
from foundry_api.storage.paths import Paths
from foundry_api.types.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from foundry_api.core.cache.database import CacheDatabase
    from foundry_api.core.cache.file import CacheHistory, ResilientDatabase
    from foundry_api.types.events import CacheTrouble, Event

__all__ = ["SqliteCache", "Worker"]

_T = TypeVar("_T")  # the result of a query

log = logging.getLogger("foundry_api")

MAX_BYTES = 512 * 2**20
LEASE_S = 15.0  # a claim that is not renewed for this long is void

# Seconds between two checks for the answer of another program. Each wait is twice the one before.
FIRST_WAIT_S = 0.01
MAX_WAIT_S = 0.25


class SqliteCache(ResponseCache):
    """Caches answers in a SQLite file, and removes the least recently used first.

    Programs can share the file. If several of them need the same answer at the same time, one calls
    the service and the others wait for its answer. If it dies, another one takes over.

    **The file holds the answers in plain text** (compressed), readable only by this user (0600).
    Of the prompts it holds only hashes.

    Problems with the file do not fail calls. A damaged file, or one of another version, is renamed
    to `NAME.damaged-N` or `NAME.format-N` and replaced. If the file cannot be written, or is
    something else, such as a text file, a link or the database of another program, it is left
    unchanged and calls continue without a cache. Each problem is logged once and reported as
    `CacheTrouble`. All work on the file is done in one thread, which `close` ends.

    Args:
        path: The file, on a local disk. Default: `answers.db` in the `cache` directory of the
            client's home, else in the platform's cache directory.
        max_bytes: Maximum size of the compressed answers, at about ten bytes per token. The file
            is a little larger. A larger answer is not stored. Default: 512 MiB.
        max_age_s: Seconds after which an answer expires. Default: never.
        only_deterministic: See `ResponseCache`.
        sleep: Waits for a number of seconds, for tests.

    Raises:
        ConfigurationError: A limit is not above 0.
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
        self._claims: dict[str, str] = {}  # keys by token
        self._listeners: list[Callable[[Event], None]] = []
        self._client = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._history: CacheHistory | None = None
        self._has_warned_of_sqlite = False

    @property
    def path(self) -> Path:
        """The file."""
        if self._path:
            return Path(self._path).expanduser()
        return Paths.from_home(self._home).cache_file

    async def get(self, key: str) -> bytes | None:
        """Return the answer stored under a key, or None."""
        # Concurrent lookups of the same key share one query.
        return await self._lookups.run(key, lambda: self._query(lambda db: db.get(key), None))

    async def put(self, key: str, answer: bytes, *, model: str) -> bool:
        """Store an answer. Return whether it was stored."""
        is_stored = await self._query(lambda db: db.put(key, answer, model), default=False)
        if is_stored:
            self._drop_claims(key)
        return is_stored

    async def clear(self) -> int:
        """Delete all answers, also in files that were set aside. Return the number of answers.

        Raises:
            ConfigurationError: The file cannot be used.
        """
        return await self._run(lambda database: database.clear())

    async def stats(self) -> CacheStats:
        """Return the statistics of all programs since the file was created.

        Before the first use of the cache, this neither creates nor changes the file.

        Raises:
            ConfigurationError: The file cannot be used.
        """
        return await self._run(lambda database: database.stats())

    async def models(self) -> dict[str, tuple[int, int]]:
        """Return the number of answers and their size in bytes by model id.

        Raises:
            ConfigurationError: The file cannot be used.
        """
        return await self._run(lambda database: database.models())

    @asynccontextmanager
    async def lock(self, key: str) -> AsyncGenerator[bytes | None]:
        """As `ResponseCache.lock`. Waits for the answer of another program while that is alive."""
        token = secrets.token_hex(8)
        self._claims[token] = key
        try:
            answer = await self._wait_for_answer(key, token)
            if answer is not None:
                self._drop_claims(key)
                yield answer
                return
            renewal = asyncio.create_task(self._renew_claim(token))
            try:
                yield None
            finally:
                renewal.cancel()
                await asyncio.wait({renewal})
        finally:
            # `put` has released the claim in its own transaction; this is for calls that failed.
            if self._claims.pop(token, None) is not None:
                await self._query(lambda db: db.release(token), None)

    def bind(self, home: Path | None, on_event: Callable[[Event], None]) -> None:
        """Called when a client starts to use the cache. The `home` of the first client counts."""
        if not self._listeners:
            self._home = home
        self._listeners.append(on_event)

    def unbind(self, on_event: Callable[[Event], None]) -> None:
        """Called when a client no longer uses the cache."""
        if on_event in self._listeners:
            self._listeners.remove(on_event)

    async def close(self) -> None:
        """Close the file and end the thread. The next use opens it again."""
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            await worker.aclose()
            self._report_troubles(worker)

    def _drop_claims(self, key: str) -> None:
        for token in [token for token, claimed in self._claims.items() if claimed == key]:
            del self._claims[token]

    async def _wait_for_answer(self, key: str, token: str) -> bytes | None:
        """Return the answer that another program makes, or None once the claim is granted."""
        wait_s = FIRST_WAIT_S
        while True:
            found = await self._query(lambda db: db.claim(key, token, LEASE_S), None)
            if found is None or isinstance(found, bytes):
                return found
            if wait_s == FIRST_WAIT_S:
                program = f"{found.program} (pid {found.pid})"
                log.info("waiting for the answer of %s, which makes the same call", program)
            await self._sleep(wait_s)
            wait_s = min(2 * wait_s, MAX_WAIT_S)

    async def _renew_claim(self, token: str) -> None:
        while True:
            await self._sleep(LEASE_S / 3)
            await self._query(lambda db: db.renew(token, LEASE_S), None)

    async def _query(self, query: Callable[[CacheDatabase], _T], default: _T) -> _T:
        """Run a query. Return the default if the file cannot be used."""
        try:
            return await self._run(lambda database: database.query(query, default))
        except ConfigurationError as error:  # a Python without SQLite
            level = logging.DEBUG if self._has_warned_of_sqlite else logging.WARNING
            self._has_warned_of_sqlite = True
            log.log(level, "calls continue without a cache: %s", error)
            return default

    async def _run(self, query: Callable[[ResilientDatabase], _T]) -> _T:
        with self._lock:
            worker = self._worker = self._worker or Worker(self._open_database)
        try:
            return await worker.run(query)
        finally:
            self._report_troubles(worker)

    def _report_troubles(self, worker: Worker) -> None:
        # Listeners are called here, on the event loop, and not in the thread of the worker.
        while worker.troubles:
            trouble = worker.troubles.popleft()
            for on_event in self._listeners:
                on_event(trouble)

    def _open_database(self, troubles: deque[CacheTrouble]) -> ResilientDatabase:
        try:
            # They import SQLite and psutil, which clients without such a cache don't need.
            from foundry_api.core.cache.database import CacheLimits  # noqa: PLC0415
            from foundry_api.core.cache.file import CacheHistory, ResilientDatabase  # noqa: PLC0415
            from foundry_api.core.residency.usage_db import ClientProcess  # noqa: PLC0415
        except ImportError as error:
            raise ConfigurationError(
                f"this Python has no SQLite: {error}", hint="Use a MemoryCache."
            ) from error
        client = ClientProcess.current(self._client, get_program_name(sys.argv))
        limits = CacheLimits(self._max_bytes, self._max_age_s)
        history = self._history = self._history or CacheHistory()
        return ResilientDatabase(self.path, limits, client, history, troubles.append)


class Worker:
    """Runs queries one after another in a thread, in which the database is opened."""

    def __init__(self, open_database: Callable[[deque[CacheTrouble]], ResilientDatabase]) -> None:
        self.troubles: deque[CacheTrouble] = deque()  # written by the thread, read by the loop
        self._open_database = open_database
        self._database: ResilientDatabase | None = None
        self._thread = ThreadPoolExecutor(1, "foundry-api-cache")

    async def run(self, query: Callable[[ResilientDatabase], _T]) -> _T:
        """Run a query. If the caller is cancelled, it still waits the milliseconds to its end."""

        def run_query() -> _T:
            if self._database is None:
                self._database = self._open_database(self.troubles)
            return query(self._database)

        return await self._submit(run_query)

    async def aclose(self) -> None:
        """Close the file and end the thread."""

        def close_database() -> None:
            if self._database is not None:
                self._database.close()

        try:
            await self._submit(close_database)
        finally:
            self._thread.shutdown()  # the thread is idle, so this takes microseconds

    async def _submit(self, work: Callable[[], _T]) -> _T:
        future = asyncio.wrap_future(self._thread.submit(work))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait((future,))
            if not future.cancelled():
                future.exception()  # retrieve it, or asyncio would log that nothing did
            raise
