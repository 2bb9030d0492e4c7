"""Throughput of a batch on the real engine, compared with a loop, semaphores and openai.

python3 dev.py bench batch
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from parts.peers import run_job
from parts.results import save_figures

from foundry_api import BatchRequest, FoundryAPIClient, LimiterSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LINES = 600
ROUNDS = 5
SEMAPHORES = (1, 2, 4, 8, 16)
SHORT, LONG = 4, 120
FILES = {
    "short": lambda _: SHORT,
    "long": lambda _: LONG,
    "mixed": lambda n: LONG if n % 4 == 0 else SHORT,
}
"""The max_tokens of line `n`."""

# Prompts with their max_tokens.
Requests = list[tuple[str, int]]


async def run_with_semaphore(client: FoundryAPIClient, requests: Requests, concurrency: int) -> int:
    """Return the total of completion tokens."""
    semaphore = asyncio.Semaphore(concurrency)

    async def complete(prompt: str, limit: int) -> int:
        async with semaphore:
            answer = await client.complete(prompt, max_tokens=limit)
            return answer.usage.completion_tokens

    return sum(await asyncio.gather(*(complete(*request) for request in requests)))


async def run_batch(client: FoundryAPIClient, requests: Requests) -> int:
    """Return the total of completion tokens."""
    items = [
        BatchRequest(
            custom_id=str(index),
            body={"messages": [{"role": "user", "content": prompt}], "max_tokens": limit},
        )
        for index, (prompt, limit) in enumerate(requests)
    ]
    tokens = 0
    async for result in client.batch(items, errors="raise"):
        usage = result.unwrap().usage
        tokens += usage.completion_tokens if usage else 0
    return tokens


async def measure_rate(
    base_url: str, limits: LimiterSettings, run: Callable[[FoundryAPIClient], Awaitable[int]]
) -> float:
    """Measure the tokens per second of a new client."""
    async with FoundryAPIClient(base_url, model="demo", timeout=300, limiter=limits) as client:
        await client.complete("Hello", max_tokens=2)
        started = time.perf_counter()
        tokens = await run(client)
        return tokens / (time.perf_counter() - started)


async def measure(base_url: str, requests: Requests) -> dict[str, float]:
    """Measure all ways in turn, so that they see the same machine; return the medians."""
    samples: dict[str, list[float]] = {}
    unlimited = LimiterSettings(concurrency=256)
    for _ in range(ROUNDS):
        for n in SEMAPHORES:
            rate = await measure_rate(
                base_url,
                unlimited,
                lambda client, n=n: run_with_semaphore(client, requests, n),  # type: ignore[misc]
            )
            samples.setdefault(f"semaphore {n}", []).append(rate)
        rate = await measure_rate(
            base_url, LimiterSettings(), lambda client: run_batch(client, requests)
        )
        samples.setdefault("batch", []).append(rate)
        rate = await asyncio.to_thread(run_job, "gather", "openai", base_url, json.dumps(requests))
        samples.setdefault("gather with openai", []).append(rate)
    return {name: statistics.median(values) for name, values in samples.items()}


async def main() -> None:
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="foundry-api-bench-") as home:
        async with FoundryAPIClient(service="embedded", home=Path(home)) as own:
            service = (await own.complete("Hello", model="demo", max_tokens=2)).service
            for name, limit in FILES.items():
                requests = [(f"Tell me fact {n}.", limit(n)) for n in range(LINES)]
                rates = await measure(service, requests)
                best = max(value for way, value in rates.items() if way.startswith("semaphore"))
                figures |= {f"tokens/s, {name}, {way}": value for way, value in rates.items()}
                figures[f"{name}: batch / best semaphore"] = rates["batch"] / best
                figures[f"{name}: batch / loop"] = rates["batch"] / rates["semaphore 1"]
                figures[f"{name}: batch / gather with openai"] = (
                    rates["batch"] / rates["gather with openai"]
                )
                print(name, f"{rates['batch'] / best:.3f}", flush=True)
    save_figures("batch", figures)


if __name__ == "__main__":
    asyncio.run(main())
