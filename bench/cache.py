"""What a cache costs and saves: a hit, and a call that misses, beside a call without a cache.

python3 dev.py bench cache

The service costs next to nothing here, so a hit saves at least what is told; a real model's answer
takes a hundred times as long. Times are medians of wall clock time, one call at a time.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
import time
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
    """Seconds for one call."""
    started = time.perf_counter()
    for _ in range(calls):
        await call()
    return (time.perf_counter() - started) / calls


async def measured(url: str, directory: Path) -> dict[str, float]:
    """Every client in turn, so that all see the same machine."""
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
                again = await seconds(
                    lambda c=client, p=prompt: c.complete(p, temperature=0),  # type: ignore[misc]
                    calls,
                )
                new = await seconds(
                    lambda c=client, p=prompt: c.complete(p, seed=next(seeds)),  # type: ignore[misc]
                    calls,
                )
                seen.setdefault((prompt, name, "again"), []).append(again)
                seen.setdefault((prompt, name, "new"), []).append(new)
    for client in clients.values():
        await client.close()
    return figures({key: statistics.median(values) for key, values in seen.items()})


def figures(took: dict[tuple[str, str, str], float]) -> dict[str, float]:
    """Ratios to the call without a cache."""
    told: dict[str, float] = {}
    for prompt in CALLS:
        plain = took[prompt, "no cache", "new"]
        told[f"µs per {prompt} call without a cache"] = plain * 1e6
        for name in ("memory", "SQLite"):
            hit, miss = took[prompt, name, "again"], took[prompt, name, "new"]
            told[f"µs per {prompt} hit, {name}"] = hit * 1e6
            told[f"{prompt} hit, {name} / call without"] = hit / plain
            told[f"{prompt} miss, {name} / call without"] = miss / plain
    return told


def main() -> None:
    """Measure, and keep the figures."""
    with server.started() as url, tempfile.TemporaryDirectory() as directory:
        keep("cache", asyncio.run(measured(url, Path(directory))))


if __name__ == "__main__":
    main()
