"""What a cache costs and saves: a hit, and a call that misses, beside a call without a cache.

python3 dev.py bench cache

First the client's processor time, one call at a time, at a service that costs next to nothing. Then
what a user waits for: an answer of the demo model by the real engine, and from the caches.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from parts import server
from parts.results import keep

from foundry_api import FoundryAPIClient, MemoryCache, SqliteCache

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from foundry_api import ResponseCache

ROUNDS = 7
CALLS = {"short": 200, "long": 40}
"""Calls of one measurement, for an answer of 2 tokens and one of 500."""


async def seconds(call: Callable[[], Awaitable[object]], calls: int) -> float:
    """Processor seconds of this process for one call, all its threads included."""
    started = time.process_time()
    for _ in range(calls):
        await call()
    return (time.process_time() - started) / calls


async def waited(call: Callable[[], Awaitable[object]], calls: int) -> float:
    """Seconds that the median call takes."""
    took: list[float] = []
    for _ in range(calls):
        started = time.perf_counter()
        await call()
        took.append(time.perf_counter() - started)
    return statistics.median(took)


async def answered(directory: Path) -> dict[str, float]:
    """The real engine, and what is kept of its answer."""
    told: dict[str, float] = {}
    caches = {"memory": MemoryCache(), "SQLite": SqliteCache(directory / "demo.db")}
    for name, cache in caches.items():
        async with FoundryAPIClient(
            service="embedded", model="demo", cache=cache, home=directory
        ) as client:
            ask = partial(client.complete, "Explain quantum computing", temperature=0)
            first = await ask()
            made = await waited(partial(ask, cache="never"), ROUNDS)
            hit = await waited(ask, 200)
            told[f"ms per answer of {first.usage.completion_tokens} tokens, engine"] = made * 1e3
            told[f"ms per hit of it, {name}"] = hit * 1e3
            told[f"hit, {name} / engine"] = hit / made
    return told


async def measured(url: str, directory: Path) -> dict[str, float]:
    """Processor time. Every client in turn, so that all see the same machine."""
    caches: dict[str, ResponseCache | None] = {
        "no cache": None,
        "memory": MemoryCache(),
        "SQLite": SqliteCache(directory / "answers.db"),
    }
    clients = {
        name: FoundryAPIClient(url, model=server.MODEL, cache=cache, home=directory)
        for name, cache in caches.items()
    }
    seeds = itertools.count()
    seen: dict[tuple[str, str, str], list[float]] = {}
    for client in clients.values():
        await client.complete("short", seed=next(seeds))
    for _ in range(ROUNDS):
        for prompt, calls in CALLS.items():
            for name, client in clients.items():
                ask = partial(client.complete, prompt)
                again = await seconds(partial(ask, temperature=0), calls)
                new = await seconds(lambda ask=ask: ask(seed=next(seeds)), calls)  # type: ignore[misc]
                seen.setdefault((prompt, name, "again"), []).append(again)
                seen.setdefault((prompt, name, "new"), []).append(new)
    for client in clients.values():
        await client.close()
    return ratios({key: statistics.median(values) for key, values in seen.items()})


def ratios(took: dict[tuple[str, str, str], float]) -> dict[str, float]:
    """Ratios to the call without a cache."""
    told: dict[str, float] = {}
    for prompt in CALLS:
        plain = took[prompt, "no cache", "new"]
        told[f"CPU µs per {prompt} call without a cache"] = plain * 1e6
        for name in ("memory", "SQLite"):
            hit, miss = took[prompt, name, "again"], took[prompt, name, "new"]
            told[f"CPU µs per {prompt} hit, {name}"] = hit * 1e6
            told[f"{prompt} hit, {name} / call without"] = hit / plain
            told[f"{prompt} miss, {name} / call without"] = miss / plain
    return told


def main() -> None:
    """Measure, and keep the figures."""
    with server.started() as url, tempfile.TemporaryDirectory() as directory:
        figures = asyncio.run(measured(url, Path(directory)))
        keep("cache", figures | asyncio.run(answered(Path(directory))))


if __name__ == "__main__":
    main()
