"""Several clients that share the usage file, with injected clocks and processes."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
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
from foundry_api.storage import sqlite
from foundry_api.types.models import Model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HERE, ELSEWHERE = "127.0.0.1:1", "127.0.0.1:2"
DEMO = Model(id="demo:1", alias="demo", catalog="local", cached=True, loaded=True, size_mb=3)


@dataclass
class World:
    """A clock, and the dead clients."""

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


def test_claim_is_visible_to_other_clients_only(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    assert a.claim(HERE, "demo:1", 60) is None
    assert (users(a), users(b)) == ([], ["a.py"])
    assert users(b, ELSEWHERE) == users(b, HERE, "other:1") == []


def test_claim_expires(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    a.claim(HERE, "demo:1", 60)
    world.now += 59
    assert [user.last_used_s for user in b.list_users(HERE, "demo:1")] == [59]
    world.now += 1
    assert users(b) == []
    assert unload(b).token


def test_claim_is_renewed_from_the_last_use(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    a.claim(HERE, "demo:1", 60)
    world.now += 50
    assert a.renew(HERE, [("demo:1", 1040.0)], 60) == set()
    world.now = 1099.0
    assert users(b) == ["a.py"]
    world.now = 1100.0
    assert users(b) == []


def test_expired_claim_is_not_renewed_because_the_model_may_be_unloaded(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    a.claim(HERE, "demo:1", 60)
    world.now += 60
    assert a.renew(HERE, [("demo:1", world.now)], 60) == {"demo:1"}
    assert a.renew(HERE, [("never:1", world.now)], 60) == {"never:1"}
    assert users(b) == []


def test_unloaded_model_has_no_users(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    a.claim(HERE, "demo:1", 60)
    b.record_loaded(HERE, DEMO, 60)
    b.record_unloaded(HERE, "demo:1")
    assert a.renew(HERE, [("demo:1", world.now)], 60) == {"demo:1"}
    assert a.list_known_models(HERE) == {}


@pytest.mark.parametrize("way", ["killed", "left"])
def test_dead_client_uses_nothing(world: World, way: str) -> None:
    a, b = world.client("a"), world.client("b")
    a.claim(HERE, "demo:1", 60)
    assert unload(a).token
    if way == "killed":
        world.dead.add("a")
    else:
        a.unregister()
    assert users(b) == []
    assert unload(b).token


def test_model_in_use_by_others_is_not_leased_for_unloading(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    a.claim(HERE, "demo:1", 60)
    world.now += 7
    refused = unload(b)
    assert refused.token is None
    assert [str(user) for user in refused.users] == ["a.py (pid 1), last 7 s ago"]
    assert unload(b, quiet_s=None).token
    assert unload(a).holder


def test_idle_unload_respects_expired_uses(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    a.claim(HERE, "demo:1", 60)
    world.now += 200
    assert unload(b, quiet_s=300).users
    assert unload(b, quiet_s=100).token


def test_unloading_client_blocks_claims_until_it_is_done(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    assert unload(a).token
    holder = b.claim(HERE, "demo:1", 60)
    assert holder
    assert holder.program == "a.py"
    assert b.claim(HERE, "other:1", 60) is None
    assert b.claim(ELSEWHERE, "demo:1", 60) is None
    a.release("t")
    assert b.claim(HERE, "demo:1", 60) is None


def test_loading_client_blocks_no_claim(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    assert a.lease(HERE, "demo:1", "load", "t", for_s=100).token
    assert b.claim(HERE, "demo:1", 60) is None
    assert b.lease(HERE, "demo:1", "load", "u", for_s=100).holder


def test_lease_expires_and_is_released_only_by_its_token(world: World) -> None:
    a, b = world.client("a"), world.client("b")
    assert unload(a, "first").token
    a.release("another")
    assert unload(b).holder
    world.now += 100
    assert unload(b, "second").token
    a.release("first")
    assert unload(a).holder


def test_unreleased_lease_does_not_block_its_own_client(world: World) -> None:
    a = world.client("a")
    assert unload(a, "lost").token
    assert unload(a, "next").token
    assert a.claim(HERE, "demo:1", 60) is None


def test_loaded_model_is_known_with_the_last_use_by_any_client(world: World) -> None:
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


def test_model_loaded_before_the_last_boot_is_not_known(world: World) -> None:
    a = world.client("a")
    a.record_loaded(ELSEWHERE, DEMO, 60)
    world.now = 3.0
    a.record_loaded(HERE, DEMO, 60)
    assert a.list_known_models(ELSEWHERE) == {}
    assert a.list_known_models(HERE)


def test_number_of_known_models_is_limited(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_one_of_many_concurrent_clients_gets_the_lease(world: World) -> None:
    clients = [world.client(f"client-{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(unload, clients))
    assert len([lease for lease in leases if lease.token]) == 1


def test_many_clients_can_create_the_file_concurrently(tmp_path: Path) -> None:
    """SQLite rejects one of two clients that enable write-ahead logging at once, without a wait."""
    with ThreadPoolExecutor(8) as threads:
        for attempt in range(100):
            world = World(tmp_path / f"{attempt}.db")
            clients = [world.client(f"client-{number}") for number in range(8)]
            found = list(threads.map(lambda client: client.list_users(HERE, "demo:1"), clients))
            assert not any(found)


@pytest.mark.parametrize("content", [b"this is no database at all" * 50, b"SQLite format 3\0" * 99])
def test_damaged_file_is_set_aside(
    world: World, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    world.path.parent.mkdir()
    world.path.write_bytes(content)
    a, b = world.client("a"), world.client("b")
    a.claim(HERE, "demo:1", 60)
    assert users(b) == ["a.py"]
    assert world.path.with_name("uses.db.damaged-1").read_bytes() == content
    assert len(caplog.records) == 1


def test_damaged_file_is_set_aside_by_one_client_only(world: World) -> None:
    world.path.parent.mkdir()
    world.path.write_bytes(b"this is no database at all" * 50)
    clients = [world.client(f"client-{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(lambda client: client.claim(HERE, "demo:1", 60), clients))
    assert len(users(world.client("last"))) == 8


@pytest.mark.skipif(sys.platform == "win32", reason="Windows renames and removes no open file")
def test_file_that_is_set_aside_while_it_is_checked_is_no_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two checks another client replaces the file by one that is empty at first."""
    a, b = world.client("a"), world.client("b")
    a.claim(HERE, "demo:1", 60)
    check_file = sqlite._check_application_id

    def replace_first(database: object, path: Path, file_format: object) -> None:
        monkeypatch.setattr(sqlite, "_check_application_id", check_file)
        path.rename(path.with_name("uses.db.damaged-1"))
        path.touch(mode=0o600)
        with closing(sqlite3.connect(path)) as empty:
            sqlite._check_application_id(empty, path, usage_db.FORMAT)

    monkeypatch.setattr(sqlite, "_check_application_id", replace_first)
    assert b.claim(HERE, "demo:1", 60) is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows renames and removes no open file")
def test_file_that_is_set_aside_before_it_is_opened_is_no_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another client has renamed the file and not yet created the new one."""
    create_file = sqlite.create_file

    def rename_once(path: Path) -> None:
        monkeypatch.setattr(sqlite, "create_file", create_file)
        create_file(path)
        path.rename(path.with_name("uses.db.damaged-1"))

    monkeypatch.setattr(sqlite, "create_file", rename_once)
    assert world.client("a").claim(HERE, "demo:1", 60) is None


def test_damage_after_an_intact_header_is_found_when_it_is_read(world: World) -> None:
    a = world.client("a")
    a.claim(HERE, "demo:1", 60)
    content = bytearray(world.path.read_bytes())
    content[4096:] = b"x" * (len(content) - 4096)
    world.path.write_bytes(content)
    with pytest.raises(DatabaseUnavailable, match="malformed"):
        a.claim(HERE, "demo:1", 60)
    assert a.claim(HERE, "demo:1", 60) is None
    assert users(world.client("b")) == ["a.py"]


def test_file_of_another_version_is_left_unchanged(world: World) -> None:
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
def test_unusable_path_is_reported(world: World, obstacle: Callable[[Path], None]) -> None:
    obstacle(world.path)
    with pytest.raises(DatabaseUnavailable, match=r"uses\.db"):
        world.client("a").claim(HERE, "demo:1", 60)


def test_client_gives_up_after_waiting_too_long_for_a_write(
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
def test_only_this_user_can_read_the_file(world: World) -> None:
    client = world.client("a")
    client.claim(HERE, "demo:1", 60)
    with client._transaction():
        files = list(world.path.parent.iterdir())
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(world.path.parent.stat().st_mode) == 0o700


def test_client_of_this_process_is_alive() -> None:
    assert ClientProcess.current("a", "tests").is_alive
    assert not ClientProcess("a", "tests", os.getpid(), 1.0).is_alive
