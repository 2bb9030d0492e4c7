"""The SQLite database of a cache that programs share.

A claim marks an answer that a program is about to make, so that the others wait for it. Ages use
the wall clock. Claims use `time.monotonic`, which all processes of a machine share.
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

BUSY_MS = 1000  # how long a write waits for the write of another process, which takes 1 ms

# After a write has waited in vain, none waits for this long: the other process may be suspended in
# the middle of its write.
BUSY_BACKOFF_S = 10.0

FLUSH_AFTER = 100  # hits whose time of use is buffered, so that a hit needs no write
EVICT_TO = 0.9  # an eviction makes room for several answers

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

# The application id is `foua`. It distinguishes these files from other SQLite databases.
FORMAT = FileFormat(application_id=0x666F7561, version=1, schema=SCHEMA)

COUNTS = ("hits", "misses", "stores", "evictions")


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """The limits of a cache."""

    max_bytes: int  # answers with their keys
    max_age_s: float | None


class CacheDatabase:
    """The answers and claims in an open file. Not thread-safe.

    Every method may block for some milliseconds, and may raise sqlite3.Error.
    """

    def __init__(
        self,
        database: sqlite3.Connection,
        limits: CacheLimits,
        client: ClientProcess,
        *,
        wall_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        is_alive: Callable[[ClientProcess], bool] = lambda process: process.is_alive,
    ) -> None:
        self._database = database
        self._limits = limits
        self._client = client
        self._wall_clock = wall_clock
        self._monotonic = monotonic
        self._is_alive = is_alive
        self._last_used: dict[str, float] = {}
        self._counts: Counter[str] = Counter()
        self._busy_until = 0.0

    def get(self, key: str) -> bytes | None:
        """Return the answer stored under a key, or None."""
        answer = self._find(key)
        self._counts["misses" if answer is None else "hits"] += 1
        if answer is not None:
            self._last_used[key] = self._wall_clock()
            if len(self._last_used) >= FLUSH_AFTER:
                self.flush()
        return answer

    def put(self, key: str, answer: bytes, model: str) -> bool:
        """Store an answer and release this client's claim on it.

        Return False if the answer is larger than the cache.
        """
        size = len(key) + len(answer)
        if size > self._limits.max_bytes:
            return False
        now = self._wall_clock()
        with self._transaction() as database:
            self._write_usage(database)
            self._add_count(database, "evictions", self._delete_expired(database, now))
            database.execute("delete from entries where key = ?", (key,))
            self._add_count(database, "evictions", self._make_room(database, size))
            database.execute(
                "insert into entries values (?, ?, ?, ?, ?, ?)",
                (key, model, answer, size, now, now),
            )
            self._add_count(database, "stores", 1)
            database.execute(
                "delete from claims where key = ? and client = ?", (key, self._client.client_id)
            )
        self._clear_pending()
        return True

    def claim(self, key: str, token: str, for_s: float) -> bytes | ClientProcess | None:
        """Claim an answer for `for_s` seconds.

        Returns None if the claim is granted, the answer if it is stored by now, or the client that
        holds the claim. The claim of a dead process is void.
        """
        found = self._find_answer_or_claim(key, for_s)
        if found is None:
            # Check again in a write transaction. The check before it needs no lock, and is enough
            # for the clients that poll while another one makes the answer.
            client, until = self._client, self._monotonic() + for_s
            with self._transaction() as database:
                found = self._find_answer_or_claim(key, for_s)
                if found is None:
                    database.execute(
                        "insert or replace into claims values (?, ?, ?, ?, ?, ?, ?)",
                        (
                            key,
                            token,
                            client.client_id,
                            client.program,
                            client.pid,
                            client.create_time,
                            until,
                        ),
                    )
        if isinstance(found, bytes):
            self._counts.update(hits=1, misses=-1)  # `get` has counted a miss
            self._last_used[key] = self._wall_clock()
        return found

    def renew(self, token: str, for_s: float) -> None:
        """Extend a claim."""
        with self._transaction() as database:
            until = self._monotonic() + for_s
            database.execute("update claims set until = ? where token = ?", (until, token))

    def release(self, token: str) -> None:
        """Release a claim, if it is held."""
        with self._transaction() as database:
            database.execute("delete from claims where token = ?", (token,))

    def clear(self) -> int:
        """Delete all answers, shrink the file, and return the number of answers."""
        self._last_used.clear()
        with self._transaction() as database:
            (count,) = check_row(database.execute("select entries from totals").fetchone(), int)
            database.execute("delete from entries")
        self._database.execute("vacuum")
        self._database.execute("pragma wal_checkpoint(truncate)")
        return int(count)

    def stats(self) -> CacheStats:
        """Return the statistics, with the counts of all programs since the file was created."""
        with self._transaction() as database:
            self._write_usage(database)
            self._add_count(
                database, "evictions", self._delete_expired(database, self._wall_clock())
            )
            stats = read_stats(database, self._limits, self._wall_clock())
        self._clear_pending()
        return stats

    def models(self) -> dict[str, tuple[int, int]]:
        """Return the number and the size of the answers by model id."""
        return read_models(self._database)

    def flush(self) -> None:
        """Write the buffered counts and times of use."""
        if self._last_used or self._counts:
            with self._transaction() as database:
                self._write_usage(database)
            self._clear_pending()

    def close(self) -> None:
        """Flush and close the file."""
        try:
            with suppress(sqlite3.Error):  # no answer is lost
                self.flush()
        finally:
            self._database.close()

    def _find(self, key: str) -> bytes | None:
        limit = self._get_expiry_limit(self._wall_clock())
        row = self._database.execute(
            "select answer from entries where key = ? and at > ?", (key, limit)
        ).fetchone()
        return check_row(row, bytes)[0] if row else None

    def _find_answer_or_claim(self, key: str, for_s: float) -> bytes | ClientProcess | None:
        if (answer := self._find(key)) is not None:
            return answer
        now = self._monotonic()
        row = self._database.execute(
            # A claim that ends later than any new one is from before the last boot, which restarted
            # the monotonic clock.
            "select client, program, pid, create_time from claims where key = ? and until > ? "
            "and until <= ?",
            (key, now, now + for_s),
        ).fetchone()
        if row is None:
            return None
        holder = ClientProcess(*check_row(row, str, str, int, float))
        return holder if self._is_alive(holder) else None

    def _get_expiry_limit(self, now: float) -> float:
        """Return the time before which stored answers have expired."""
        age_s = self._limits.max_age_s
        return float("-inf") if age_s is None else now - age_s

    def _delete_expired(self, database: sqlite3.Connection, now: float) -> int:
        limit = self._get_expiry_limit(now)
        return database.execute("delete from entries where at <= ?", (limit,)).rowcount

    def _make_room(self, database: sqlite3.Connection, size: int) -> int:
        """Delete the least recently used answers, if there is no room for `size` bytes."""
        (used,) = check_row(database.execute("select bytes from totals").fetchone(), int)
        if used + size <= self._limits.max_bytes:
            return 0
        excess = used + size - self._limits.max_bytes * EVICT_TO
        return database.execute(
            "delete from entries where rowid in (select rowid from (select rowid, "
            "sum(size) over (order by used, rowid) - size as before from entries) "
            "where before < ?)",
            (excess,),
        ).rowcount

    def _write_usage(self, database: sqlite3.Connection) -> None:
        database.executemany(
            "update entries set used = ? where key = ?",
            [(used, key) for key, used in self._last_used.items()],
        )
        for name, count in self._counts.items():
            self._add_count(database, name, count)

    def _clear_pending(self) -> None:
        self._last_used.clear()
        self._counts.clear()

    @staticmethod
    def _add_count(database: sqlite3.Connection, name: str, count: int) -> None:
        if count:
            database.execute(
                "insert into counts values (?, ?) on conflict (name) do update set n = n + ?",
                (name, count, count),
            )

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        database = self._database
        busy_timeout_ms = 0 if self._monotonic() < self._busy_until else BUSY_MS
        database.execute(f"pragma busy_timeout = {busy_timeout_ms}")
        try:
            # A deferred transaction would fail at its first write if another process writes.
            database.execute("begin immediate")
        except sqlite3.OperationalError:
            self._busy_until = self._monotonic() + BUSY_BACKOFF_S
            raise
        try:
            yield database
            database.execute("commit")
        except BaseException:
            if database.in_transaction:
                database.execute("rollback")
            raise


def read_stats(database: sqlite3.Connection, limits: CacheLimits, now: float) -> CacheStats:
    """Return the statistics of an open file, without expired answers."""
    if limits.max_age_s is None:
        rows = database.execute("select entries, bytes from totals")
    else:
        rows = database.execute(
            "select count(*), coalesce(sum(size), 0) from entries where at > ?",
            (now - limits.max_age_s,),
        )
    entries, size = check_row(rows.fetchone(), int, int)
    counts = dict(check_rows(database.execute("select name, n from counts"), str, int))
    known = {name: counts.get(name, 0) for name in COUNTS}
    return CacheStats(entries=entries, bytes=size, max_bytes=limits.max_bytes, **known)


def read_models(database: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    """Return the number and the size of the answers by model id, the largest first."""
    rows = database.execute(
        "select model, count(*), sum(size) from entries group by model order by 3 desc, 1"
    )
    return {model: (entries, size) for model, entries, size in check_rows(rows, str, int, int)}
