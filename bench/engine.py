"""Throughput of the engine in this package's host, relative to the engine as its SDK starts it.

python3 dev.py bench engine                       # the demo model
python3 dev.py bench engine DIRECTORY [ROUNDS]    # another model directory

Both engines run at the same time, and answer in turn.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from parts.results import save_figures

from foundry_api import FoundryAPIClient, LimiterSettings
from foundry_api.engine.process import get_demo_models

if TYPE_CHECKING:
    from collections.abc import Generator

CONCURRENCIES = (1, 2, 4, 8, 16, 32)
# Few callers make more calls each, so that every sample takes some seconds.
MIN_CALLS, CALLS_PER_CALLER = 16, 3
MAX_TOKENS = 200
ROUNDS = 5
ALIAS = "bench-engine"
PROMPT = "Write a story about the sea, the wind and the stars."
SHIPPED = Path(__file__).resolve().parent / "parts" / "shipped_engine.py"


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of an engine.

    Attributes:
        tokens_per_s: Of all calls together.
        first_token_s: Median time to first token.
        cores: Processor seconds per second that the engine used.
    """

    tokens_per_s: float
    first_token_s: float
    cores: float


@contextmanager
def start_shipped_engine(home: Path, model: Path) -> Generator[tuple[str, int]]:
    """Start the engine as shipped; yield its URL and pid."""
    command = [sys.executable, str(SHIPPED), str(home / "shipped"), str(model), ALIAS]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdin is not None  # noqa: S101 - for type checkers
        assert process.stdout is not None  # noqa: S101 - for type checkers
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.stdin.close()
            process.terminate()


async def measure(client: FoundryAPIClient, engine: psutil.Process, concurrency: int) -> Sample:
    first_tokens: list[float] = []
    tokens = 0

    async def caller() -> None:
        nonlocal tokens
        for _ in range(max(CALLS_PER_CALLER, MIN_CALLS // concurrency)):
            answer = await client.complete(PROMPT, max_tokens=MAX_TOKENS, temperature=1.0)
            tokens += answer.usage.completion_tokens
            first_tokens.append(answer.timings.time_to_first_token_s or 0.0)

    before, started_at = engine.cpu_times(), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    elapsed_s, after = time.perf_counter() - started_at, engine.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    return Sample(tokens / elapsed_s, statistics.median(first_tokens), cpu_s / elapsed_s)


async def main(model: Path, rounds: int) -> None:
    samples: dict[tuple[str, int], list[Sample]] = {}
    limiter = LimiterSettings(concurrency=max(CONCURRENCIES))
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="foundry-api-bench-")))
        url, pid = stack.enter_context(start_shipped_engine(home, model))
        shipped = FoundryAPIClient(url, home=home, model=ALIAS, limiter=limiter)
        hosted = FoundryAPIClient(service="embedded", home=home, model=ALIAS, limiter=limiter)
        for client in (shipped, hosted):
            await stack.enter_async_context(client)
        await hosted.models.register(model, ALIAS)
        for client in (shipped, hosted):
            await client.complete(PROMPT, max_tokens=2)
        [host] = [child for child in psutil.Process().children() if child.pid != pid]
        engines = {"as shipped": (shipped, psutil.Process(pid)), "ours": (hosted, host)}
        for number in range(rounds):
            order = list(engines.items())[:: 1 if number % 2 else -1]  # each is first in turn
            for concurrency in CONCURRENCIES:
                for name, (client, engine) in order:
                    sample = await measure(client, engine, concurrency)
                    samples.setdefault((name, concurrency), []).append(sample)
    figures: dict[str, float] = {}
    for concurrency in CONCURRENCIES:
        ours, theirs = samples["ours", concurrency], samples["as shipped", concurrency]
        pairs = list(zip(ours, theirs, strict=True))
        figures[f"tokens/s at {concurrency}, as shipped"] = statistics.median(
            sample.tokens_per_s for sample in theirs
        )
        figures[f"tokens/s at {concurrency}, ours / as shipped"] = statistics.median(
            one.tokens_per_s / other.tokens_per_s for one, other in pairs
        )
        figures[f"time to first token at {concurrency}, ours / as shipped"] = statistics.median(
            one.first_token_s / other.first_token_s for one, other in pairs
        )
        for name, engine_samples in (("ours", ours), ("as shipped", theirs)):
            figures[f"cores at {concurrency}, {name}"] = statistics.median(
                sample.cores for sample in engine_samples
            )
    save_figures("engine", figures)


if __name__ == "__main__":
    directory, *more = sys.argv[1:] or [get_demo_models()[0].path]
    asyncio.run(main(Path(directory).resolve(), int(more[0]) if more else ROUNDS))
