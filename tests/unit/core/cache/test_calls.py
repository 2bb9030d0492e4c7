"""Cached calls when the service is down, is replaced, or gives an incomplete answer."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api import (
    BreakerSettings,
    CircuitOpen,
    FoundryAPIClient,
    FoundryError,
    MemoryCache,
    Message,
    ServiceNotRunning,
)
from foundry_api.client.chat import stream_blocks
from foundry_api.core.cache.calls import CacheFill, ResponseIdentity
from foundry_api.testing import Disconnect, FakeService, Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from foundry_api import ServiceGeneration


async def ask(client: FoundryAPIClient, prompt: str, **options: Any) -> bool:
    """Make a call and return whether the answer was cached."""
    return (await client.complete(prompt, temperature=0, **options)).cached


async def test_only_the_breaker_probes_a_service_that_is_down() -> None:
    breaking = BreakerSettings(minimum_calls=2, open_s=60, open_cap_s=60)
    connects: list[str] = []
    async with FakeService() as service:
        client = FoundryAPIClient(
            service.base_url, model="fake", cache=MemoryCache(), breaker=breaking, max_retries=0
        )
        assert not await ask(client, "kept")
    connect = client.services[0]._connect

    async def count_connects() -> Any:
        connects.append("connect")
        return await connect()

    client.services[0]._connect = count_connects
    async with client:
        with pytest.raises(ServiceNotRunning):
            await ask(client, "new")
        assert client.breaker.state == "open"
        connects.clear()
        with pytest.raises(CircuitOpen):
            await ask(client, "new")
        assert await ask(client, "kept")
        assert connects == []


@asynccontextmanager
async def cached(service: FakeService, **options: Any) -> AsyncIterator[FoundryAPIClient]:
    async with (
        service,
        FoundryAPIClient(
            service.base_url, model="fake", cache=MemoryCache(), max_retries=0, **options
        ) as client,
    ):
        yield client


async def test_interrupted_answer_is_not_cached() -> None:
    service = FakeService(Disconnect("half an"), "whole")
    async with cached(service) as client:
        with pytest.raises(FoundryError) as caught:
            await ask(client, "Hi")
        assert caught.value.partial == "half an"
        assert [await ask(client, "Hi") for _ in range(2)] == [False, True]
    assert len(service.requests) == 2


async def test_filtered_answer_is_not_cached() -> None:
    async with cached(FakeService(Reply("…", finish_reason="content_filter"))) as client:
        assert [await ask(client, "Hi") for _ in range(2)] == [False, False]


async def test_calls_with_different_options_do_not_share_a_call() -> None:
    """The short timeout of one must not fail the other."""
    service = FakeService()
    async with cached(service) as client:
        await asyncio.gather(
            ask(client, "Hi", timeout=5), ask(client, "Hi", timeout=6), ask(client, "Hi")
        )
    assert len(service.requests) == 3


@pytest.mark.parametrize(("model", "generation"), [("fake:2", "sdk-2.1"), ("fake:1", "sdk-2.0")])
async def test_answer_of_an_unexpected_model_or_service_is_not_cached(
    model: str, generation: ServiceGeneration
) -> None:
    """A fallback model has answered, or a service that replaced a crashed one."""
    async with cached(FakeService()) as client:
        completion = await client.complete("Hi", cache="never")
        calls = client._backend.cached
        assert calls is not None
        order = client._build_request([Message("user", "Hi")], {})
        expected = ResponseIdentity(model, generation, completion.service)
        await CacheFill(calls.context, "key", expected, order)._store([], completion)
        assert (await client.cache.stats()).stores == 0
        right = ResponseIdentity(
            completion.model, completion.service_generation, completion.service
        )
        await CacheFill(calls.context, "key", right, order)._store([], completion)
        assert (await client.cache.stats()).stores == 1


@pytest.mark.parametrize("text", ["Hello again", ""])
async def test_blocks_of_a_cached_answer(text: str) -> None:
    service = FakeService(text)
    async with cached(service) as client:
        for _ in range(2):
            stream = stream_blocks(client, [Message("user", "Hi")], temperature=0)
            *blocks, [last] = [block async for block in stream]
            assert "".join(chunk.content for block in blocks for chunk in block) == text
            assert all(blocks)
            assert last.finish_reason == "stop"
    assert len(service.requests) == 1
    assert last.cached
