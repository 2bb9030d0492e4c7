"""The keys in memory, where every request looks its token up.

A thread looks for changes of the database twice a second. While the database cannot be read, the
keys in memory serve on, and `problem` says why.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from foundry_api.gateway.keys.clock import ForwardClock, LatestTime
from foundry_api.gateway.keys.database import KeyReader
from foundry_api.gateway.keys.errors import KeyStorageFailed
from foundry_api.gateway.keys.token import TokenHasher, may_be_token
from foundry_api.types.errors import FoundryError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from collections.abc import Set as AbstractSet

    from foundry_api.gateway.keys.database import KeyDatabase, KeySnapshot
    from foundry_api.gateway.keys.types import ApiKey

__all__ = ["Keyring"]

# Changes act within 1 s.
POLL_S = 0.5
# A clock that is behind the latest time by more than this was set back, or was ahead.
CLOCK_TOLERANCE_S = 60.0

_T = TypeVar("_T")

log = logging.getLogger("foundry_api")


class _Entry(NamedTuple):
    key: ApiKey
    ends_at: float
    grace_until: float


class Keyring:
    """Finds the key of a token. Use it on the event loop that opened it.

    Args:
        database: Where the keys are.
        on_revoked: Called on the event loop with the ids of keys that were revoked or removed, that
            have expired, or whose earlier tokens were ended before their time. Their running calls
            are to be ended.
        wall_clock: Seconds since the epoch.
        monotonic: Seconds that only increase.
        sleep: Waits between two looks for changes.

    Attributes:
        now: Returns seconds since the epoch, which never go back, also not by a restart.
    """

    def __init__(
        self,
        database: KeyDatabase,
        *,
        on_revoked: Callable[[AbstractSet[str]], None],
        wall_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._database = database
        self._reader = KeyReader(database)
        self._on_revoked = on_revoked
        self._wall_clock = wall_clock
        self.now = ForwardClock(wall_clock, monotonic)
        self._latest_time = LatestTime(database.path.parent)
        self._stored_time = 0.0
        self._next_end = math.inf  # of a token whose end is not before the stored time
        self._clock_problem: str | None = None
        # Keys that expired until the first moment were reported; none expires before the second.
        self._expired_until = self._next_expiry = -math.inf
        self._sleep = sleep
        self._thread = ThreadPoolExecutor(1, "foundry-api-keys")
        self._hasher: TokenHasher | None = None
        self._revision: tuple[int, int] | None = None
        self._entries: dict[bytes, _Entry] = {}
        self._keys: tuple[ApiKey, ...] = ()
        self._had_keys = False
        self._changes = 0
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """Why the database cannot be read, or the time not be stored; None if they can."""
        return self._problem or self._clock_problem

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """All keys, also those that are expired or revoked."""
        return self._keys

    @property
    def revision(self) -> int:
        """How often the keys were read because they had changed."""
        return self._changes

    @property
    def requires_key(self) -> bool:
        """Whether requests need a key. Removing the last key does not open the gateway."""
        return self._had_keys

    async def open(self) -> None:
        """Read the keys; raises KeyStorageFailed or ConfigurationError if that is impossible."""
        await self._run(self._read_time)
        self.now.start_at(self._stored_time)
        behind_s = self._stored_time - self._wall_clock()
        if behind_s > CLOCK_TOLERANCE_S:
            log.warning(
                "the clock of the system is %.0f s behind a time that this gateway has seen; keys "
                "expire by the later one. If that was wrong, delete %s and restart",
                behind_s,
                self._latest_time.path,
            )
        self._expired_until = self.now()
        await self._refresh()
        await self._store_time()

    def find(self, token: str) -> ApiKey | None:
        """Return the key of a token; None if it is malformed, unknown, expired or revoked."""
        digest = self.compute_digest(token)
        return None if digest is None else self.find_by_digest(digest)

    def find_by_digest(self, digest: bytes) -> ApiKey | None:
        """Return the key of the token with a digest; None if it is unknown, expired or revoked."""
        entry = self._entries.get(digest)
        return entry.key if entry is not None and self.now() < entry.ends_at else None

    def compute_digest(self, token: str) -> bytes | None:
        """Return the digest under which a token is stored; None if it is malformed."""
        if self._hasher is None or not may_be_token(token):
            return None
        return self._hasher.digest(token)

    async def watch(self) -> None:
        """Notice changes of the database until cancelled."""
        # Budgets whose period has ended are dropped at a start, which must not happen twice.
        self._next_end = -math.inf
        await self._store_time()
        while True:
            await self._sleep(POLL_S)
            await self.reload()

    async def reload(self) -> None:
        """Read the keys again, if they have changed; a failure is logged and kept in `problem`."""
        try:
            await self._refresh()
        except FoundryError as error:
            if self._problem is None:  # one message for each series of failures
                log.warning("keys that change are not noticed: %s", error)
            self._problem = str(error)
        else:
            if self._problem is not None:
                log.warning("the keys in %s can be read again", self._database.path)
            self._problem = None
        self._report_expired()
        await self._store_time()

    async def change(self, change: Callable[[KeyDatabase], _T]) -> _T:
        """Change the database, and use the keys as they are then.

        Raises:
            FoundryError: As the method of the database.
        """
        result = await self._run(change, self._database)
        await self.reload()
        return result

    async def close(self) -> None:
        """Close the database. Keys are still found."""
        await self._run(self._reader.close)
        self._thread.shutdown(wait=False)

    async def _refresh(self) -> None:
        # The revision is passed, not kept by the reader: if this task is cancelled while the thread
        # reads, the next one reads the same change.
        change = await self._run(self._read, self._revision)
        if change is None:
            return
        self._revision, snapshot, entries = change
        self._hasher = snapshot.hasher
        self._keys = tuple(snapshot.keys.values())
        if self._keys and not self._had_keys:
            self._had_keys = True
            if self._changes:  # the start said that none is needed
                log.warning("the first key was created: from now on, every request needs one")
        self._changes += 1
        earlier, self._entries = self._entries, entries
        self._next_end = self._find_next_end()
        self._next_expiry = self._find_next_expiry()
        now = self.now()
        revoked = {
            earlier[digest].key.id
            for digest in earlier.keys() - entries.keys()
            if earlier[digest].grace_until > now
        }
        if revoked:
            self._on_revoked(revoked)

    def _report_expired(self) -> None:
        """Report the keys that have expired since the last time."""
        now = self.now()
        if now < self._next_expiry:
            return
        expired = {
            entry.key.id
            for entry in self._entries.values()
            if self._expired_until < (entry.key.expires_at or -math.inf) <= now
        }
        self._expired_until = now
        self._next_expiry = self._find_next_expiry()
        if expired:
            self._on_revoked(expired)

    def _find_next_expiry(self) -> float:
        ends = (entry.key.expires_at for entry in self._entries.values())
        return min(
            (end for end in ends if end is not None and end > self._expired_until),
            default=math.inf,
        )

    async def _store_time(self) -> None:
        """Store the time if a token has ended since the stored one, so that it stays ended."""
        now = self.now()
        if now < self._next_end:
            return
        try:
            await self._run(self._latest_time.write, now)
        except OSError as error:
            if self._clock_problem is None:
                log.warning("%s is not written: %s", self._latest_time.path, error)
            self._clock_problem = f"{self._latest_time.path} cannot be written: {error}"
        else:
            self._stored_time, self._clock_problem = now, None
            self._next_end = self._find_next_end()

    def _find_next_end(self) -> float:
        ends = (entry.ends_at for entry in self._entries.values())
        return min((end for end in ends if end > self._stored_time), default=math.inf)

    def _read_time(self) -> None:
        try:
            self._stored_time = self._latest_time.read()
        except OSError as error:
            raise KeyStorageFailed(
                f"{self._latest_time.path} cannot be read: {error.strerror}"
            ) from error

    async def _run(self, function: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _read(
        self, known: tuple[int, int] | None
    ) -> tuple[tuple[int, int], KeySnapshot, dict[bytes, _Entry]] | None:
        change = self._reader.read(known)
        if change is None:
            return None
        revision, snapshot = change
        return revision, snapshot, _make_entries(snapshot)


def _make_entries(snapshot: KeySnapshot) -> dict[bytes, _Entry]:
    entries: dict[bytes, _Entry] = {}
    for stored in snapshot.digests:
        key = snapshot.keys[stored.key_id]
        expires_at = math.inf if key.expires_at is None else key.expires_at
        grace_until = math.inf if stored.until is None else stored.until
        # Revoking a key deletes its digests too.
        if key.revoked_at is None:
            entries[stored.digest] = _Entry(key, min(expires_at, grace_until), grace_until)
    return entries
