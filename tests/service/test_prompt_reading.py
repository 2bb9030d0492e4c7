"""The real engine reads a prompt to its end; its client knows for how long, and sends no others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psutil
import pytest

from foundry_api import DeadlineTooShort, FoundryAPIClient, LimiterSettings, Settings
from foundry_api.resilience.prompt_reading import MIN_SAMPLES, PromptSize
from service.helpers import has_ended, wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

# Nearly all of the demo model's context. Reading it takes about a second.
LONG_PROMPT = "a " * 4000


class Engine:
    """An embedded engine with the demo model, and the CPU time that it has used."""

    def __init__(self, client: FoundryAPIClient, pid: int) -> None:
        self.client = client
        self.limiter = client.limiter
        self._process = psutil.Process(pid)

    def cpu_s(self) -> float:
        used = self._process.cpu_times()
        return used.user + used.system

    async def wait_until_idle(self) -> None:
        """Wait until the engine has used no CPU time for 0.3 s."""
        used_s = None
        while used_s != self.cpu_s():
            used_s = self.cpu_s()
            await asyncio.sleep(0.3)


@pytest.fixture
async def engine(home: Path) -> AsyncIterator[Engine]:
    async with FoundryAPIClient(service="embedded", home=home, model="demo") as client:
        await client.complete("Hi", max_tokens=1)
        connection = client.services[0].connection
        assert connection is not None
        assert connection.endpoint.pid is not None
        yield Engine(client, connection.endpoint.pid)


async def test_slot_is_taken_until_the_engine_has_read_an_abandoned_prompt(engine: Engine) -> None:
    limiter = engine.limiter
    prompt, max_tokens = LONG_PROMPT[: len(LONG_PROMPT) * 3 // 4], 1000
    started_s = engine.cpu_s()
    stream = engine.client.stream_complete(prompt, max_tokens=max_tokens)
    await anext(stream)
    read_s = engine.cpu_s()
    assert len([chunk async for chunk in stream]) > max_tokens / 2
    reading_s, generating_s = read_s - started_s, engine.cpu_s() - read_s

    before_s = engine.cpu_s()
    call = asyncio.create_task(engine.client.complete(prompt, max_tokens=max_tokens))
    await wait_until_async(lambda: engine.cpu_s() > before_s + 0.05)
    call.cancel()
    await asyncio.wait({call})
    before_leaving_s = engine.cpu_s()
    statistics = limiter.statistics()
    assert (statistics.in_flight, statistics.abandoned) == (1, 1)
    assert "still reading an abandoned prompt" in (await engine.client.health_check()).detail
    # The other slot is free meanwhile.
    assert (await engine.client.complete("Hi", max_tokens=1)).usage.completion_tokens == 1
    await wait_until_async(lambda: not limiter.statistics().in_flight)
    freed_s = engine.cpu_s()
    assert freed_s - before_leaving_s > reading_s / 4  # it has read on
    await engine.wait_until_idle()
    assert engine.cpu_s() - freed_s < generating_s / 2  # and then it has stopped


async def test_prompt_that_outlasts_its_deadline_is_not_sent(engine: Engine) -> None:
    prompt = LONG_PROMPT[: len(LONG_PROMPT) // 2]
    for _ in range(MIN_SAMPLES):
        answer = await engine.client.complete(prompt, max_tokens=1)
    reading = engine.client.services[0].readings.for_model(answer.model)
    estimate = reading.estimate(PromptSize.of([prompt]))
    assert estimate is not None
    with pytest.raises(DeadlineTooShort) as caught:
        await engine.client.complete(prompt, max_tokens=1, deadline=estimate.duration_s / 2)
    assert caught.value.prompt_tokens == pytest.approx(answer.usage.prompt_tokens, rel=0.01)
    await engine.client.complete(prompt, max_tokens=1, deadline=600)


async def test_second_process_replaces_an_engine_that_reads_an_abandoned_prompt(home: Path) -> None:
    settings = Settings(service="embedded", home=home, model="demo", engine_processes=2)
    limits = LimiterSettings(concurrency=2)
    async with FoundryAPIClient(settings=settings, limiter=limits) as client:
        await client.complete("Hi", max_tokens=1)
        service = client.services[0]
        assert service.connection is not None
        old = psutil.Process(service.connection.endpoint.pid)
        abandoned = asyncio.create_task(client.complete(LONG_PROMPT, max_tokens=1))
        before_s = sum(old.cpu_times()[:2])
        await wait_until_async(lambda: sum(old.cpu_times()[:2]) > before_s + 0.05)
        abandoned.cancel()
        await asyncio.wait({abandoned})
        # One has the other slot, and the others wait.
        calls = [client.complete("Tell a story", max_tokens=200) for _ in range(4)]
        answers = await asyncio.gather(*calls)
        assert all(answer.content for answer in answers)
        assert len({answer.service for answer in answers}) == 2
        await wait_until_async(lambda: has_ended(old))
        assert service.connection is not None
        assert service.connection.endpoint.pid != old.pid
        assert client.limiter.statistics().abandoned == 0
