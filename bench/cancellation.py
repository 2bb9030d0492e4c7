"""Processor use of the engine half a second after 50 time-outs, and after 50 cancellations.

python3 dev.py bench cancellation
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import psutil
from parts.results import save_figures

from foundry_api import FoundryAPIClient, FoundryError, LimiterSettings

CALLS = 50
AFTER_S = 0.5
MEASURE_S = 2.0
PROMPT = "Tell me a very long story about the sea, the wind and the stars."


async def engine_cpu(engine: psutil.Process, seconds: float) -> float:
    """Measure the processor seconds that the engine uses per second."""
    before = engine.cpu_times()
    await asyncio.sleep(seconds)
    after = engine.cpu_times()
    return (after.user + after.system - before.user - before.system) / seconds


async def call_with_short_deadline(client: FoundryAPIClient) -> None:
    try:
        await client.complete(PROMPT, max_tokens=2000, deadline=0.5)
    except FoundryError:
        return


async def main() -> None:
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="foundry-api-bench-") as home:
        async with FoundryAPIClient(
            service="embedded",
            home=Path(home),
            model="demo",
            limiter=LimiterSettings(concurrency=CALLS),
        ) as client:
            await client.complete("Hello", max_tokens=2)
            (engine,) = psutil.Process().children()
            await asyncio.sleep(1)
            figures["engine at rest, processor s/s"] = await engine_cpu(engine, MEASURE_S)
            calls = [asyncio.create_task(call_with_short_deadline(client)) for _ in range(CALLS)]
            figures["engine at work, processor s/s"] = await engine_cpu(engine, 0.3)
            await asyncio.gather(*calls)
            await asyncio.sleep(AFTER_S)
            figures[f"{AFTER_S} s after {CALLS} time-outs"] = await engine_cpu(engine, MEASURE_S)
            calls = [asyncio.create_task(call_with_short_deadline(client)) for _ in range(CALLS)]
            await asyncio.sleep(0.3)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await asyncio.sleep(AFTER_S)
            figures[f"{AFTER_S} s after {CALLS} cancellations"] = await engine_cpu(
                engine, MEASURE_S
            )
    save_figures("cancellation", figures)


if __name__ == "__main__":
    asyncio.run(main())
