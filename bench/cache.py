"""The cost and gain of a cache: a hit and a miss, compared with a call without a cache.

python3 dev.py bench cache

First the client's processor time, one call at a time, with a service that costs next to nothing.
Then the time of an answer of the demo model from the real engine, and from the caches.
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
from parts.results import save_figures

from foundry_api import FoundryAPIClient, MemoryCache, SqliteCache

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from foundry_api import ResponseCache

ROUNDS = 7
# Calls of one measurement, for answers of 2 and of 500 tokens.
CALLS = {"short": 200, "long": 40}


async def measure_cpu_s(call: Callable[[], Awaitable[object]], calls: int) -> float:
    """Measure the processor seconds per call of this process, all threads included."""
    started = time.process_time()
    for _ in range(calls):
        await call()
    return (time.process_time() - started) / calls


async def measure_wall_s(call: Callable[[], Awaitable[object]], calls: int) -> float:
    """Measure the median duration of a call."""
    samples: list[float] = []
    for _ in range(calls):
        started = time.perf_counter()
        await call()
        samples.append(time.perf_counter() - started)
    return statistics.median(samples)


async def measure_engine(directory: Path) -> dict[str, float]:
    """Measure an answer of the real engine and cache hits of it."""
    figures: dict[str, float] = {}
    caches = {"memory": MemoryCache(), "SQLite": SqliteCache(directory / "demo.db")}
    for name, cache in caches.items():
        async with FoundryAPIClient(
            service="embedded", model="demo", cache=cache, home=directory
        ) as client:
            complete = partial(client.complete, "Explain quantum computing", temperature=0)
            first = await complete()
            engine_s = await measure_wall_s(partial(complete, cache="never"), ROUNDS)
            hit_s = await measure_wall_s(complete, 200)
            tokens = first.usage.completion_tokens
            figures[f"ms per answer of {tokens} tokens, engine"] = engine_s * 1e3
            figures[f"ms per hit of it, {name}"] = hit_s * 1e3
            figures[f"hit, {name} / engine"] = hit_s / engine_s
    return figures


async def measure_client(url: str, directory: Path) -> dict[str, float]:
    """Measure processor time. Clients take turns, so that all see the same machine."""
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
    samples: dict[tuple[str, str, str], list[float]] = {}
    for client in clients.values():
        await client.complete("short", seed=next(seeds))
    for _ in range(ROUNDS):
        for prompt, calls in CALLS.items():
            for name, client in clients.items():
                complete = partial(client.complete, prompt)
                again = await measure_cpu_s(partial(complete, temperature=0), calls)
                new = await measure_cpu_s(
                    lambda complete=complete: complete(seed=next(seeds)),  # type: ignore[misc]
                    calls,
                )
                samples.setdefault((prompt, name, "again"), []).append(again)
                samples.setdefault((prompt, name, "new"), []).append(new)
    for client in clients.values():
        await client.close()
    return compute_ratios({key: statistics.median(values) for key, values in samples.items()})


def compute_ratios(cpu_s: dict[tuple[str, str, str], float]) -> dict[str, float]:
    """Compute ratios to the call without a cache."""
    figures: dict[str, float] = {}
    for prompt in CALLS:
        plain = cpu_s[prompt, "no cache", "new"]
        figures[f"CPU µs per {prompt} call without a cache"] = plain * 1e6
        for name in ("memory", "SQLite"):
            hit, miss = cpu_s[prompt, name, "again"], cpu_s[prompt, name, "new"]
            figures[f"CPU µs per {prompt} hit, {name}"] = hit * 1e6
            figures[f"{prompt} hit, {name} / call without"] = hit / plain
            figures[f"{prompt} miss, {name} / call without"] = miss / plain
    return figures


def main() -> None:
    with server.start() as url, tempfile.TemporaryDirectory() as directory:
        figures = asyncio.run(measure_client(url, Path(directory)))
        save_figures("cache", figures | asyncio.run(measure_engine(Path(directory))))


if __name__ == "__main__":
    main()
