"""What `FoundryClient` adds to `FoundryAPIClient`: the way to another thread and back.

python3 dev.py bench blocking

Both call the same service that costs next to nothing, in turn, so that all that differs is seen.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from parts import server
from parts.results import keep

from foundry_api import FoundryAPIClient, FoundryClient
from foundry_api.resilience.limiter import LimiterSettings

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 9
CALLS = 200
STREAMS = 10
CHUNKS = 498
"""Tokens that a long answer has more than a short one."""

AT_ONCE = 64
LIMITS = LimiterSettings(initial=AT_ONCE, maximum=256)


class Blocking:
    """`FoundryClient`."""

    def __init__(self, base_url: str) -> None:
        self._client = FoundryClient(base_url, model="tiny", limiter=LIMITS)
        self._pool = ThreadPoolExecutor(AT_ONCE)

    def calls(self) -> None:
        """Calls, one after another."""
        for _ in range(CALLS):
            self._client.complete("short")

    def rush(self) -> None:
        """As many calls, many at once."""
        list(self._pool.map(lambda _: self._client.complete("short"), range(CALLS)))

    def streams(self) -> None:
        """Long answers, one after another."""
        for _ in range(STREAMS):
            for _ in self._client.stream_complete("long"):
                pass

    def close(self) -> None:
        """Close what is open."""
        self._pool.shutdown()
        self._client.close()


class Awaited:
    """`FoundryAPIClient`."""

    def __init__(self, base_url: str) -> None:
        self._client = FoundryAPIClient(base_url, model="tiny", limiter=LIMITS)
        self._runner = asyncio.Runner()

    def calls(self) -> None:
        """As above."""

        async def calls() -> None:
            for _ in range(CALLS):
                await self._client.complete("short")

        self._runner.run(calls())

    def rush(self) -> None:
        """As above."""

        async def caller() -> None:
            for _ in range(CALLS // AT_ONCE):
                await self._client.complete("short")

        async def callers() -> None:
            await asyncio.gather(*(caller() for _ in range(AT_ONCE)))

        self._runner.run(callers())

    def streams(self) -> None:
        """As above."""

        async def streams() -> None:
            for _ in range(STREAMS):
                async for _ in self._client.stream_complete("long"):
                    pass

        self._runner.run(streams())

    def close(self) -> None:
        """As above."""
        self._runner.run(self._client.close())
        self._runner.close()


def seconds(work: Callable[[], None]) -> tuple[float, float]:
    """What some work took on the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def main() -> None:
    """Measure them in turn, so that both meet the same machine."""
    seen: dict[str, list[float]] = {}
    with server.started() as url:
        clients = {"sync": Blocking(url), "async": Awaited(url)}
        for _ in range(ROUNDS):
            for name, client in clients.items():
                for what, work, units in (
                    ("call", client.calls, CALLS),
                    (f"call, {AT_ONCE} at once", client.rush, CALLS // AT_ONCE * AT_ONCE),
                    ("chunk", client.streams, STREAMS * CHUNKS),
                ):
                    clock, processor = seconds(work)
                    seen.setdefault(f"µs per {what}, {name}", []).append(clock / units * 1e6)
                    seen.setdefault(f"CPU µs per {what}, {name}", []).append(
                        processor / units * 1e6
                    )
        for client in clients.values():
            client.close()
    figures = {name: statistics.median(values) for name, values in seen.items()}
    ratios = {
        f"{name.removesuffix(', sync')}, sync / async": value
        / figures[f"{name.removesuffix(', sync')}, async"]
        for name, value in figures.items()
        if name.endswith(", sync")
    }
    keep("blocking", {**figures, **ratios})


if __name__ == "__main__":
    main()
