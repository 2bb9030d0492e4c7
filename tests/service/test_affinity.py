"""The CPUs that the threads of an engine host may use."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from foundry_api.engine.host import affinity
from foundry_api.engine.host.affinity import use_all_cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.engine.supervisor import EngineHost

if sys.platform != "linux":
    pytest.skip("only Linux tells the CPUs of another process's threads", allow_module_level=True)

CONNECTIONS = 4


@pytest.fixture
def last_cpu() -> Iterator[int]:
    """Restrict this thread to one CPU, which programs that it starts inherit."""
    before = os.sched_getaffinity(0)
    if before == {0}:
        pytest.skip("the engine pins its threads to this CPU anyway")
    cpu = max(before)
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, before)


def get_masks(pid: int) -> set[frozenset[int]]:
    """Return the CPUs that each thread of a process may use."""
    masks: list[frozenset[int]] = []
    for path in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):  # a thread may have ended
            masks.append(frozenset(os.sched_getaffinity(int(path.name))))
    assert len(masks) > CONNECTIONS
    return set(masks)


async def get_masks_while_connected(endpoint: Endpoint) -> set[frozenset[int]]:
    """Open connections, each of which has a thread in the engine, and return the masks."""
    address = endpoint.base_url.removeprefix("http://").split(":")
    connections = [
        await asyncio.open_connection(address[0], int(address[1])) for _ in range(CONNECTIONS)
    ]
    try:
        for reader, writer in connections:
            writer.write(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        return get_masks(endpoint.pid)
    finally:
        for _, writer in connections:
            writer.close()


async def test_connections_use_all_cpus(start: Callable[..., EngineHost]) -> None:
    endpoint = await start().wait_ready()
    assert await get_masks_while_connected(endpoint) == {frozenset(os.sched_getaffinity(0))}


async def test_a_restricted_host_stays_on_its_cpus(
    last_cpu: int, start: Callable[..., EngineHost]
) -> None:
    endpoint = await start().wait_ready()
    assert await get_masks_while_connected(endpoint) == {frozenset({last_cpu})}


def test_a_library_that_is_not_loaded_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    assert not use_all_cpus("libnothing.so")
    assert "may leave CPUs unused: libnothing.so" in capsys.readouterr().err


def test_a_library_that_does_not_pin_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """The C library defines the function, and so does not import it."""
    assert not use_all_cpus("libc.so.6")
    assert "libc.so.6 does not import pthread_setaffinity_np" in capsys.readouterr().err


def test_a_c_library_without_the_function_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity, "_NO_OP_FUNCTION", "no_such_function")
    monkeypatch.setattr(affinity, "_find_slots", lambda _: iter([0]))
    assert not use_all_cpus()
