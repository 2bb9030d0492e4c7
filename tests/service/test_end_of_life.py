"""No engine host remains, in whatever way its parent ends, and the next start works."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from foundry_api.engine import process
from service.helpers import list_hosts, start_program, wait_until, wait_until_async

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from foundry_api.engine.supervisor import EngineHost

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no signals and no fork")

PROGRAM = """
import asyncio, os, signal, sys, time
from pathlib import Path
from foundry_api.storage.paths import Paths
from foundry_api.engine.supervisor import EngineHost, HostOptions

host = EngineHost(HostOptions(paths=Paths.from_home(Path(sys.argv[1])), models=()))

async def main():
    host.start()
    print("spawned", flush=True)
    await host.wait_ready()
    print("ready", flush=True)
    ENDING

asyncio.run(main())
"""

WAIT = "await asyncio.sleep(60)"


def program(ending: str) -> str:
    return PROGRAM.replace("ENDING", ending)


@posix
@pytest.mark.parametrize("seed", [1, 2])
async def test_a_parent_killed_at_any_time_leaves_no_host(
    home: Path, start: Callable[..., EngineHost], seed: int
) -> None:
    delays = random.Random(seed)  # noqa: S311 - reproducible, not secret
    for _ in range(10):
        with start_program(program(WAIT), str(home)) as parent:
            assert parent.stdout
            assert parent.stdout.readline() == "spawned\n"
            await asyncio.sleep(
                delays.uniform(0, 0.6)
            )  # no condition: the time of the kill is the test
            parent.kill()
            parent.communicate()
        await wait_until_async(lambda: not list_hosts(home))
    await start().wait_ready()


@posix
def test_a_host_exits_while_its_parent_is_a_zombie(home: Path) -> None:
    with start_program(program(WAIT), str(home)) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "spawned\n"
        assert parent.stdout.readline() == "ready\n"
        parent.kill()  # a zombie until communicate() below
        wait_until(lambda: not list_hosts(home))
        parent.communicate()


@posix
def test_a_fork_with_the_open_pipe_does_not_keep_the_host(home: Path) -> None:
    ending = "pid = os.fork(); pid or time.sleep(60); print(pid, flush=True); " + WAIT
    with start_program(program(ending), str(home)) as parent:
        assert parent.stdout
        lines = [parent.stdout.readline() for _ in range(3)]
        forked = psutil.Process(int(lines[2]))
        parent.kill()
        wait_until(lambda: not list_hosts(home))
        forked.kill()
        parent.communicate()


@posix
def test_a_fork_that_exits_does_not_stop_the_host(home: Path) -> None:
    source = (
        program("") + "pid = os.fork(); pid or sys.exit(); os.waitpid(pid, 0); print(host.is_alive)"
    )
    with start_program(source, str(home)) as parent:
        output, _ = parent.communicate(timeout=30)
    assert output.split()[-1] == "True"


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("", 0),
        ("raise RuntimeError('the caller failed')", 1),
        ("sys.exit(3)", 3),
        ("os._exit(4)", 4),
        ("del globals()['host']", 0),
    ],
)
def test_a_program_that_ends_without_close_leaves_no_host(
    home: Path, ending: str, status: int
) -> None:
    with start_program(program(ending), str(home)) as parent:
        _, errors = parent.communicate(timeout=30)
    wait_until(lambda: not list_hosts(home))
    assert parent.returncode == status
    assert "ResourceWarning" not in errors


@posix
def test_ctrl_c_ends_the_parent_and_then_the_host(home: Path) -> None:
    """The terminal sends SIGINT to the foreground group, which the host must not be in."""
    with start_program(program(WAIT), str(home), start_new_session=True) as parent:
        assert parent.stdout
        assert [parent.stdout.readline() for _ in range(2)] == ["spawned\n", "ready\n"]
        (host,) = list_hosts(home)
        assert os.getpgid(host.pid) != os.getpgid(parent.pid)
        host.send_signal(signal.SIGINT)  # the host ignores it
        os.killpg(parent.pid, signal.SIGINT)
        _, errors = parent.communicate(timeout=30)
    wait_until(lambda: not list_hosts(home))
    assert "KeyboardInterrupt" in errors
    assert "ResourceWarning" not in errors


async def test_a_host_ends_when_it_is_garbage_collected(
    home: Path, start: Callable[..., EngineHost]
) -> None:
    host = start()
    await host.wait_ready()
    host._process = None
    await wait_until_async(lambda: not list_hosts(home))


async def test_a_closed_host_exits_by_itself(
    home: Path, start: Callable[..., EngineHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE_S", 60.0)  # after which it would be terminated
    host = start()
    await host.wait_ready()
    assert host._process is not None
    host.close()
    assert host._process._process.returncode == 0
    assert not host.is_alive
    assert not list_hosts(home)
    host.close()
    await host.aclose()


@posix
async def test_a_suspended_host_is_killed(home: Path, start: Callable[..., EngineHost]) -> None:
    host = start()
    endpoint = await host.wait_ready()
    assert endpoint.pid
    os.kill(endpoint.pid, signal.SIGSTOP)
    await host.aclose()
    assert not psutil.pid_exists(endpoint.pid)
    assert sys.platform != "win32"
    assert not list_hosts(home)
