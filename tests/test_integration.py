"""The documented use, word for word, on the real engine with the demo model."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

import psutil
import pytest

from foundry_api import CatalogUnavailable, FoundryAPIClient, ReadTimeout
from support.scripted_model import build

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint


async def test_the_documented_example_works(own_home: Path) -> None:
    """As DESIGN.md and the README show it: no service is running, so an engine is started."""
    client = FoundryAPIClient()
    try:
        response = await client.complete(
            prompt="Explain quantum computing", model="demo", max_tokens=500
        )
        assert "qubit" in response.content
        assert response.finish_reason == "stop"

        story = [
            c.content async for c in client.stream_complete("Write a story about AI", model="demo")
        ]
        assert len(story) > 20

        health = await client.health_check()
        assert health.status == "healthy"
        assert health.loaded_models == (response.model,)
        assert health.memory_usage is not None
        assert health.memory_usage > 10 * 2**20
        assert health.uptime is not None
        assert health.version == "2.2.1"
        assert health.service_generation == "sdk-2.1"
    finally:
        await client.close()


async def test_the_default_model_says_how_to_get_it_and_what_works_now(
    client: FoundryAPIClient,
) -> None:
    with pytest.raises(CatalogUnavailable) as caught:
        await client.complete(prompt="hello", model="phi-4-mini")

    told = str(caught.value)
    assert "foundry-api models pull phi-4-mini" in told
    assert "--model demo` works now" in told


async def leave_early(client: FoundryAPIClient) -> None:
    """Close a stream after its first chunk."""
    async with aclosing(client.stream_complete("say-at-a-crawl", model="scripted")) as chunks:
        await anext(chunks)


async def break_out(client: FoundryAPIClient) -> None:
    """Leave the loop as most people do, without closing anything."""
    async for _ in client.stream_complete("say-at-a-crawl", model="scripted"):
        break


async def cancel(client: FoundryAPIClient) -> None:
    """Cancel the task that waits for a whole answer, when the engine is in the middle of it."""
    call = asyncio.create_task(client.complete("say-at-a-crawl", model="scripted"))
    await busy(client)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def time_out(client: FoundryAPIClient) -> None:
    """Let the bound on silence fall between two tokens."""
    with pytest.raises(ReadTimeout):
        await client.complete("say-at-a-crawl", model="scripted", timeout=0.04)


async def engine_cpu_s(client: FoundryAPIClient) -> float:
    """Processor time that the client's engine has used."""
    connection, _ = await client._backend.route("scripted")
    times = psutil.Process(connection.endpoint.pid).cpu_times()
    return times.user + times.system


async def busy(client: FoundryAPIClient) -> None:
    """Wait until the engine computes tokens."""
    before = await engine_cpu_s(client)
    while await engine_cpu_s(client) < before + 0.3:  # noqa: ASYNC110 - a process sets no event
        await asyncio.sleep(0.01)


async def idle(client: FoundryAPIClient) -> None:
    """Wait until half a second costs the engine less than a third of a token."""
    spent_s = before = math.inf
    while spent_s >= 0.05:
        await asyncio.sleep(0.5)
        now = await engine_cpu_s(client)
        spent_s, before = abs(now - before), now


@pytest.mark.parametrize("leave", [leave_early, break_out, cancel, time_out])
async def test_leaving_a_call_frees_the_engine(
    leave: Callable[[FoundryAPIClient], Awaitable[None]], own_home: Path, tmp_path: Path
) -> None:
    """The answers have no end, so an engine that is not freed is never idle again.

    How soon it is, bench/cancellation.py measures: a machine that is busy itself would say nothing.
    """
    build(tmp_path / "scripted")
    async with FoundryAPIClient(service="embedded", home=own_home) as client:
        await client.models.register(tmp_path / "scripted", "scripted")
        await client.complete("say-hello", model="scripted")

        await leave(client)
        async with asyncio.timeout(30):
            await idle(client)


async def test_a_killed_engine_is_started_again_for_the_next_call(own_home: Path) -> None:
    async with FoundryAPIClient(service="embedded", home=own_home) as client:
        first = await client.complete("Say hello", model="demo", temperature=0)
        connection, _ = await client._backend.route("demo")
        psutil.Process(connection.endpoint.pid).kill()

        second = await client.complete("Say hello", model="demo", temperature=0)

        assert second.content == first.content
        assert second.service != first.service
        assert (await client.health_check()).status == "healthy"


def test_one_client_serves_several_event_loops_one_after_another(own_home: Path) -> None:
    client = FoundryAPIClient(service="embedded", home=own_home)

    first = asyncio.run(client.complete("Say hello", model="demo", temperature=0))
    second = asyncio.run(client.complete("Say hello", model="demo", temperature=0))
    asyncio.run(client.close())

    assert first.content == second.content
    assert first.service == second.service


def test_a_program_in_developers_mode_gets_the_same_answers(engine: Endpoint) -> None:
    """There aiohttp is strict by itself, and 2.x names the type of its streams twice."""
    program = (
        "import asyncio, sys\n"
        "from foundry_api import FoundryAPIClient\n"
        "async def main():\n"
        "    async with FoundryAPIClient(sys.argv[1], model='scripted') as client:\n"
        "        for _ in range(2):\n"
        "            print((await client.complete('say-hello')).content)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", program, engine.base_url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "Hello, world!\nHello, world!\n"
    assert (done.returncode, "Warning" in done.stderr) == (0, False)
