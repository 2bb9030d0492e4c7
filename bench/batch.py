"""A batch on the real engine, beside a loop, `asyncio.gather` and semaphores tuned by hand.

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

from parts.peers import work
from parts.results import keep

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
"""How many tokens each line may have."""

Asked = list[tuple[str, int]]


async def with_semaphore(client: FoundryAPIClient, asked: Asked, at_once: int) -> int:
    """As one writes it by hand. The tokens of all answers."""
    gate = asyncio.Semaphore(at_once)

    async def one(prompt: str, limit: int) -> int:
        async with gate:
            answer = await client.complete(prompt, max_tokens=limit)
            return answer.usage.completion_tokens

    return sum(await asyncio.gather(*(one(*each) for each in asked)))


async def with_batch(client: FoundryAPIClient, asked: Asked) -> int:
    """Ours."""
    requests = [
        BatchRequest(
            custom_id=str(index),
            body={"messages": [{"role": "user", "content": prompt}], "max_tokens": limit},
        )
        for index, (prompt, limit) in enumerate(asked)
    ]
    tokens = 0
    async for result in client.batch(requests, errors="raise"):
        usage = result.unwrap().usage
        tokens += usage.completion_tokens if usage else 0
    return tokens


async def rate(
    base_url: str, limits: LimiterSettings, run: Callable[[FoundryAPIClient], Awaitable[int]]
) -> float:
    """Tokens a second of a client that begins anew."""
    async with FoundryAPIClient(base_url, model="demo", timeout=300, limiter=limits) as client:
        await client.complete("Hello", max_tokens=2)
        started = time.perf_counter()
        tokens = await run(client)
        return tokens / (time.perf_counter() - started)


async def measure(base_url: str, asked: Asked) -> dict[str, float]:
    """Medians of all ways in turn, so that all meet the same machine."""
    seen: dict[str, list[float]] = {}
    none = LimiterSettings(concurrency=256)
    for _ in range(ROUNDS):
        for n in SEMAPHORES:
            told = await rate(base_url, none, lambda client, n=n: with_semaphore(client, asked, n))  # type: ignore[misc]
            seen.setdefault(f"semaphore {n}", []).append(told)
        ours = await rate(base_url, LimiterSettings(), lambda client: with_batch(client, asked))
        seen.setdefault("batch", []).append(ours)
        peer = await asyncio.to_thread(work, "gather", "openai", base_url, json.dumps(asked))
        seen.setdefault("gather with openai", []).append(peer)
    return {name: statistics.median(values) for name, values in seen.items()}


async def main() -> None:
    """Measure each kind of file."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="foundry-api-bench-") as home:
        async with FoundryAPIClient(service="embedded", home=Path(home)) as own:
            service = (await own.complete("Hello", model="demo", max_tokens=2)).service
            for name, limit in FILES.items():
                asked = [(f"Tell me fact {n}.", limit(n)) for n in range(LINES)]
                rates = await measure(service, asked)
                best = max(value for way, value in rates.items() if way.startswith("semaphore"))
                figures |= {f"tokens/s, {name}, {way}": value for way, value in rates.items()}
                figures[f"{name}: batch / best semaphore"] = rates["batch"] / best
                figures[f"{name}: batch / loop"] = rates["batch"] / rates["semaphore 1"]
                figures[f"{name}: batch / gather with openai"] = (
                    rates["batch"] / rates["gather with openai"]
                )
                print(name, f"{rates['batch'] / best:.3f}", flush=True)
    keep("batch", figures)


if __name__ == "__main__":
    asyncio.run(main())
