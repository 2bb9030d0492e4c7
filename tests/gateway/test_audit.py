"""The audit log: what it has, what it must not have, and its bounds."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.cli import main
from foundry_api.gateway import audit
from foundry_api.gateway.audit import AuditFile, AuditLog, AuditRecord
from foundry_api.gateway.health import list_problems
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.types import NewKey
from foundry_api.gateway.routes import ROUTES
from foundry_api.testing import FakeService
from gateway.keys.helpers import FakeClock
from gateway.serving import CHAT, call, make_body, serve

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint

ADMIN = NewKey(name="admin", scopes=frozenset({"manage", "inference"}))
CALLER = NewKey(name="caller")


def read(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / audit.FILE_NAME).read_bytes().splitlines()]


def list_files(directory: Path) -> list[Path]:
    """Return the files of the log, the newest one first."""
    paths = directory.glob(f"{audit.FILE_NAME}*")
    return sorted(path for path in paths if path.suffix != ".lock")


def make_record(**members: Any) -> AuditRecord:
    return AuditRecord(time=0.5, event="test", **members)


def run_keys(*arguments: str) -> str:
    """Run `foundry-api keys` in this process; return what it reports besides the token."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        assert main(["keys", *arguments]) == 0
    return errors.getvalue()


def append_many(directory: Path, name: str) -> None:
    file = AuditFile(directory, max_bytes=4096, max_files=100)
    for number in range(100):
        file.append([make_record(user=name, target=str(number))])


def test_every_management_action_is_recorded() -> None:
    for route in ROUTES:
        is_management = route.access == "manage" or route.path == "/api/session"
        changes_something = is_management and route.method != "GET"
        assert bool(route.action) == changes_something, route.path


async def test_management_and_failures_are_recorded(tmp_path: Path, engine: Endpoint) -> None:
    async with serve(tmp_path, engine.base_url, ADMIN, CALLER) as served:
        admin, caller = served.http, served.open_session(1)
        ids = []
        for session, path, body in (
            (admin, "/api/models/scripted/load", {}),
            (admin, "/models/load", {"model": "junk"}),
            (admin, "/api/models/junk/unload", {}),
            (admin, "/api/reload", {}),
            (caller, "/api/reload", {}),
        ):
            async with session.post(path, json=body) as response:
                ids.append(response.headers["x-request-id"])
        headers = {"Authorization": "Bearer fk_wrong"}
        async with admin.get("/v1/models", headers=headers) as response:
            ids.append(response.headers["x-request-id"])
        await call(caller, make_body("say-hello"))  # a call is no event of this log
    start, *events, stop = read(tmp_path)
    assert (start["event"], stop["event"]) == ("gateway.start", "gateway.stop")
    assert [(one["event"], one["result"], one["key"], one["target"]) for one in events] == [
        ("model.load", "ok", "admin", "scripted"),
        ("model.load", "model_not_found", "admin", "junk"),
        ("model.unload", "model_not_found", "admin", "junk"),
        ("reload", "ok", "admin", None),
        ("authentication", "insufficient_scope", "caller", "POST /api/reload"),
        ("authentication", "invalid_api_key", None, "GET /v1/models"),
    ]
    assert [one["request_id"] for one in events] == ids
    assert {one["address"] for one in events} == {"127.0.0.1"}
    assert start["time"].endswith("Z")


async def test_commands_and_the_gateway_write_the_same_file(own_home: Path) -> None:
    directory = own_home / "gateway"
    async with FakeService() as upstream, serve(directory, upstream.base_url, ADMIN):
        for arguments in (("create", "--name", "ci"), ("rotate", "ci"), ("revoke", "ci")):
            await asyncio.to_thread(run_keys, *arguments)
        await asyncio.to_thread(run_keys, "remove", "ci")
    start, *changes, stop = read(directory)
    assert (start["event"], stop["event"]) == ("gateway.start", "gateway.stop")
    assert [one["event"].removeprefix("key.") for one in changes] == [
        "create",
        "rotate",
        "revoke",
        "remove",
    ]
    for one in changes:
        assert one["user"]
        assert one["target"].startswith("ci (")


async def test_nothing_is_written_if_it_is_off(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = own_home / "gateway"
    config = {"audit_log": False}
    async with (
        FakeService() as upstream,
        serve(directory, upstream.base_url, ADMIN, config=config) as served,
    ):
        async with served.http.post("/api/reload", json={}) as response:
            assert response.status == 200
        monkeypatch.setenv("FOUNDRY_GATEWAY_AUDIT_LOG", "false")
        run_keys("revoke", "admin")
    assert list_files(directory) == []


def test_a_command_uses_the_directory_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOUNDRY_GATEWAY_DIRECTORY", str(tmp_path / "edge"))
    run_keys("create", "--name", "ci")
    assert [key.name for key in KeyDatabase(tmp_path / "edge").list()] == ["ci"]
    assert [one["event"] for one in read(tmp_path / "edge")] == ["key.create"]


def test_a_change_counts_although_it_cannot_be_recorded(own_home: Path) -> None:
    (own_home / "gateway" / audit.FILE_NAME).mkdir(parents=True)
    assert "is not written" in run_keys("create", "--name", "ci")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a\r\n{}\x1b[2J", "a\\r\\n{}\\x1b[2J"),
        ("x\u202ey\u2028z\x85", "x\\u202ey\\u2028z\\x85"),
        ("\udc80", "\\udc80"),
        ("a" * 1000, "a" * 256),
        ("key fk_01234567_abcDEF!", "key fk_…!"),
    ],
)
def test_values_are_neutralised(tmp_path: Path, text: str, written: str) -> None:
    AuditFile(tmp_path).append([make_record(target=text, key=text, user=text, address=text)])
    content = (tmp_path / audit.FILE_NAME).read_text(encoding="utf-8")
    assert content.count("\n") == 1
    [record] = read(tmp_path)
    assert [record[name] for name in ("target", "key", "user", "address")] == [written] * 4


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_other_users_cannot_read_the_files(tmp_path: Path) -> None:
    file = AuditFile(tmp_path / "gateway", max_bytes=100)
    for _ in range(3):
        file.append([make_record()])
    paths = list((tmp_path / "gateway").iterdir())
    assert len(paths) == 4  # three files and the lock
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}


def test_the_files_are_bounded(tmp_path: Path) -> None:
    file = AuditFile(tmp_path, max_bytes=1000, max_files=3)
    for number in range(100):
        file.append([make_record(target=str(number))])
    paths = list_files(tmp_path)
    assert [path.suffix for path in paths] == [".jsonl", ".1", ".2"]
    assert all(path.stat().st_size <= 1000 for path in paths)
    lines = [json.loads(line) for path in paths[::-1] for line in path.read_bytes().splitlines()]
    targets = [int(line["target"]) for line in lines]
    assert targets == list(range(100 - len(targets), 100))


def test_several_writers_lose_and_mix_no_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine, the one that has the lock may not run for longer than a second.
    monkeypatch.setattr(audit, "LOCK_TIMEOUT_S", 60.0)
    with ThreadPoolExecutor() as threads:  # the lock does not care whose file is open
        list(threads.map(append_many, (tmp_path, tmp_path), "ab"))
    lines = [
        json.loads(line) for path in list_files(tmp_path) for line in path.read_bytes().splitlines()
    ]
    assert len(lines) == 200
    for name in "ab":
        targets = sorted(int(line["target"]) for line in lines if line["user"] == name)
        assert targets == list(range(100))


def test_a_line_that_was_cut_stays_alone(tmp_path: Path) -> None:
    path = tmp_path / audit.FILE_NAME
    path.write_bytes(b'{"event":"cu')
    AuditFile(tmp_path).append([make_record()])
    cut, line = path.read_bytes().splitlines()
    assert cut == b'{"event":"cu'
    assert json.loads(line)["event"] == "test"


async def test_a_file_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    async with FakeService() as upstream, serve(tmp_path, upstream.base_url, ADMIN) as served:
        context = served.gateway.context
        path = tmp_path / audit.FILE_NAME
        await served.wait_until(path.exists)
        path.unlink()
        path.mkdir()
        async with served.http.post("/api/reload", json={}) as response:
            assert response.status == 200
        await served.wait_until(lambda: context.audit.problem is not None)
        assert (await call(served.http, make_body("hello", "fake")))[0] == 200
        assert any("cannot be written" in problem for problem in list_problems(context))
        async with served.http.get("/readyz") as response:
            assert response.status == 503
        path.rmdir()
        await served.wait_until(lambda: context.audit.problem is None)
        assert [one["event"] for one in read(tmp_path)] == ["reload"]


async def test_what_a_full_disk_drops_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_WAITING", 3)
    path = tmp_path / audit.FILE_NAME
    path.mkdir()
    log = AuditLog(AuditFile(tmp_path))
    for number in range(5):
        log.record("test", target=str(number))
    path.rmdir()
    await log.close()
    assert [(one["event"], one["target"], one["count"]) for one in read(tmp_path)] == [
        ("test", "0", 1),
        ("test", "1", 1),
        ("test", "2", 1),
        ("lost", None, 2),
    ]


async def test_failures_cannot_push_changes_out(tmp_path: Path) -> None:
    clock = FakeClock()
    log = AuditLog(AuditFile(tmp_path), monotonic=clock)
    log.record("key.revoke", target="ci")
    for number in range(2):
        for _ in range(500):
            log.record_failure(
                "invalid_api_key", address="192.0.2.1", request_id="req_1", target="GET /v1/models"
            )
        clock.now += 60
        log.record("reload", target=str(number))
    await log.close()
    records = read(tmp_path)
    failures = [one["count"] for one in records if one["event"] == "authentication"]
    assert failures == [*[1] * 120, 380, *[1] * 120, 380]
    assert records[0]["target"] == "ci"


async def test_an_address_that_is_locked_out_is_recorded_once(tmp_path: Path) -> None:
    async with FakeService() as upstream, serve(tmp_path, upstream.base_url, CALLER) as served:
        for _ in range(25):
            headers = {"Authorization": "Bearer fk_wrong"}
            async with served.http.post(CHAT, json=make_body("hello"), headers=headers) as response:
                await response.read()
    results = [one["result"] for one in read(tmp_path) if one["event"] == "authentication"]
    assert results == ["invalid_api_key"] * 20 + ["too_many_failures"]


@pytest.mark.skipif(os.name == "nt", reason="needs /dev/full")
def test_a_failed_write_leaves_the_lines_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = AuditFile(tmp_path)
    file.append([make_record(target="first")])
    import resource  # noqa: PLC0415 - POSIX only
    import signal  # noqa: PLC0415

    size = file.path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            file.append([make_record(target="second")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert file.path.stat().st_size == size
    assert [one["target"] for one in read(tmp_path)] == ["first"]
