"""The cost of `FoundryClient` over `FoundryAPIClient`: each call goes to another thread and back.

python3 dev.py bench blocking

Both call the same service in turn. It costs next to nothing, so that the difference is visible.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from parts import server
from parts.results import save_figures

from foundry_api import FoundryAPIClient, FoundryClient
from foundry_api.resilience.limiter import LimiterSettings

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 9
CALLS = 200
STREAMS = 10
# A long answer has this many more tokens than a short one.
CHUNKS = 498
CONCURRENCY = 64
LIMITS = LimiterSettings(initial=CONCURRENCY, maximum=256)


class SyncWorkload:
    def __init__(self, base_url: str) -> None:
        self._client = FoundryClient(base_url, model="tiny", limiter=LIMITS)
        self._pool = ThreadPoolExecutor(CONCURRENCY)

    def calls(self) -> None:
        """Call one after another."""
        for _ in range(CALLS):
            self._client.complete("short")

    def concurrent_calls(self) -> None:
        """Make as many calls concurrently."""
        list(self._pool.map(lambda _: self._client.complete("short"), range(CALLS)))

    def streams(self) -> None:
        """Stream long answers one after another."""
        for _ in range(STREAMS):
            for _ in self._client.stream_complete("long"):
                pass

    def close(self) -> None:
        self._pool.shutdown()
        self._client.close()


class AsyncWorkload:
    def __init__(self, base_url: str) -> None:
        self._client = FoundryAPIClient(base_url, model="tiny", limiter=LIMITS)
        self._runner = asyncio.Runner()

    def calls(self) -> None:

        async def calls() -> None:
            for _ in range(CALLS):
                await self._client.complete("short")

        self._runner.run(calls())

    def concurrent_calls(self) -> None:

        async def caller() -> None:
            for _ in range(CALLS // CONCURRENCY):
                await self._client.complete("short")

        async def callers() -> None:
            await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))

        self._runner.run(callers())

    def streams(self) -> None:

        async def streams() -> None:
            for _ in range(STREAMS):
                async for _ in self._client.stream_complete("long"):
                    pass

        self._runner.run(streams())

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


def measure_s(work: Callable[[], None]) -> tuple[float, float]:
    """Measure the wall time and the processor time of some work."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    samples: dict[str, list[float]] = {}
    with server.start() as url:
        clients = {"sync": SyncWorkload(url), "async": AsyncWorkload(url)}
        # Both take turns, so that they see the same machine.
        for _ in range(ROUNDS):
            for name, client in clients.items():
                for unit, work, units in (
                    ("call", client.calls, CALLS),
                    (
                        f"call, {CONCURRENCY} at once",
                        client.concurrent_calls,
                        CALLS // CONCURRENCY * CONCURRENCY,
                    ),
                    ("chunk", client.streams, STREAMS * CHUNKS),
                ):
                    wall_s, cpu_s = measure_s(work)
                    samples.setdefault(f"µs per {unit}, {name}", []).append(wall_s / units * 1e6)
                    samples.setdefault(f"CPU µs per {unit}, {name}", []).append(cpu_s / units * 1e6)
        for client in clients.values():
            client.close()
    figures = {name: statistics.median(values) for name, values in samples.items()}
    ratios = {
        f"{name.removesuffix(', sync')}, sync / async": value
        / figures[f"{name.removesuffix(', sync')}, async"]
        for name, value in figures.items()
        if name.endswith(", sync")
    }
    save_figures("blocking", {**figures, **ratios})


if __name__ == "__main__":
    main()
