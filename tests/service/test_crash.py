"""The engine host is killed under load: every call is answered or fails."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psutil
import pytest

from foundry_api import FoundryAPIClient
from foundry_api.resilience.limiter import LimiterSettings
from foundry_api.types import errors
from service.helpers import list_hosts, wait_until_async
from support.scripted_model import build

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from foundry_api import Chunk, Completion

PROMPT = "Tell me a long story about the sea."


@pytest.fixture
async def client(home: Path, tmp_path: Path) -> AsyncIterator[FoundryAPIClient]:
    """A client with its own engine, which has a slow model."""
    scripted = tmp_path / "scripted"
    scripted.mkdir()
    build(scripted)
    async with FoundryAPIClient(service="embedded", home=home, model="demo") as client:
        await client.models.register(scripted, "scripted")
        yield client


def slow_stream(client: FoundryAPIClient) -> AsyncIterator[Chunk]:
    """Stream an answer for several seconds, so that the engine can be killed during it."""
    return client.stream_complete("say-slowly", model="scripted", max_tokens=500)


def kill(home: Path) -> None:
    """Kill the host, as the kernel does when memory runs out."""
    (host,) = list_hosts(home)
    host.kill()
    psutil.wait_procs([host], timeout=10)


async def read_text(stream: AsyncIterator[Chunk]) -> str:
    return "".join([chunk.content async for chunk in stream])


async def complete(client: FoundryAPIClient) -> Completion | errors.FoundryError:
    try:
        return await client.complete(PROMPT, max_tokens=64, temperature=0)
    except errors.FoundryError as error:
        return error


async def test_an_interrupted_stream_keeps_its_text(client: FoundryAPIClient, home: Path) -> None:
    stream = slow_stream(client)
    text = (await anext(stream)).content
    kill(home)
    with pytest.raises(errors.StreamInterrupted) as caught:
        await read_text(stream)
    assert text
    assert caught.value.partial.startswith(text)
    assert caught.value.attempts == 1


async def test_the_next_call_uses_the_new_engine(client: FoundryAPIClient, home: Path) -> None:
    first = await client.complete("Hello", max_tokens=2)
    kill(home)
    second = await client.complete("Hello", max_tokens=2)
    assert second.content == first.content
    assert second.service != first.service


async def test_loaded_models_are_loaded_again_after_a_crash(
    client: FoundryAPIClient, home: Path
) -> None:
    stream = slow_stream(client)
    await anext(stream)
    loaded = (await client.health_check()).loaded_models
    kill(home)
    with pytest.raises(errors.StreamInterrupted):
        await read_text(stream)
    (service,) = client.services
    await wait_until_async(lambda: service.connection and service.connection.loaded)
    assert (await client.health_check()).loaded_models == loaded
    assert len(loaded) == 1


async def test_every_call_is_answered_or_interrupted(home: Path) -> None:
    """A call that fails has the text that it received before."""
    limits = LimiterSettings(concurrency=4)
    async with FoundryAPIClient(
        service="embedded", home=home, model="demo", max_retries=5, limiter=limits
    ) as client:
        await client.complete("Hello", max_tokens=2)
        calls = [asyncio.create_task(complete(client)) for _ in range(80)]
        for done in (10, 30, 50):
            await wait_until_async(lambda n=done: sum(call.done() for call in calls) >= n)  # type: ignore[misc]
            kill(home)
        outcomes = await asyncio.gather(*calls)
    answered = [outcome for outcome in outcomes if not isinstance(outcome, errors.FoundryError)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, errors.FoundryError)]
    assert all(
        isinstance(outcome, errors.StreamInterrupted) and outcome.partial for outcome in failed
    )
    assert len(failed) <= 3 * 4
    assert len(answered) >= 80 - 3 * 4
    assert {answer.content for answer in answered} == {answered[0].content}
    assert len({answer.service for answer in answered}) == 4


async def test_the_deadline_includes_the_restart(client: FoundryAPIClient, home: Path) -> None:
    await client.complete("Hello", max_tokens=2)
    kill(home)
    with pytest.raises(errors.FoundryError, match="deadline") as caught:
        await client.complete("Hello", deadline=0.05)
    assert isinstance(caught.value, errors.DeadlineExceeded | errors.ServiceError)
    assert (await client.complete("Hello", max_tokens=2)).content


async def test_calls_go_to_the_remaining_service(tmp_path: Path) -> None:
    homes = [tmp_path / name for name in ("a", "b")]
    owners = [FoundryAPIClient(service="embedded", home=home, model="demo") for home in homes]
    try:
        urls = [(await owner.complete("Hello", max_tokens=2)).service for owner in owners]
        async with FoundryAPIClient(base_urls=urls, model="demo") as client:
            assert {(await client.complete("Hello", max_tokens=2)).service for _ in range(4)}
            kill(homes[0])
            answers = await asyncio.gather(
                *(client.complete("Hello", max_tokens=2) for _ in range(8))
            )
            assert {answer.service for answer in answers} == {urls[1]}
    finally:
        for owner in owners:
            await owner.close()
    assert not [host for home in homes for host in list_hosts(home)]
