"""The shared host, which serves all programs of a user until it is stopped or idle."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil
import pytest

from foundry_api.engine import shared, state
from foundry_api.engine.control import ControlClient
from foundry_api.engine.handshake import HostReady
from foundry_api.engine.process import HostOptions
from foundry_api.storage.lock import FileLock, LockTimeout
from foundry_api.types.errors import ConfigurationError, ServiceStartFailed
from foundry_api.wire.dialects.detect import detect_service
from service.helpers import list_hosts, start_program, wait_until, wait_until_async

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from foundry_api.storage.paths import Paths
    from foundry_api.wire.http import HttpTransport

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no file modes")

UP = """
import sys
from pathlib import Path
from foundry_api.engine import shared
from foundry_api.storage.paths import Paths
from foundry_api.engine.process import HostOptions

paths = Paths.from_home(Path(sys.argv[1]))
endpoint, before = shared.start(paths, options=HostOptions(paths=paths, models=()))
print(endpoint.pid, before)
"""


@pytest.fixture
def stopped(paths: Paths) -> Iterator[None]:
    yield
    shared.stop(paths)


def make_ready(**changes: object) -> HostReady:
    values = {
        "url": "http://127.0.0.1:1",
        "pid": os.getpid(),
        "control_url": "http://127.0.0.1:2",
        "token": "secret",
        "service_generation": "sdk-2.1",
        "sdk_version": "2.2.1",
        "log_path": "log",
        "started_at": 1.0,
        "create_time": state.get_own_create_time(),
        **changes,
    }
    return HostReady(**values)  # type: ignore[arg-type]


@pytest.mark.usefixtures("stopped")
async def test_start_find_and_stop(
    paths: Paths, home: Path, options: HostOptions, transport: HttpTransport
) -> None:
    assert shared.find_endpoint(paths) is None
    assert not shared.stop(paths)
    endpoint, before = await asyncio.to_thread(shared.start, paths, options=options)
    assert not before
    assert endpoint.origin == "shared"
    assert (await detect_service(transport, endpoint.base_url, {}, 10)).pid == endpoint.pid
    assert shared.find_endpoint(paths) == endpoint
    assert shared.start(paths, options=options) == (endpoint, True)
    assert endpoint.control
    info = await ControlClient(transport, endpoint.control).get_host_info()
    assert (info.owner_pid, info.idle_timeout_s) == (None, 1800.0)
    assert len(list_hosts(home)) == 1
    assert shared.stop(paths)
    assert not list_hosts(home)
    assert shared.find_endpoint(paths) is None
    assert not shared.stop(paths)


@pytest.mark.usefixtures("stopped")
def test_a_shared_host_outlives_the_program_that_started_it(home: Path, paths: Paths) -> None:
    with start_program(UP, str(home)) as program:
        output, errors = program.communicate(timeout=60)
    assert errors == ""
    running = shared.find_endpoint(paths)
    assert running
    assert output.split() == [str(running.pid), "False"]
    host = psutil.Process(running.pid)
    assert shared.find_endpoint(paths) == running
    assert host.is_running()


@pytest.mark.usefixtures("stopped")
def test_concurrent_starts_share_one_host(home: Path) -> None:
    programs = [start_program(UP, str(home)) for _ in range(3)]
    values: list[list[str]] = []
    for program in programs:
        with program:
            values.append(program.communicate(timeout=60)[0].split())
    assert len({pid for pid, _ in values}) == 1
    assert sorted(before for _, before in values) == ["False", "True", "True"]
    assert len(list_hosts(home)) == 1


@pytest.mark.usefixtures("stopped")
@posix
def test_only_this_user_can_read_the_state(paths: Paths, options: HostOptions) -> None:
    shared.start(paths, options=options)
    assert stat.S_IMODE(paths.state_file.stat().st_mode) == 0o600
    assert "token" in json.loads(paths.state_file.read_text(encoding="utf-8"))


@pytest.mark.usefixtures("stopped")
def test_an_idle_host_exits(home: Path, paths: Paths, options: HostOptions) -> None:
    shared.start(paths, idle_timeout_s=0.5, options=options)
    wait_until(lambda: not list_hosts(home))
    assert not paths.state_file.exists()


@pytest.mark.usefixtures("stopped")
async def test_a_host_with_a_connection_does_not_exit(
    home: Path, paths: Paths, options: HostOptions
) -> None:
    endpoint, _ = await asyncio.to_thread(shared.start, paths, 0.5, options=options)
    port = int(endpoint.base_url.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    idle_since = time.monotonic()
    await wait_until_async(lambda: time.monotonic() - idle_since > 1.5)
    assert list_hosts(home)
    writer.close()
    await wait_until_async(lambda: not list_hosts(home))


@pytest.mark.usefixtures("stopped")
async def test_shutdown_removes_the_state(
    paths: Paths, options: HostOptions, transport: HttpTransport
) -> None:
    endpoint, _ = await asyncio.to_thread(shared.start, paths, options=options)
    assert endpoint.control
    await ControlClient(transport, endpoint.control).shutdown()
    await wait_until_async(lambda: not paths.state_file.exists())


@pytest.mark.usefixtures("stopped")
def test_a_killed_host_is_replaced(paths: Paths, options: HostOptions) -> None:
    first, _ = shared.start(paths, options=options)
    psutil.Process(first.pid).kill()
    wait_until(lambda: shared.find_endpoint(paths) is None)
    second, before = shared.start(paths, options=options)
    assert not before
    assert second.pid != first.pid


def test_a_failed_start_leaves_no_state(paths: Paths, tmp_path: Path) -> None:
    with pytest.raises(ServiceStartFailed):
        shared.start(
            paths, options=HostOptions(paths=paths, models=(), python=str(tmp_path / "no"))
        )
    assert shared.find_endpoint(paths) is None
    assert not paths.state_file.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"type": "ready", "pid": "x"}',
        b"null",
        b'{"type":"failed","message":"x"}',
        b"[" * 50_000,
    ],
)
def test_an_invalid_state_is_ignored_and_removed(paths: Paths, content: bytes) -> None:
    paths.create().state_file.write_bytes(content)
    assert state.read_state(paths.state_file) is None
    assert not shared.stop(paths)
    assert not paths.state_file.exists()


@posix
def test_a_pipe_as_state_is_ignored_and_removed(paths: Paths) -> None:
    os.mkfifo(paths.create().state_file)
    assert state.read_state(paths.state_file) is None
    assert not shared.stop(paths)
    assert not paths.state_file.exists()


def test_a_directory_in_place_of_the_state_is_an_error(paths: Paths, options: HostOptions) -> None:
    paths.create().state_file.mkdir()
    for work in (lambda: shared.stop(paths), lambda: shared.start(paths, options=options)):
        with pytest.raises(ConfigurationError, match=re.escape(str(paths.state_file))):
            work()


@pytest.mark.parametrize(
    "changes", [{"pid": 2**22 + 1}, {"create_time": 1.0}, {"pid": -1}, {"pid": 2**70}]
)
def test_the_state_of_a_dead_host_is_ignored(paths: Paths, changes: dict[str, object]) -> None:
    state.write_state(paths.create().state_file, make_ready())
    values = json.loads(paths.state_file.read_bytes())
    paths.state_file.write_text(json.dumps({**values, **changes}), encoding="utf-8")
    assert state.read_state(paths.state_file) is None


def test_a_host_removes_only_its_own_state(paths: Paths) -> None:
    state.write_state(paths.create().state_file, make_ready())
    assert state.read_state(paths.state_file) == make_ready()
    state.remove_state(paths.state_file, pid=1)
    assert paths.state_file.exists()
    state.remove_state(paths.state_file, pid=os.getpid())
    assert not paths.state_file.exists()
    state.remove_state(paths.state_file, pid=os.getpid())


def test_a_failed_write_leaves_no_temporary_file(paths: Paths) -> None:
    paths.create().state_file.mkdir()
    with pytest.raises(OSError, match=r".+"):
        state.write_state(paths.state_file, make_ready())
    assert [entry.name for entry in paths.state.iterdir()] == ["host.json"]


def test_one_thread_at_a_time_has_the_lock(tmp_path: Path) -> None:
    inside = threading.Semaphore(1)

    def hold(_: int) -> bool:
        with FileLock(tmp_path / "lock", timeout_s=20):
            is_alone = inside.acquire(blocking=False)
            time.sleep(0.01)  # long enough for the others to try
            inside.release()
            return is_alone

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(hold, range(16)))


def test_a_start_fails_while_another_one_has_the_lock(
    paths: Paths, options: HostOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "START_TIMEOUT_S", 0)
    monkeypatch.setattr(shared, "EXIT_TIMEOUT_S", 0)
    with FileLock(paths.create().lock_file, timeout_s=1):
        for call in (lambda: shared.start(paths, options=options), lambda: shared.stop(paths)):
            with pytest.raises(ServiceStartFailed, match="another process") as failure:
                call()
            assert "try again" in failure.value.hint


def test_the_wait_for_the_lock_times_out(tmp_path: Path) -> None:
    time_s = [0.0]

    def sleep(seconds: float) -> None:
        time_s[0] += seconds

    with FileLock(tmp_path / "lock", timeout_s=1):
        waiting = FileLock(tmp_path / "lock", timeout_s=5, monotonic=lambda: time_s[0], sleep=sleep)
        with pytest.raises(LockTimeout, match="for 5 s"):
            waiting.__enter__()
    assert time_s[0] == pytest.approx(5.0, abs=0.1)


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    source = (
        "import sys, time; from pathlib import Path\n"
        "from foundry_api.storage.lock import FileLock\n"
        "with FileLock(Path(sys.argv[1]), timeout_s=5): print(1, flush=True); time.sleep(60)"
    )
    with start_program(source, str(tmp_path / "lock")) as holder:
        assert holder.stdout
        holder.stdout.readline()
        with pytest.raises(LockTimeout):
            FileLock(tmp_path / "lock", timeout_s=0).__enter__()
        holder.kill()
        holder.communicate()
    with FileLock(tmp_path / "lock", timeout_s=5):
        assert (tmp_path / "lock").exists()
