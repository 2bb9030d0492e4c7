"""Overhead of a batch per line, compared with only reading and writing JSONL.

All layers but the client are measured with an engine that answers immediately, the client with a
service in its own process that costs next to nothing.

python3 dev.py bench batch_overhead
"""

from __future__ import annotations

import asyncio
import io
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import msgspec
from parts import baseline, server
from parts.instant_engine import BODY, InstantEngine, write_input
from parts.results import save_figures

from foundry_api import FoundryAPIClient, LimiterSettings
from foundry_api.batch.async_tools import SerialExecutor
from foundry_api.batch.engine import LocalEngine
from foundry_api.batch.job import BatchJob
from foundry_api.batch.progress import ProgressMeter
from foundry_api.batch.result_store import StdoutStore
from foundry_api.batch.runner import BatchRunner, InputPass, RunPlan
from foundry_api.batch.sources import check, open_source
from foundry_api.batch.types import BatchOptions, InputOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from foundry_api.batch.engine import BatchEngine
    from foundry_api.batch.progress import BatchProgress

ROUNDS = 5
LINES = 20_000
# Lines that go to the service, which take longer.
CALLS = 4_000
CONCURRENCY = 16
PREFIX = "foundry-api-bench-"


@dataclass(slots=True)
class Stopwatch:
    """Measures laps in wall time and in processor time of this process."""

    _started: tuple[float, float] = field(
        default_factory=lambda: (time.perf_counter(), time.process_time())
    )

    def lap(self) -> tuple[float, float]:
        """Return the wall and processor seconds since the previous lap."""
        wall, cpu = self._started
        self._started = now = time.perf_counter(), time.process_time()
        return now[0] - wall, now[1] - cpu


def copy_jsonl(source: Path, target: Path) -> None:
    """Read, decode, encode, write, and sync once, as a minimal script does."""
    decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
    with source.open("rb") as lines, target.open("wb") as output:
        for line in lines:
            custom_id = decode(line)["custom_id"]
            response = {"status_code": 200, "request_id": "req_1", "body": msgspec.Raw(BODY)}
            answer = {
                "id": "batch_req_1",
                "custom_id": custom_id,
                "response": response,
                "error": None,
            }
            output.write(encode(answer) + b"\n")
        output.flush()
        os.fsync(output.fileno())


async def run_without_journal(source: Path, engine: BatchEngine) -> None:
    task = RunPlan(source=open_source(InputOptions(path=str(source))))
    with SerialExecutor() as thread, io.BytesIO() as answers:
        store = StdoutStore(answers)
        await BatchRunner(
            task, store, engine, thread=thread, meter=ProgressMeter(), on_progress=lambda _: None
        ).run()


async def run_batch(source: Path, engine: BatchEngine) -> dict[str, tuple[float, float]]:
    """Run a whole batch; return the laps of checking, running and publishing."""
    laps: dict[str, tuple[float, float]] = {}
    stopwatch, phase = Stopwatch(), "checking"

    def on_progress(progress: BatchProgress) -> None:
        nonlocal phase
        if progress.phase not in {phase, "waiting"}:
            laps[phase] = stopwatch.lap()
            phase = progress.phase

    with tempfile.TemporaryDirectory(prefix=PREFIX) as scratch:
        options = BatchOptions(
            input=InputOptions(path=str(source)), output=str(Path(scratch) / "answers.jsonl")
        )
        await BatchJob(options, on_progress=on_progress).run(engine)
    laps[phase] = stopwatch.lap()
    return laps


def parse_all(source: Path) -> None:
    reading = InputPass(open_source(InputOptions(path=str(source))), StdoutStore())
    for _ in reading.iter_blocks():
        pass


def measure_layers(source: Path) -> dict[str, tuple[float, float]]:
    stopwatch = Stopwatch()

    def lap(layer: Callable[[], object]) -> tuple[float, float]:
        stopwatch.lap()
        layer()
        return stopwatch.lap()

    layers = {
        "baseline": lap(lambda: copy_jsonl(source, source.with_name("copy.jsonl"))),
        "check": lap(lambda: check(open_source(InputOptions(path=str(source))))),
        "read": lap(lambda: parse_all(source)),
        "run without a journal": lap(
            lambda: asyncio.run(run_without_journal(source, InstantEngine()))
        ),
    }
    laps = asyncio.run(run_batch(source, InstantEngine()))
    layers["start: fingerprint and check"] = laps["checking"]
    layers["run with its journal"] = laps["running"]
    layers["publish"] = laps["publishing"]
    layers["whole batch"] = (
        sum(wall for wall, _ in laps.values()),
        sum(cpu for _, cpu in laps.values()),
    )
    return layers


async def measure_http(url: str, source: Path) -> dict[str, tuple[float, float]]:
    """Measure a batch over HTTP, the client alone, and the same calls with raw aiohttp."""
    limits = LimiterSettings(concurrency=CONCURRENCY)
    layers: dict[str, tuple[float, float]] = {}
    async with FoundryAPIClient(url, model="tiny:1", limiter=limits) as client:
        await client.complete("short")
        stopwatch = Stopwatch()
        await run_without_journal(source, LocalEngine(client))
        layers["run over HTTP, without a journal"] = stopwatch.lap()
        await call_all(lambda prompt: client.complete(prompt, max_tokens=50))
        layers["client.complete"] = stopwatch.lap()
    async with aiohttp.ClientSession() as session:
        stopwatch.lap()
        await call_all(lambda prompt: baseline.complete(session, url, prompt))
        layers["raw aiohttp"] = stopwatch.lap()
    return layers


async def call_all(call: Callable[[str], Awaitable[object]]) -> None:
    """Send all prompts with the concurrency of the batch."""
    numbers = iter(range(CALLS))

    async def caller() -> None:
        for number in numbers:
            await call(f"Give a short answer to question {number}, in one sentence.")

    await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))


def main() -> None:
    samples: dict[str, list[tuple[float, float]]] = {}
    with server.start() as url, tempfile.TemporaryDirectory(prefix=PREFIX) as scratch:
        many, few = Path(scratch) / "many.jsonl", Path(scratch) / "few.jsonl"
        write_input(many, LINES)
        write_input(few, CALLS)
        # Layers take turns, so that all see the same machine.
        for _ in range(ROUNDS):
            for layer, laps in measure_layers(many).items():
                samples.setdefault(layer, []).append((laps[0] / LINES, laps[1] / LINES))
            for layer, laps in asyncio.run(measure_http(url, few)).items():
                samples.setdefault(layer, []).append((laps[0] / CALLS, laps[1] / CALLS))
    figures: dict[str, float] = {}
    for layer, values in samples.items():
        # The minimum of the rounds has the least disturbance by other programs.
        figures[f"µs/line, {layer}"] = min(wall for wall, _ in values) * 1e6
        figures[f"CPU µs/line, {layer}"] = min(cpu for _, cpu in values) * 1e6
    cpu_us = {layer: figures[f"CPU µs/line, {layer}"] for layer in samples}
    figures["CPU µs/line, journal"] = (
        cpu_us["run with its journal"] - cpu_us["run without a journal"]
    )
    figures["CPU, whole batch / baseline"] = cpu_us["whole batch"] / cpu_us["baseline"]
    for layer in ("run over HTTP, without a journal", "client.complete"):
        figures[f"CPU, {layer} / raw aiohttp"] = cpu_us[layer] / cpu_us["raw aiohttp"]
    save_figures("batch_overhead", figures)


if __name__ == "__main__":
    main()
