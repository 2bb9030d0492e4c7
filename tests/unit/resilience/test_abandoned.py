"""Abandoned prompts: what errors and statistics report of them, and what the limiter does."""

from __future__ import annotations

import asyncio

import pytest

from foundry_api.resilience.abandoned import AbandonedPrompts
from foundry_api.resilience.limiter import Limiter, LimiterSettings
from foundry_api.types.errors import QueueFull


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("prompts", "description", "remaining_s"),
    [
        ([], "", None),
        ([(None, None)], "the engine is still reading an abandoned prompt", None),
        (
            [(1500, 12.0)],
            "the engine is still reading an abandoned prompt of about 1,500 tokens, for about 10 s",
            10.0,
        ),
        (
            [(1500, 5.0), (700, 9.0)],
            "the engine is still reading 2 abandoned prompts of about 2,200 tokens, for about 7 s",
            7.0,
        ),
        ([(1500, 9.0), (None, None)], "the engine is still reading 2 abandoned prompts", None),
        ([(9, 1.0)], "the engine is still reading an abandoned prompt of about 9 tokens", 0.0),
    ],
)
def test_description(
    prompts: list[tuple[int | None, float | None]], description: str, remaining_s: float | None
) -> None:
    clock = Clock()
    abandoned = AbandonedPrompts(clock)
    for tokens, seconds in prompts:
        abandoned.add(tokens, seconds)
    clock.now = 2.0
    assert (abandoned.describe(), abandoned.remaining_s) == (description, remaining_s)


def test_prompt_that_was_read_is_no_longer_reported() -> None:
    abandoned = AbandonedPrompts(Clock())
    abandoned.discard(abandoned.add(10, 1.0))
    assert (len(abandoned), abandoned.describe()) == (0, "")


async def test_full_queue_and_statistics_name_the_abandoned_prompt() -> None:
    limiter = Limiter(LimiterSettings(concurrency=1, queue=0), monotonic=Clock())
    await limiter.acquire()
    limiter.abandoned.add(1500, 12.0)
    with pytest.raises(QueueFull, match="an abandoned prompt of about 1,500 tokens, for about 12"):
        await limiter.acquire()
    statistics = limiter.statistics()
    assert (statistics.abandoned, statistics.abandoned_s) == (1, 12.0)
    limiter.reset()
    assert limiter.statistics().abandoned == 0


@pytest.mark.parametrize("is_during", [False, True], ids=["before the window", "during it"])
async def test_throughput_is_not_measured_meanwhile(*, is_during: bool) -> None:
    clock = Clock()
    limiter = Limiter(LimiterSettings(initial=2), monotonic=clock)
    if not is_during:
        prompt = limiter.abandoned.add(None, None)
    slots = [await limiter.acquire(), await limiter.acquire()]
    waiting = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(0)
    if is_during:
        prompt = limiter.abandoned.add(None, None)
    clock.now = 10.0
    slots[0].progress(1000)
    assert limiter.statistics().tokens_per_second is None
    limiter.abandoned.discard(prompt)
    waiting.cancel()
