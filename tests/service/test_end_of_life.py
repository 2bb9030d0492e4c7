"""However its parent ends, no engine host is left behind, and the next start works."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from service.helpers import list_hosts, start_program, wait_until, wait_until_async

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from foundry_api.engine.supervisor import EngineHost

posix = pytest.mark.skipif(os.name != "posix", reason="signals and fork are POSIX's")

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

WAITS = "await asyncio.sleep(60)"


def program(ending: str) -> str:
    return PROGRAM.replace("ENDING", ending)


@posix
@pytest.mark.parametrize("seed", [1, 2])
async def test_a_parent_killed_at_any_moment_leaves_nothing(
    home: Path, start: Callable[..., EngineHost], seed: int
) -> None:
    moments = random.Random(seed)  # noqa: S311 - reproducible, not secret
    for _ in range(10):
        with start_program(program(WAITS), str(home)) as parent:
            assert parent.stdout
            assert parent.stdout.readline() == "spawned\n"
            await asyncio.sleep(
                moments.uniform(0, 0.6)
            )  # waits for nothing: the moment is the test
            parent.kill()
            parent.communicate()
        await wait_until_async(lambda: not list_hosts(home), within_s=10)
    await start().wait_ready()


@posix
def test_a_parent_that_was_killed_and_is_not_reaped_yet_is_gone(home: Path) -> None:
    with start_program(program(WAITS), str(home)) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "spawned\n"
        assert parent.stdout.readline() == "ready\n"
        parent.kill()  # a zombie until communicate() below
        wait_until(lambda: not list_hosts(home), within_s=10)
        parent.communicate()


@posix
def test_a_forked_process_that_holds_the_pipe_open_does_not_keep_the_host(home: Path) -> None:
    ending = "pid = os.fork(); pid or time.sleep(60); print(pid, flush=True); " + WAITS
    with start_program(program(ending), str(home)) as parent:
        assert parent.stdout
        lines = [parent.stdout.readline() for _ in range(3)]
        forked = psutil.Process(int(lines[2]))
        parent.kill()
        wait_until(lambda: not list_hosts(home), within_s=10)
        forked.kill()
        parent.communicate()


@posix
def test_a_forked_process_that_exits_does_not_end_its_parents_host(home: Path) -> None:
    source = (
        program("") + "pid = os.fork(); pid or sys.exit(); os.waitpid(pid, 0); print(host.is_alive)"
    )
    with start_program(source, str(home)) as parent:
        told, _ = parent.communicate(timeout=30)
    assert told.split()[-1] == "True"


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
def test_a_program_that_ends_without_closing_leaves_nothing(
    home: Path, ending: str, status: int
) -> None:
    with start_program(program(ending), str(home)) as parent:
        _, complaints = parent.communicate(timeout=30)
    wait_until(lambda: not list_hosts(home), within_s=10)
    assert parent.returncode == status
    assert "ResourceWarning" not in complaints


@posix
def test_ctrl_c_reaches_the_parent_only_and_leaves_nothing(home: Path) -> None:
    """The terminal sends SIGINT to the foreground group, which the host must not be in."""
    with start_program(program(WAITS), str(home), start_new_session=True) as parent:
        assert parent.stdout
        assert [parent.stdout.readline() for _ in range(2)] == ["spawned\n", "ready\n"]
        (host,) = list_hosts(home)
        assert os.getpgid(host.pid) != os.getpgid(parent.pid)
        host.send_signal(signal.SIGINT)  # and if one came all the same, it would not matter
        os.killpg(parent.pid, signal.SIGINT)
        _, complaints = parent.communicate(timeout=30)
    wait_until(lambda: not list_hosts(home), within_s=10)
    assert "KeyboardInterrupt" in complaints
    assert "ResourceWarning" not in complaints


async def test_a_host_ends_with_the_last_reference_to_it(
    home: Path, start: Callable[..., EngineHost]
) -> None:
    host = start()
    await host.wait_ready()
    host._process = None
    await wait_until_async(lambda: not list_hosts(home))


async def test_stopping_is_quick_and_idempotent(
    home: Path, start: Callable[..., EngineHost]
) -> None:
    host = start()
    await host.wait_ready()
    began_at = time.monotonic()
    host.close()
    assert time.monotonic() - began_at < 1
    assert not host.is_alive
    assert not list_hosts(home)
    host.close()
    await host.aclose()


@posix
async def test_a_host_that_does_not_listen_is_killed(
    home: Path, start: Callable[..., EngineHost]
) -> None:
    host = start()
    endpoint = await host.wait_ready()
    assert endpoint.pid
    os.kill(endpoint.pid, signal.SIGSTOP)
    await host.aclose()
    assert not psutil.pid_exists(endpoint.pid)
    assert sys.platform != "win32"
    assert not list_hosts(home)
