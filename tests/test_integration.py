"""The documented examples, on the real engine with the demo model."""

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
    """No service is running, so the client starts an engine."""
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


async def test_a_missing_model_has_a_hint(
    client: FoundryAPIClient,
) -> None:
    with pytest.raises(CatalogUnavailable) as caught:
        await client.complete(prompt="hello", model="phi-4-mini")

    message = str(caught.value)
    assert "foundry-api models pull phi-4-mini" in message
    assert "--model demo` works now" in message


async def close_early(client: FoundryAPIClient) -> None:
    """Close a stream after its first chunk."""
    async with aclosing(client.stream_complete("say-at-a-crawl", model="scripted")) as chunks:
        await anext(chunks)


async def break_out(client: FoundryAPIClient) -> None:
    """Break out of the loop without closing the stream."""
    async for _ in client.stream_complete("say-at-a-crawl", model="scripted"):
        break


async def cancel(client: FoundryAPIClient) -> None:
    """Cancel a call while the engine generates its answer."""
    call = asyncio.create_task(client.complete("say-at-a-crawl", model="scripted"))
    await wait_until_busy(client)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def time_out(client: FoundryAPIClient) -> None:
    """Let the read timeout expire between two tokens."""
    with pytest.raises(ReadTimeout):
        await client.complete("say-at-a-crawl", model="scripted", timeout=0.04)


async def get_engine_cpu_s(client: FoundryAPIClient) -> float:
    """Return the CPU time that the client's engine has used."""
    connection, _ = await client._backend.route("scripted")
    times = psutil.Process(connection.endpoint.pid).cpu_times()
    return times.user + times.system


async def wait_until_busy(client: FoundryAPIClient) -> None:
    """Wait until the engine computes tokens."""
    before = await get_engine_cpu_s(client)
    while await get_engine_cpu_s(client) < before + 0.3:  # noqa: ASYNC110 - a process sets no event
        await asyncio.sleep(0.01)


async def wait_until_idle(client: FoundryAPIClient) -> None:
    """Wait until the engine uses less than 50 ms of CPU time in 0.5 s; a token takes 150 ms."""
    spent_s = before = math.inf
    while spent_s >= 0.05:
        await asyncio.sleep(0.5)
        cpu_s = await get_engine_cpu_s(client)
        spent_s, before = abs(cpu_s - before), cpu_s


@pytest.mark.parametrize("abandon_call", [close_early, break_out, cancel, time_out])
async def test_an_abandoned_call_frees_the_engine(
    abandon_call: Callable[[FoundryAPIClient], Awaitable[None]], own_home: Path, tmp_path: Path
) -> None:
    """The answers are endless, so an engine that is not freed is never idle again.

    bench/cancellation.py measures the delay, which depends on the load of the machine.
    """
    build(tmp_path / "scripted")
    async with FoundryAPIClient(service="embedded", home=own_home) as client:
        await client.models.register(tmp_path / "scripted", "scripted")
        await client.complete("say-hello", model="scripted")

        await abandon_call(client)
        async with asyncio.timeout(30):
            await wait_until_idle(client)


async def test_a_killed_engine_is_restarted_by_the_next_call(own_home: Path) -> None:
    async with FoundryAPIClient(service="embedded", home=own_home) as client:
        first = await client.complete("Say hello", model="demo", temperature=0)
        connection, _ = await client._backend.route("demo")
        psutil.Process(connection.endpoint.pid).kill()

        second = await client.complete("Say hello", model="demo", temperature=0)

        assert second.content == first.content
        assert second.service != first.service
        assert (await client.health_check()).status == "healthy"


def test_a_client_keeps_its_engine_across_event_loops(own_home: Path) -> None:
    client = FoundryAPIClient(service="embedded", home=own_home)

    first = asyncio.run(client.complete("Say hello", model="demo", temperature=0))
    second = asyncio.run(client.complete("Say hello", model="demo", temperature=0))
    asyncio.run(client.close())

    assert first.content == second.content
    assert first.service == second.service


def test_a_program_in_development_mode_works(engine: Endpoint) -> None:
    """In this mode aiohttp parses strictly, and 2.x sends Content-Type twice in streams."""
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
