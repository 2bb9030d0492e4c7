"""Answers and claims in the database, with injected clocks and processes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from foundry_api.core.cache import database
from foundry_api.core.cache.database import CacheDatabase, CacheLimits
from foundry_api.core.cache.file import CacheFile
from foundry_api.core.residency.usage_db import ClientProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ANSWER = b"x" * 9
LEASE_S = 15.0


@dataclass
class World:
    """One file, a clock, and the dead clients."""

    path: Path
    now: float = 1000.0
    dead: set[str] = field(default_factory=set)
    open: list[CacheDatabase] = field(default_factory=list)

    def client(
        self, name: str = "a", max_bytes: int = 10_000, max_age_s: float | None = None
    ) -> CacheDatabase:
        client = CacheDatabase(
            CacheFile(self.path).open(),
            CacheLimits(max_bytes, max_age_s),
            ClientProcess(client_id=name, program=f"{name}.py", pid=len(name), create_time=1.0),
            wall_clock=lambda: self.now,
            monotonic=lambda: self.now,
            is_alive=lambda process: process.client_id not in self.dead,
        )
        self.open.append(client)
        return client


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "answers.db")
    yield world
    for client in world.open:
        client.close()


def kept(client: CacheDatabase, keys: str) -> str:
    return "".join(key for key in keys if client.get(key))


def test_stored_answer_is_found_by_another_client(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    assert b.get("k") is None
    assert a.put("k", b"one", "demo:1")
    assert b.get("k") == b"one"
    assert b.put("k", b"other", "demo:1")
    assert a.get("k") == b"other"


def test_statistics_count_all_programs(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    a.put("k", ANSWER, "demo:1")
    a.put("l", ANSWER, "demo:2")
    assert kept(b, "klm") == "kl"
    b.flush()
    stats = a.stats()
    assert (stats.hits, stats.misses, stats.stores, stats.evictions) == (2, 1, 2, 0)
    assert (stats.entries, stats.bytes, stats.max_bytes) == (2, 20, 10_000)
    assert a.models() == {"demo:1": (1, 10), "demo:2": (1, 10)}


def test_least_recently_used_are_evicted_first_and_in_groups(world: World) -> None:
    client = world.client(max_bytes=100)
    for key in "abcdefghij":
        world.now += 1
        client.put(key, ANSWER, "demo:1")
    world.now += 1
    assert client.get("a")
    client.put("k", ANSWER, "demo:1")
    assert kept(client, "abcdefghijk") == "adefghijk"  # 90 % of the room is taken again
    stats = client.stats()
    assert (stats.evictions, stats.entries, stats.bytes) == (2, 9, 90)


def test_answer_larger_than_the_cache_is_not_stored(world: World) -> None:
    client = world.client(max_bytes=100)
    client.put("a", ANSWER, "demo:1")
    assert not client.put("b", b"x" * 100, "demo:1")
    assert client.put("c", b"x" * 99, "demo:1")
    assert kept(client, "abc") == "c"


def test_totals_match_the_rows(world: World) -> None:
    client = world.client(max_bytes=200)
    for step in range(200):
        world.now += 1
        client.put(f"{step * 7 % 31}", b"x" * (step * 5 % 23), "demo:1")
        stats = client.stats()
        with closing(sqlite3.connect(world.path)) as other:
            rows = other.execute("select count(*), sum(length(key) + length(answer)) from entries")
            assert rows.fetchone() == (stats.entries, stats.bytes)
        assert stats.bytes <= 200


def test_expired_answer_is_not_returned_and_is_deleted_by_the_next_put(
    world: World,
) -> None:
    client = world.client(max_age_s=60)
    client.put("a", ANSWER, "demo:1")
    world.now += 59
    assert client.get("a")
    world.now += 1
    assert client.get("a") is None
    client.put("b", ANSWER, "demo:1")
    stats = client.stats()
    assert (stats.entries, stats.evictions) == (1, 1)


def test_client_with_a_smaller_limit_evicts_answers(world: World) -> None:
    world.client().put("a", b"x" * 500, "demo:1")
    small = world.client("b", max_bytes=100)
    small.put("b", ANSWER, "demo:1")
    assert kept(small, "ab") == "b"


def test_clear_deletes_answers_and_shrinks_the_file(world: World) -> None:
    client = world.client(max_bytes=10**7)
    client.put("a", b"secret" * 100_000, "demo:1")
    client.flush()
    assert client.clear() == 1
    assert kept(client, "a") == ""
    assert client.stats().bytes == 0
    for file in world.path.parent.iterdir():
        assert b"secret" not in file.read_bytes()
    assert world.path.stat().st_size < 100_000


def test_times_of_use_are_written_in_groups(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "FLUSH_AFTER", 3)
    a, b = world.client("a"), world.client("b")
    for key in "abc":
        a.put(key, ANSWER, "demo:1")
    world.now += 1
    assert kept(a, "ab") == "ab"
    assert b.stats().hits == 0
    assert kept(a, "c") == "c"
    assert b.stats().hits == 3


def test_one_client_at_a_time_makes_an_answer(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    assert a.claim("k", "ta", LEASE_S) is None
    holder = b.claim("k", "tb", LEASE_S)
    assert isinstance(holder, ClientProcess)
    assert holder.program == "a.py"
    assert b.claim("other", "tc", LEASE_S) is None
    a.release("ta")
    assert b.claim("k", "tb", LEASE_S) is None


def test_waiting_client_gets_the_answer(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    assert b.get("k") is None
    assert a.claim("k", "ta", LEASE_S) is None
    a.put("k", b"one", "demo:1")
    assert b.claim("k", "tb", LEASE_S) == b"one"
    stats = b.stats()
    assert (stats.hits, stats.misses) == (1, 0)


def test_claim_expires_unless_it_is_renewed(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    a.claim("k", "ta", LEASE_S)
    world.now += 10
    a.renew("ta", LEASE_S)
    world.now += 10
    assert b.claim("k", "tb", LEASE_S)
    world.now += 5
    assert b.claim("k", "tb", LEASE_S) is None
    a.release("ta")  # it was lost: this must not end the other's
    assert a.claim("k", "ta", LEASE_S)


def test_claim_of_a_dead_program_is_void(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    a.claim("k", "ta", LEASE_S)
    world.dead.add("a")
    assert b.claim("k", "tb", LEASE_S) is None


def test_claim_from_before_the_last_boot_is_void(world: World) -> None:
    """A boot restarts the monotonic clock."""
    a, b = world.client("a"), world.client("b")
    a.claim("k", "ta", LEASE_S)
    world.now = 5.0
    assert b.claim("k", "tb", LEASE_S) is None


def test_only_the_first_write_waits_for_a_suspended_process(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first timeout, writes fail at once for a while."""
    monkeypatch.setattr(database, "BUSY_MS", 50)
    client = world.client()
    client.put("k", ANSWER, "demo:1")
    with closing(sqlite3.connect(world.path, isolation_level=None)) as stuck:
        stuck.execute("begin immediate")
        for _ in range(2):
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                client.put("l", ANSWER, "demo:1")
        assert patience_ms(client) == 0
        assert client.get("k")
        world.now += database.BUSY_BACKOFF_S
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            client.put("l", ANSWER, "demo:1")
        assert patience_ms(client) == 50
    assert client.put("l", ANSWER, "demo:1")


def patience_ms(client: CacheDatabase) -> int:
    (value,) = client._database.execute("pragma busy_timeout").fetchone()
    return int(value)
