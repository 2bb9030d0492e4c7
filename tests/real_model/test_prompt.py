"""Prompts whose callers leave while the engine reads them, which nothing stops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from foundry_api import DeadlineExceeded, FoundryAPIClient, Settings
from real_model.models import CHAT, CHAT_MODEL, TIMEOUT_S
from real_model.processes import get_cpu_s
from service.helpers import list_hosts, wait_until_async

if TYPE_CHECKING:
    from pathlib import Path

# About 1,500 tokens, which take seconds.
PROMPT = "The quick brown fox jumps over the lazy dog near the river bank. " * 100


async def abandon(client: FoundryAPIClient) -> DeadlineExceeded:
    with pytest.raises(DeadlineExceeded) as caught:
        await client.complete(PROMPT, deadline=1, max_tokens=100)
    return caught.value


async def test_the_slot_is_taken_while_the_engine_reads_on(
    own_client: FoundryAPIClient, tmp_path: Path
) -> None:
    await own_client.complete("Hello", max_tokens=2)
    await own_client.complete(PROMPT[: len(PROMPT) // 2], max_tokens=1)
    (host,) = list_hosts(tmp_path / "own")
    error = await abandon(own_client)
    assert error.is_still_reading
    assert error.reading_s is not None
    before = get_cpu_s(host)
    assert own_client.limiter.statistics().abandoned == 1
    await wait_until_async(lambda: own_client.limiter.load == 0, within_s=TIMEOUT_S)
    assert get_cpu_s(host) - before > 1, "it has read on"


async def test_a_second_process_replaces_a_busy_engine(tmp_path: Path) -> None:
    home = tmp_path / "own"
    settings = Settings(
        service="embedded", home=home, model=CHAT, engine_processes=2, timeout_s=TIMEOUT_S
    )
    async with FoundryAPIClient(settings=settings) as client:
        await client.models.register(CHAT_MODEL, alias=CHAT)
        await client.complete("Hello", max_tokens=2)
        (old,) = list_hosts(home)
        for _ in range(client.limiter.limit):
            await abandon(client)
        assert client.limiter.statistics().abandoned == client.limiter.limit
        # It needs no free slot of the old engine.
        assert (await client.complete("Hello", max_tokens=2)).usage.completion_tokens > 0
        await wait_until_async(lambda: old not in list_hosts(home))
        assert client.limiter.statistics().abandoned == 0
