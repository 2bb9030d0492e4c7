"""512 concurrent calls to the real engine: the adaptive limiter and every fixed concurrency.

python3 dev.py bench burst
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from parts.results import save_figures

from foundry_api import FoundryAPIClient
from foundry_api.resilience.limiter import LimiterSettings

CALLS = 512
TOKENS = 16
ROUNDS = 5
FIXED = (1, 2, 4, 8, 16, 32)
# `asyncio.gather` without a limiter has all calls in flight.
UNLIMITED = CALLS


async def tokens_per_second(base_url: str, limits: LimiterSettings) -> tuple[float, int]:
    """Measure the throughput of all calls, and the limit at the end."""
    async with FoundryAPIClient(base_url, model="demo", timeout=300, limiter=limits) as client:
        await client.complete("Hello", max_tokens=2)
        started = time.perf_counter()
        answers = await asyncio.gather(
            *(client.complete(f"Tell me fact {n}.", max_tokens=TOKENS) for n in range(CALLS))
        )
        took_s = time.perf_counter() - started
        tokens = sum(answer.usage.completion_tokens for answer in answers)
        return tokens / took_s, client.limiter.statistics().limit


async def main() -> None:
    # Configurations take turns, so that all see the same machine.
    configurations = {
        f"fixed at {n}": LimiterSettings(concurrency=n, maximum=UNLIMITED)
        for n in (*FIXED, UNLIMITED)
    }
    configurations["adaptive"] = LimiterSettings()
    samples: dict[str, list[float]] = {name: [] for name in configurations}
    with tempfile.TemporaryDirectory(prefix="foundry-api-bench-") as home:
        async with FoundryAPIClient(service="embedded", home=Path(home)) as own:
            service = (await own.complete("Hello", model="demo", max_tokens=2)).service
            for _ in range(ROUNDS):
                for name, limits in configurations.items():
                    rate, limit = await tokens_per_second(service, limits)
                    samples[name].append(rate)
                    print(f"{name:14} {rate:8.0f} tokens/s, limit {limit} at the end", flush=True)
    rates = {name: statistics.median(values) for name, values in samples.items()}
    best = max(rate for name, rate in rates.items() if name != "adaptive")
    save_figures(
        "burst",
        {
            **{f"tokens/s, {name}": rate for name, rate in rates.items()},
            "adaptive / best fixed": rates["adaptive"] / best,
            "gather / best fixed": rates[f"fixed at {UNLIMITED}"] / best,
        },
    )


if __name__ == "__main__":
    asyncio.run(main())
