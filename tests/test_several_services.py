"""Calls to several services at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from faults.hostile import (
    LAST_CHUNK,
    ScriptedServer,
    encode_chunk,
    encode_events,
    make_response,
    make_stream_head,
)
from foundry_api import FoundryAPIClient, LimiterSettings

if TYPE_CHECKING:
    from faults.hostile import Peer, Script


def make_service_script(gate: asyncio.Event | None = None) -> Script:
    """Make the script of a service of SDK 2.1, which answers once the gate is open."""

    async def script(peer: Peer) -> None:
        while True:
            path = (await peer.request()).path
            if path.endswith("/chat/completions"):
                await asyncio.sleep(0.01)
                if gate is not None:
                    await gate.wait()
                await peer.send(
                    make_stream_head(), *map(encode_chunk, encode_events("Hello")), LAST_CHUNK
                )
            elif path.endswith("/loaded"):
                await peer.send(make_response(200, b'["tiny:1"]'))
            elif path.endswith("/models"):
                await peer.send(make_response(200, b'{"data":[{"id":"tiny:1"}]}'))
            else:
                await peer.send(make_response(200, b'{"modelCachePath":"/nowhere","pid":1}'))

    return script


def count_chat_requests(server: ScriptedServer) -> int:
    return sum(request.path.endswith("/chat/completions") for request in server.requests)


@pytest.mark.parametrize("limits", [LimiterSettings(), LimiterSettings(concurrency=1)])
@pytest.mark.parametrize("size", [2, 3])
async def test_burst_at_unloaded_services_is_distributed(
    limits: LimiterSettings, size: int
) -> None:
    servers = [ScriptedServer(make_service_script()) for _ in range(size)]
    for server in servers:
        await server.__aenter__()
    urls = [server.base_url for server in servers]
    async with FoundryAPIClient(base_urls=urls, model="tiny:1", limiter=limits) as client:
        for _ in range(2):  # cold, and warm
            async with asyncio.timeout(20):
                await asyncio.gather(*(client.complete("Hi") for _ in range(24)))
        assert all(not service.attempts for service in client.services)
    counts = [count_chat_requests(server) for server in servers]
    for server in servers:
        await server.stop()
    assert sum(counts) == 48
    assert min(counts) >= 48 / size * 0.6, counts


async def test_calls_in_the_queue_of_a_stuck_service_move_to_a_free_one() -> None:
    gate = asyncio.Event()
    async with (
        ScriptedServer(make_service_script(gate)) as stuck,
        ScriptedServer(make_service_script()) as free,
    ):
        urls = [stuck.base_url, free.base_url]
        limits = LimiterSettings(concurrency=1)
        async with FoundryAPIClient(base_urls=urls, model="tiny:1", limiter=limits) as client:
            calls = [asyncio.ensure_future(client.complete("Hi")) for _ in range(10)]
            async with asyncio.timeout(10):
                while sum(call.done() for call in calls) < 9:
                    await asyncio.wait(
                        [call for call in calls if not call.done()],
                        return_when=asyncio.FIRST_COMPLETED,
                    )
            assert (count_chat_requests(stuck), count_chat_requests(free)) == (1, 9)
            gate.set()
            completions = await asyncio.gather(*calls)
            statistics = [service.limiter.statistics() for service in client.services]
    assert [completion.content for completion in completions] == ["Hello"] * 10
    assert all(len(completion.attempts) == 1 for completion in completions)
    assert [(service.in_flight, service.queued) for service in statistics] == [(0, 0)] * 2


async def test_call_cancelled_while_it_moves_takes_no_slot() -> None:
    gate = asyncio.Event()
    async with (
        ScriptedServer(make_service_script(gate)) as stuck,
        ScriptedServer(make_service_script()) as free,
    ):
        urls = [stuck.base_url, free.base_url]
        limits = LimiterSettings(concurrency=1)
        async with FoundryAPIClient(base_urls=urls, model="tiny:1", limiter=limits) as client:
            calls = [asyncio.ensure_future(client.complete("Hi")) for _ in range(12)]
            async with asyncio.timeout(10):
                await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            for call in calls[2::2]:
                call.cancel()
            gate.set()
            async with asyncio.timeout(10):
                await asyncio.gather(*calls, return_exceptions=True)
            assert (await client.complete("Hi")).content == "Hello"
            statistics = [service.limiter.statistics() for service in client.services]
            assert all(not service.attempts for service in client.services)
    assert [(service.in_flight, service.queued) for service in statistics] == [(0, 0)] * 2
