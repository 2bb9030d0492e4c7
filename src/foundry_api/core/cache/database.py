"""The answers that programs share: one SQLite file, with a claim on each answer in the making.

Every method blocks for up to some milliseconds, and all belong to one thread. Ages are seconds
since the epoch; claims are in `time.monotonic`'s, which all processes of a machine share.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_api.core.cache.base import CacheStats
from foundry_api.core.residency.usage_db import ClientProcess
from foundry_api.storage.database_files import FileFormat
from foundry_api.storage.sqlite import check_row, check_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["BUSY_MS", "FORMAT", "CacheDatabase", "CacheLimits", "read_models", "read_stats"]

BUSY_MS = 1000
"""How long a write waits for another process's, which takes a millisecond."""

BUSY_BACKOFF_S = 10.0
"""After a wait in vain nobody waits for so long: a process may have been stopped in a write."""

MOST_TOUCHED = 100
EVICT_TO = 0.9
"""When there is no room, so much of it is left taken, that the next ones need not make any."""

SCHEMA = """
create table entries (
    key text primary key, model text not null, answer blob not null, size int not null,
    at real not null, used real not null
);
create index entries_used on entries (used, size);
create index entries_at on entries (at);
create table totals (entries int not null, bytes int not null);
insert into totals values (0, 0);
create trigger entry_added after insert on entries begin
    update totals set entries = entries + 1, bytes = bytes + new.size;
end;
create trigger entry_removed after delete on entries begin
    update totals set entries = entries - 1, bytes = bytes - old.size;
end;
create table counts (name text primary key, n int not null) without rowid;
create table claims (
    key text primary key, token text, client text, program text, pid int, create_time real,
    until real
) without rowid;
"""

FORMAT = FileFormat(application_id=0x666F7561, version=1, schema=SCHEMA)
"""`foua`: tells these files from other SQLite databases."""

COUNTS = ("hits", "misses", "stores", "evictions")


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """What may be kept.

    Attributes:
        max_bytes: All answers with their keys.
        max_age_s: Age in seconds after which one is not given any more; None for never.
    """

    max_bytes: int
    max_age_s: float | None


class CacheDatabase:
    """The answers in an open file.

    Args:
        database: The open file.
        bounds: What may be kept.
        owner: This client, for its claims.
        clock: Seconds since the epoch.
        ticks: Seconds of a clock that all processes share and that never goes back.
        lives: Whether a client's process is still running.

    Raises:
        sqlite3.Error: By every method: the file is damaged, or cannot be used now.
    """

    def __init__(
        self,
        database: sqlite3.Connection,
        bounds: CacheLimits,
        owner: ClientProcess,
        *,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        lives: Callable[[ClientProcess], bool] = lambda owner: owner.is_alive,
    ) -> None:
        self._database = database
        self._bounds = bounds
        self._owner = owner
        self._clock = clock
        self._ticks = ticks
        self._lives = lives
        self._touched: dict[str, float] = {}
        self._counts: Counter[str] = Counter()
        self._stuck_until = 0.0

    def get(self, key: str) -> bytes | None:
        """The answer kept under a key, if there is one. It counts as used."""
        answer = self._find(key)
        self._counts["misses" if answer is None else "hits"] += 1
        if answer is not None:
            self._touched[key] = self._clock()
            if len(self._touched) >= MOST_TOUCHED:
                self.flush()
        return answer

    def put(self, key: str, answer: bytes, model: str) -> bool:
        """Keep an answer; whether it was. One that is larger than all the room is not.

        A claim of this client on it has served its purpose, and ends.
        """
        size = len(key) + len(answer)
        if size > self._bounds.max_bytes:
            return False
        now = self._clock()
        with self._transaction() as database:
            self._flush_stats(database)
            self._count(database, "evictions", self._expire(database, now))
            database.execute("delete from entries where key = ?", (key,))
            self._count(database, "evictions", self._evict(database, size))
            database.execute(
                "insert into entries values (?, ?, ?, ?, ?, ?)",
                (key, model, answer, size, now, now),
            )
            self._count(database, "stores", 1)
            database.execute(
                "delete from claims where key = ? and client = ?", (key, self._owner.client)
            )
        self._clear_pending()
        return True

    def claim(self, key: str, token: str, for_s: float) -> bytes | ClientProcess | None:
        """Ask to be the one who makes an answer.

        Args:
            key: Its key.
            token: Names the claim.
            for_s: Seconds after which it lapses; that of a dead process lapses at once.

        Returns:
            The answer, if it is here by now; who is making it; or None: the claim is granted.
        """
        found = self._stored_or_claimed(key, for_s)
        if found is None:  # most who wait ask in vain, and a look hinders nobody
            found = self._take(key, token, for_s)
        if isinstance(found, bytes):
            self._counts.update(hits=1, misses=-1)  # it was a miss when it was looked up
            self._touched[key] = self._clock()
        return found

    def renew(self, token: str, for_s: float) -> None:
        """Go on with a claim."""
        with self._transaction() as database:
            until = self._ticks() + for_s
            database.execute("update claims set until = ? where token = ?", (until, token))

    def release(self, token: str) -> None:
        """End a claim. One that was never granted, or has ended, is ignored."""
        with self._transaction() as database:
            database.execute("delete from claims where token = ?", (token,))

    def clear(self) -> int:
        """Forget every answer, and what they took on the disk; how many there were."""
        self._touched.clear()
        with self._transaction() as database:
            (count,) = check_row(database.execute("select entries from totals").fetchone(), int)
            database.execute("delete from entries")
        self._database.execute("vacuum")
        self._database.execute("pragma wal_checkpoint(truncate)")
        return int(count)

    def stats(self) -> CacheStats:
        """What is here, and how all programs used it since the file was made."""
        with self._transaction() as database:
            self._flush_stats(database)
            self._count(database, "evictions", self._expire(database, self._clock()))
            stats = read_stats(database, self._bounds, self._clock())
        self._clear_pending()
        return stats

    def models(self) -> dict[str, tuple[int, int]]:
        """Entries and bytes by the models that gave the answers."""
        return read_models(self._database)

    def flush(self) -> None:
        """Write down what was used."""
        if self._touched or self._counts:
            with self._transaction() as database:
                self._flush_stats(database)
            self._clear_pending()

    def close(self) -> None:
        """Write down what was used, and close the file."""
        try:
            with suppress(sqlite3.Error):  # only which were used last is lost
                self.flush()
        finally:
            self._database.close()

    def _find(self, key: str) -> bytes | None:
        oldest = self._oldest(self._clock())
        row = self._database.execute(
            "select answer from entries where key = ? and at > ?", (key, oldest)
        ).fetchone()
        return check_row(row, bytes)[0] if row else None

    def _stored_or_claimed(self, key: str, for_s: float) -> bytes | ClientProcess | None:
        if (answer := self._find(key)) is not None:
            return answer
        now = self._ticks()
        row = self._database.execute(
            # One that lapses later than any can was made before the machine was started.
            "select client, program, pid, create_time from claims where key = ? and until > ? "
            "and until <= ?",
            (key, now, now + for_s),
        ).fetchone()
        if row is None:
            return None
        holder = ClientProcess(*check_row(row, str, str, int, float))
        return holder if self._lives(holder) else None

    def _take(self, key: str, token: str, for_s: float) -> bytes | ClientProcess | None:
        owner, until = self._owner, self._ticks() + for_s
        with self._transaction() as database:
            found = self._stored_or_claimed(key, for_s)
            if found is None:
                database.execute(
                    "insert or replace into claims values (?, ?, ?, ?, ?, ?, ?)",
                    (key, token, owner.client, owner.program, owner.pid, owner.create_time, until),
                )
        return found

    def _oldest(self, now: float) -> float:
        age_s = self._bounds.max_age_s
        return float("-inf") if age_s is None else now - age_s

    def _expire(self, database: sqlite3.Connection, now: float) -> int:
        oldest = self._oldest(now)
        return database.execute("delete from entries where at <= ?", (oldest,)).rowcount

    def _evict(self, database: sqlite3.Connection, size: int) -> int:
        (taken,) = check_row(database.execute("select bytes from totals").fetchone(), int)
        if taken + size <= self._bounds.max_bytes:
            return 0
        excess = taken + size - self._bounds.max_bytes * EVICT_TO
        return database.execute(
            "delete from entries where rowid in (select rowid from (select rowid, "
            "sum(size) over (order by used, rowid) - size as before from entries) "
            "where before < ?)",
            (excess,),
        ).rowcount

    def _flush_stats(self, database: sqlite3.Connection) -> None:
        database.executemany(
            "update entries set used = ? where key = ?",
            [(used, key) for key, used in self._touched.items()],
        )
        for name, count in self._counts.items():
            self._count(database, name, count)

    def _clear_pending(self) -> None:
        self._touched.clear()
        self._counts.clear()

    @staticmethod
    def _count(database: sqlite3.Connection, name: str, count: int) -> None:
        if count:
            database.execute(
                "insert into counts values (?, ?) on conflict (name) do update set n = n + ?",
                (name, count, count),
            )

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        database = self._database
        self._begin(database)
        try:
            yield database
            database.execute("commit")
        except BaseException:
            if database.in_transaction:
                database.execute("rollback")
            raise

    def _begin(self, database: sqlite3.Connection) -> None:
        patience_ms = 0 if self._ticks() < self._stuck_until else BUSY_MS
        database.execute(f"pragma busy_timeout = {patience_ms}")
        try:
            database.execute("begin immediate")
        except sqlite3.OperationalError:
            self._stuck_until = self._ticks() + BUSY_BACKOFF_S
            raise


def read_stats(database: sqlite3.Connection, bounds: CacheLimits, now: float) -> CacheStats:
    """What is in an open file, as it was written down last.

    Args:
        database: The open file.
        bounds: Answers that are too old for them do not count.
        now: Seconds since the epoch.

    Raises:
        sqlite3.Error: The file is damaged, or cannot be used now.
    """
    if bounds.max_age_s is None:
        rows = database.execute("select entries, bytes from totals")
    else:
        rows = database.execute(
            "select count(*), coalesce(sum(size), 0) from entries where at > ?",
            (now - bounds.max_age_s,),
        )
    entries, size = check_row(rows.fetchone(), int, int)
    counts = dict(check_rows(database.execute("select name, n from counts"), str, int))
    known = {name: counts.get(name, 0) for name in COUNTS}
    return CacheStats(entries=entries, bytes=size, max_bytes=bounds.max_bytes, **known)


def read_models(database: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    """Entries and bytes by the models that gave the answers. See `read_stats`."""
    rows = database.execute(
        "select model, count(*), sum(size) from entries group by model order by 3 desc, 1"
    )
    return {model: (entries, size) for model, entries, size in check_rows(rows, str, int, int)}
