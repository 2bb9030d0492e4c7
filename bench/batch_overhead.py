"""What a batch costs for each line beside the engine's time, and beside reading and writing JSONL.

The engine's time is taken away: by an engine that answers at once, for all but the client, and by a
service that costs next to nothing, in a process of its own, for the client.

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
from parts import server
from parts.at_once import BODY, AtOnce, write_input
from parts.floor import by_hand
from parts.results import keep

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
CALLS = 4_000
"""Lines that go to the service, which take longer."""

AT_ONCE = 16
PREFIX = "foundry-api-bench-"


@dataclass(slots=True)
class Watch:
    """Seconds of a layer: on the wall, and of this process's processors, all threads."""

    _began: tuple[float, float] = field(
        default_factory=lambda: (time.perf_counter(), time.process_time())
    )

    def lap(self) -> tuple[float, float]:
        """Since it was made, or since the last lap."""
        wall, busy = self._began
        self._began = now = time.perf_counter(), time.process_time()
        return now[0] - wall, now[1] - busy


def floor(source: Path, target: Path) -> None:
    """Read, decode, encode, write, and sync once: what a script does that has its answers."""
    decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
    with source.open("rb") as lines, target.open("wb") as output:
        for line in lines:
            name = decode(line)["custom_id"]
            told = {"status_code": 200, "request_id": "req_1", "body": msgspec.Raw(BODY)}
            answer = {"id": "batch_req_1", "custom_id": name, "response": told, "error": None}
            output.write(encode(answer) + b"\n")
        output.flush()
        os.fsync(output.fileno())


async def unrecorded(source: Path, engine: BatchEngine) -> None:
    """A run that remembers nothing."""
    task = RunPlan(source=open_source(InputOptions(path=str(source))))
    with SerialExecutor() as thread, io.BytesIO() as answers:
        ledger = StdoutStore(answers)
        await BatchRunner(
            task, ledger, engine, thread=thread, meter=ProgressMeter(), on_progress=lambda _: None
        ).run()


async def recorded(source: Path, engine: BatchEngine) -> dict[str, tuple[float, float]]:
    """A whole batch: the laps of checking, of running and of publishing."""
    laps: dict[str, tuple[float, float]] = {}
    watch, phase = Watch(), "checking"

    def hear(progress: BatchProgress) -> None:
        nonlocal phase
        if progress.phase not in {phase, "waiting"}:
            laps[phase] = watch.lap()
            phase = progress.phase

    with tempfile.TemporaryDirectory(prefix=PREFIX) as scratch:
        options = BatchOptions(
            input=InputOptions(path=str(source)), output=str(Path(scratch) / "answers.jsonl")
        )
        await BatchJob(options, on_progress=hear).run(engine)
    laps[phase] = watch.lap()
    return laps


def read_through(source: Path) -> None:
    """Read the lines, and understand them."""
    reading = InputPass(open_source(InputOptions(path=str(source))), StdoutStore())
    for _ in reading.iter_blocks():
        pass


def without_client(source: Path) -> dict[str, tuple[float, float]]:
    """The layers of one round."""
    watch = Watch()

    def lap(layer: Callable[[], object]) -> tuple[float, float]:
        watch.lap()
        layer()
        return watch.lap()

    told = {
        "floor": lap(lambda: floor(source, source.with_name("floor.jsonl"))),
        "check": lap(lambda: check(open_source(InputOptions(path=str(source))))),
        "read": lap(lambda: read_through(source)),
        "run without a journal": lap(lambda: asyncio.run(unrecorded(source, AtOnce()))),
    }
    laps = asyncio.run(recorded(source, AtOnce()))
    told["first look: fingerprint and check"] = laps["checking"]
    told["run with its journal"] = laps["running"]
    told["publish"] = laps["publishing"]
    told["whole batch"] = _sum(*laps.values())
    return told


def _sum(*laps: tuple[float, float]) -> tuple[float, float]:
    return sum(lap[0] for lap in laps), sum(lap[1] for lap in laps)


async def with_client(url: str, source: Path) -> dict[str, tuple[float, float]]:
    """A batch over the service, the client alone, and the same calls by hand."""
    at_once = LimiterSettings(concurrency=AT_ONCE)
    told: dict[str, tuple[float, float]] = {}
    async with FoundryAPIClient(url, model="tiny:1", limiter=at_once) as client:
        await client.complete("short")
        watch = Watch()
        await unrecorded(source, LocalEngine(client))
        told["run over HTTP, without a journal"] = watch.lap()
        await called(lambda prompt: client.complete(prompt, max_tokens=50))
        told["client.complete"] = watch.lap()
    async with aiohttp.ClientSession() as session:
        watch.lap()
        await called(lambda prompt: by_hand(session, url, prompt))
        told["raw aiohttp by hand"] = watch.lap()
    return told


async def called(call: Callable[[str], Awaitable[object]]) -> None:
    """All prompts, so many at once as the batch has."""
    numbers = iter(range(CALLS))

    async def caller() -> None:
        for number in numbers:
            await call(f"Give a short answer to question {number}, in one sentence.")

    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))


def main() -> None:
    """All layers in turn, so that all meet the same machine."""
    seen: dict[str, list[tuple[float, float]]] = {}
    with server.started() as url, tempfile.TemporaryDirectory(prefix=PREFIX) as scratch:
        many, few = Path(scratch) / "many.jsonl", Path(scratch) / "few.jsonl"
        write_input(many, LINES)
        write_input(few, CALLS)
        for _ in range(ROUNDS):
            for layer, laps in without_client(many).items():
                seen.setdefault(layer, []).append((laps[0] / LINES, laps[1] / LINES))
            for layer, laps in asyncio.run(with_client(url, few)).items():
                seen.setdefault(layer, []).append((laps[0] / CALLS, laps[1] / CALLS))
    figures: dict[str, float] = {}
    for layer, values in seen.items():
        # The least of the rounds: what is above it is other programs' doing.
        figures[f"µs/line, {layer}"] = min(wall for wall, _ in values) * 1e6
        figures[f"CPU µs/line, {layer}"] = min(busy for _, busy in values) * 1e6
    busy = {layer: figures[f"CPU µs/line, {layer}"] for layer in seen}
    figures["CPU µs/line, journal"] = busy["run with its journal"] - busy["run without a journal"]
    figures["CPU, whole batch / floor"] = busy["whole batch"] / busy["floor"]
    for layer in ("run over HTTP, without a journal", "client.complete"):
        figures[f"CPU, {layer} / raw aiohttp by hand"] = busy[layer] / busy["raw aiohttp by hand"]
    keep("batch_overhead", figures)


if __name__ == "__main__":
    main()
