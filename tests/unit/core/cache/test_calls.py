"""Calls with a cache in front, where the service behind them is away, moves, or answers oddly."""

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
from foundry_api.core.cache.calls import CacheFill, ResponseIdentity
from foundry_api.testing import Disconnect, FakeService, Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from foundry_api import ServiceGeneration


async def ask(client: FoundryAPIClient, prompt: str, **options: Any) -> bool:
    """Whether the answer was there."""
    return (await client.complete(prompt, temperature=0, **options)).cached


async def test_while_the_breaker_keeps_calls_away_nobody_looks_for_the_service_past_it() -> None:
    breaking = BreakerSettings(minimum_calls=2, open_s=60, open_cap_s=60)
    looks: list[str] = []
    async with FakeService() as service:
        client = FoundryAPIClient(
            service.base_url, model="fake", cache=MemoryCache(), breaker=breaking, max_retries=0
        )
        assert not await ask(client, "kept")
    connect = client.services[0]._connect

    async def look() -> Any:
        looks.append("look")
        return await connect()

    client.services[0]._connect = look
    async with client:
        with pytest.raises(ServiceNotRunning):
            await ask(client, "new")
        assert client.breaker.state == "open"
        looks.clear()
        with pytest.raises(CircuitOpen):
            await ask(client, "new")
        assert await ask(client, "kept")
        assert looks == []


@asynccontextmanager
async def cached(service: FakeService, **options: Any) -> AsyncIterator[FoundryAPIClient]:
    async with (
        service,
        FoundryAPIClient(
            service.base_url, model="fake", cache=MemoryCache(), max_retries=0, **options
        ) as client,
    ):
        yield client


async def test_an_answer_that_broke_off_is_asked_for_again() -> None:
    service = FakeService(Disconnect("half an"), "whole")
    async with cached(service) as client:
        with pytest.raises(FoundryError) as caught:
            await ask(client, "Hi")
        assert caught.value.partial == "half an"
        assert [await ask(client, "Hi") for _ in range(2)] == [False, True]
    assert len(service.requests) == 2


async def test_an_answer_that_was_filtered_is_not_kept() -> None:
    async with cached(FakeService(Reply("…", finish_reason="content_filter"))) as client:
        assert [await ask(client, "Hi") for _ in range(2)] == [False, False]


async def test_calls_that_would_be_made_in_other_ways_do_not_share_one_in_flight() -> None:
    """A short time-out of one must not fail the other."""
    service = FakeService()
    async with cached(service) as client:
        await asyncio.gather(
            ask(client, "Hi", timeout=5), ask(client, "Hi", timeout=6), ask(client, "Hi")
        )
    assert len(service.requests) == 3


@pytest.mark.parametrize(("model", "generation"), [("fake:2", "sdk-2.1"), ("fake:1", "sdk-2.0")])
async def test_what_another_answered_than_was_expected_is_not_kept(
    model: str, generation: ServiceGeneration
) -> None:
    """Another model took the place of the first, or another service that of the one that died."""
    async with cached(FakeService()) as client:
        whole = await client.complete("Hi", cache="never")
        calls = client._backend.cached
        assert calls is not None
        order = client._build_request([Message("user", "Hi")], {})
        expected = ResponseIdentity(model, generation, whole.service)
        await CacheFill(calls.context, "key", expected, order)._store([], whole)
        assert (await client.cache.stats()).stores == 0
        right = ResponseIdentity(whole.model, whole.service_generation, whole.service)
        await CacheFill(calls.context, "key", right, order)._store([], whole)
        assert (await client.cache.stats()).stores == 1
