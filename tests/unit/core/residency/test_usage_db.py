"""Several clients and one file, with processes that live and die at the test's word."""

from __future__ import annotations

import os
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from foundry_api.core.residency import usage_db
from foundry_api.core.residency.usage_db import (
    ClientProcess,
    DatabaseUnavailable,
    Lease,
    ModelUsageDb,
)
from foundry_api.types.models import Model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HERE, ELSEWHERE = "127.0.0.1:1", "127.0.0.1:2"
DEMO = Model(id="demo:1", alias="demo", catalog="local", cached=True, loaded=True, size_mb=3)


@dataclass
class World:
    """A clock, and who is dead."""

    path: Path
    now: float = 1000.0
    dead: set[str] = field(default_factory=set)

    def client(self, name: str) -> ModelUsageDb:
        process = ClientProcess(
            client_id=name, program=f"{name}.py", pid=len(name), create_time=1.0
        )
        return ModelUsageDb(
            self.path,
            process,
            monotonic=lambda: self.now,
            is_alive=lambda other: other.client_id not in self.dead,
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "state" / "uses.db")


def users(client: ModelUsageDb, service: str = HERE, model: str = "demo:1") -> list[str]:
    return [user.program for user in client.list_users(service, model)]


def unload(client: ModelUsageDb, token: str = "t", quiet_s: float | None = 0.0) -> Lease:  # noqa: S107 - names a lease
    return client.lease(HERE, "demo:1", "unload", token, for_s=100, quiet_s=quiet_s)


def test_a_claim_is_seen_by_others_and_not_by_its_owner(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    assert a.claim(HERE, "demo:1", 60) is None
    assert (users(a), users(b)) == ([], ["a.py"])
    assert users(b, ELSEWHERE) == users(b, HERE, "other:1") == []


def test_a_claim_lapses(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    a.claim(HERE, "demo:1", 60)
    world.now += 59
    assert [user.last_used_s for user in b.list_users(HERE, "demo:1")] == [59]
    world.now += 1
    assert users(b) == []
    assert unload(b).token


def test_a_claim_is_renewed_from_its_last_use(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    a.claim(HERE, "demo:1", 60)
    world.now += 50
    assert a.renew(HERE, [("demo:1", 1040.0)], 60) == set()
    world.now = 1099.0
    assert users(b) == ["a.py"]
    world.now = 1100.0
    assert users(b) == []


def test_a_claim_that_lapsed_is_not_renewed_as_the_model_may_be_gone(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    a.claim(HERE, "demo:1", 60)
    world.now += 60
    assert a.renew(HERE, [("demo:1", world.now)], 60) == {"demo:1"}
    assert a.renew(HERE, [("never:1", world.now)], 60) == {"never:1"}
    assert users(b) == []


def test_a_model_that_was_unloaded_is_used_by_nobody(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    a.claim(HERE, "demo:1", 60)
    b.record_loaded(HERE, DEMO, 60)
    b.record_unloaded(HERE, "demo:1")
    assert a.renew(HERE, [("demo:1", world.now)], 60) == {"demo:1"}
    assert a.list_known_models(HERE) == {}


@pytest.mark.parametrize("way", ["killed", "left"])
def test_a_client_that_is_gone_uses_nothing(world: World, way: str) -> None:
    a, b = world.client("a"), world.client("b")
    a.claim(HERE, "demo:1", 60)
    assert unload(a).token
    if way == "killed":
        world.dead.add("a")
    else:
        a.unregister()
    assert users(b) == []
    assert unload(b).token


def test_a_model_that_others_use_is_not_leased_for_unloading(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    a.claim(HERE, "demo:1", 60)
    world.now += 7
    refused = unload(b)
    assert refused.token is None
    assert [str(user) for user in refused.users] == ["a.py (pid 1), last 7 s ago"]
    assert unload(b, quiet_s=None).token
    assert unload(a).holder


def test_idleness_heeds_uses_that_lapsed(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    a.claim(HERE, "demo:1", 60)
    world.now += 200
    assert unload(b, quiet_s=300).users
    assert unload(b, quiet_s=100).token


def test_who_unloads_keeps_claims_out_until_it_is_done(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    assert unload(a).token
    holder = b.claim(HERE, "demo:1", 60)
    assert holder
    assert holder.program == "a.py"
    assert b.claim(HERE, "other:1", 60) is None
    assert b.claim(ELSEWHERE, "demo:1", 60) is None
    a.release("t")
    assert b.claim(HERE, "demo:1", 60) is None


def test_who_loads_keeps_no_claim_out(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    assert a.lease(HERE, "demo:1", "load", "t", for_s=100).token
    assert b.claim(HERE, "demo:1", 60) is None
    assert b.lease(HERE, "demo:1", "load", "u", for_s=100).holder


def test_a_lease_lapses_and_only_its_own_token_gives_it_back(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    assert unload(a, "first").token
    a.release("another")
    assert unload(b).holder
    world.now += 100
    assert unload(b, "second").token
    a.release("first")
    assert unload(a).holder


def test_a_lease_that_a_client_could_not_give_back_does_not_shut_itself_out(world: World) -> None:
    a = world.client("a")
    assert unload(a, "lost").token
    assert unload(a, "next").token
    assert a.claim(HERE, "demo:1", 60) is None


def test_what_was_loaded_is_known_with_its_last_use_by_anybody(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    a.record_loaded(HERE, DEMO, 60)
    a.unregister()
    world.now += 100
    b.claim(HERE, "demo:1", 60)
    world.now += 5
    (known,) = world.client("c").list_known_models(HERE).values()
    assert known.model == DEMO
    assert known.last_used == 1100.0
    assert [user.program for user in known.users] == ["b.py"]
    assert b.list_known_models(ELSEWHERE) == {}


def test_what_was_loaded_before_the_machine_started_anew_is_not_known(world: World) -> None:
    a = world.client("a")
    a.record_loaded(ELSEWHERE, DEMO, 60)
    world.now = 3.0
    a.record_loaded(HERE, DEMO, 60)
    assert a.list_known_models(ELSEWHERE) == {}
    assert a.list_known_models(HERE)


def test_only_so_many_loaded_models_are_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_db, "MAX_KNOWN_MODELS", 3)
    a = world.client("a")
    for port in range(5):
        world.now += 1
        a.record_loaded(f"127.0.0.1:{port}", DEMO, 60)
    assert [bool(a.list_known_models(f"127.0.0.1:{port}")) for port in range(5)] == [
        False,
        False,
        *[True] * 3,
    ]


def test_of_many_that_ask_at_once_one_gets_the_lease(world: World) -> None:
    clients = [world.client(f"client-{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(unload, clients))
    assert len([lease for lease in leases if lease.token]) == 1


def test_of_many_that_make_the_file_at_once_none_is_refused(tmp_path: Path) -> None:
    """SQLite refuses, without any wait, one of two that turn on write-ahead logging at once."""
    with ThreadPoolExecutor(8) as threads:
        for attempt in range(100):
            world = World(tmp_path / f"{attempt}.db")
            clients = [world.client(f"client-{number}") for number in range(8)]
            told = list(threads.map(lambda each: each.list_users(HERE, "demo:1"), clients))
            assert not any(told)


@pytest.mark.parametrize("content", [b"this is no database at all" * 50, b"SQLite format 3\0" * 99])
def test_a_damaged_file_is_set_aside(
    world: World, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    world.path.parent.mkdir()
    world.path.write_bytes(content)
    a, b = world.client("a"), world.client("b")
    a.claim(HERE, "demo:1", 60)
    assert users(b) == ["a.py"]
    assert world.path.with_name("uses.db.damaged-1").read_bytes() == content
    assert len(caplog.records) == 1


def test_one_damaged_file_is_set_aside_once(world: World) -> None:
    world.path.parent.mkdir()
    world.path.write_bytes(b"this is no database at all" * 50)
    clients = [world.client(f"client-{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(lambda client: client.claim(HERE, "demo:1", 60), clients))
    assert len(users(world.client("last"))) == 8


def test_damage_behind_a_whole_header_is_found_by_who_hits_it(world: World) -> None:
    a = world.client("a")
    a.claim(HERE, "demo:1", 60)
    content = bytearray(world.path.read_bytes())
    content[4096:] = b"x" * (len(content) - 4096)
    world.path.write_bytes(content)
    with pytest.raises(DatabaseUnavailable, match="malformed"):
        a.claim(HERE, "demo:1", 60)
    assert a.claim(HERE, "demo:1", 60) is None
    assert users(world.client("b")) == ["a.py"]


def test_a_file_of_another_version_is_left_alone(world: World) -> None:
    world.client("a").claim(HERE, "demo:1", 60)
    db = sqlite3.connect(world.path)
    db.execute("pragma user_version = 2")
    db.close()
    with pytest.raises(DatabaseUnavailable, match="format 2"):
        world.client("a").claim(HERE, "demo:1", 60)


def in_the_way(path: Path) -> None:
    path.parent.write_text("a file where the directory should be", encoding="utf-8")


def a_directory(path: Path) -> None:
    path.mkdir(parents=True)


@pytest.mark.parametrize("obstacle", [in_the_way, a_directory])
def test_a_place_that_cannot_be_used_is_said(
    world: World, obstacle: Callable[[Path], None]
) -> None:
    obstacle(world.path)
    with pytest.raises(DatabaseUnavailable, match=r"uses\.db"):
        world.client("a").claim(HERE, "demo:1", 60)


def test_who_waits_for_another_write_too_long_gives_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_db, "BUSY_S", 0.05)
    world.client("a").claim(HERE, "demo:1", 60)
    db = sqlite3.connect(world.path, isolation_level=None)
    db.execute("begin immediate")
    with pytest.raises(DatabaseUnavailable, match="locked"):
        world.client("a").claim(HERE, "demo:1", 60)
    db.close()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
def test_only_this_user_can_read_it(world: World) -> None:
    client = world.client("a")
    client.claim(HERE, "demo:1", 60)
    with client._transaction():
        files = list(world.path.parent.iterdir())
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(world.path.parent.stat().st_mode) == 0o700


def test_a_client_of_this_process_lives() -> None:
    assert ClientProcess.current("a", "tests").is_alive
    assert not ClientProcess("a", "tests", os.getpid(), 1.0).is_alive
