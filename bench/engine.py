"""The engine in this package's host, relative to the engine as its SDK starts it.

python3 dev.py bench engine                             # the demo model
python3 dev.py bench engine DIRECTORY                   # another model directory
python3 dev.py bench engine DIRECTORY ROUNDS PARTS      # such as `5 1,4,prompt`

Both engines run at the same time, and answer in turn. A part is a number of concurrent calls, or
`prompt`: the reading of a long one. Parts that are measured later are added to the results.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from parts import shipped_engine
from parts.results import load_figures, save_figures

from foundry_api import FoundryAPIClient, LimiterSettings
from foundry_api.engine.models.directory import read_configuration
from foundry_api.engine.process import get_demo_models

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

READING = "prompt"
PARTS = ("1", "2", "4", "8", "16", "32", READING)
ROUNDS = 5
# A sample takes one caller this time at least; the length of an answer follows from it.
SAMPLE_S = 1.0
ANSWERS_PER_SAMPLE = 4
MIN_TOKENS, MAX_TOKENS = 24, 200
PROMPT_TOKENS = 1500
READINGS_PER_SAMPLE_S = 0.5
ALIAS = "bench-engine"
QUESTION = "Write a story about the sea, the wind and the stars."


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine under test, with the process that runs it."""

    client: FoundryAPIClient
    process: psutil.Process

    def get_cpu_s(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of an engine.

    Attributes:
        tokens_per_s: Of all calls together: written, or read if the sample is of a long prompt.
        first_token_s: Median time to first token.
        cores: Processor seconds per second that the engine used.
        cpu_ms_per_token: Processor milliseconds of the engine.
    """

    tokens_per_s: float
    first_token_s: float
    cores: float
    cpu_ms_per_token: float


@dataclass(frozen=True, slots=True)
class Load:
    """What is measured, chosen for the speed of the model.

    Attributes:
        tokens_per_answer: The maximum length of an answer.
        tokens_per_sample: The tokens of one caller alone.
        prompt_words: Words of a long prompt.
        readings: How many long prompts a sample has.
    """

    tokens_per_answer: int
    tokens_per_sample: int
    prompt_words: int
    readings: int


async def choose_load(engine: Engine, context_length: int) -> Load:
    started_at = time.perf_counter()
    answer = await engine.client.complete(QUESTION, max_tokens=MIN_TOKENS)
    rate = answer.usage.completion_tokens / (time.perf_counter() - started_at)
    tokens = round(min(max(rate * SAMPLE_S / ANSWERS_PER_SAMPLE, MIN_TOKENS), MAX_TOKENS))
    short, long = [
        (await engine.client.complete(make_prompt(words, 0), max_tokens=1)).usage.prompt_tokens
        for words in (10, 110)
    ]
    target = min(PROMPT_TOKENS, context_length // 2)
    words = round((target - short) / ((long - short) / 100))
    started_at = time.perf_counter()
    await engine.client.complete(make_prompt(words, 1), max_tokens=1)
    readings = math.ceil(READINGS_PER_SAMPLE_S / (time.perf_counter() - started_at))
    return Load(tokens, round(rate * SAMPLE_S), words, readings)


def make_prompt(words: int, number: int) -> str:
    """Make a prompt that starts unlike any other, so that no engine can reuse its tokens."""
    text = itertools.islice(itertools.cycle(("the", "sea", "is", "calm", "and", "blue")), words)
    return f"{number}: {' '.join(text)}"


async def measure_answers(engine: Engine, load: Load, concurrency: int) -> Sample:
    calls_each = max(1, round(load.tokens_per_sample / load.tokens_per_answer / concurrency))

    async def run_caller(caller: int) -> list[tuple[int, float]]:
        results: list[tuple[int, float]] = []
        for number in range(calls_each):
            answer = await engine.client.complete(
                QUESTION,
                max_tokens=load.tokens_per_answer,
                temperature=1.0,
                seed=caller * calls_each + number,  # both engines write the same answers
            )
            first_token_s = answer.timings.time_to_first_token_s or 0.0
            results.append((answer.usage.completion_tokens, first_token_s))
        return results

    async def run_callers() -> list[tuple[int, float]]:
        results = await asyncio.gather(*(run_caller(caller) for caller in range(concurrency)))
        return list(itertools.chain.from_iterable(results))

    return await make_sample(engine, run_callers)


async def measure_reading(engine: Engine, load: Load) -> Sample:
    async def read_prompts() -> list[tuple[int, float]]:
        results: list[tuple[int, float]] = []
        for _ in range(load.readings):
            prompt = make_prompt(load.prompt_words, time.perf_counter_ns())
            answer = await engine.client.complete(prompt, max_tokens=1)
            first_token_s = answer.timings.time_to_first_token_s or 0.0
            results.append((answer.usage.prompt_tokens, first_token_s))
        return results

    return await make_sample(engine, read_prompts)


async def make_sample(
    engine: Engine, work: Callable[[], Awaitable[list[tuple[int, float]]]]
) -> Sample:
    """Measure work that returns the tokens and the time to first token of each call."""
    cpu_s, started_at = engine.get_cpu_s(), time.perf_counter()
    results = await work()
    elapsed_s, cpu_s = time.perf_counter() - started_at, engine.get_cpu_s() - cpu_s
    tokens = sum(count for count, _ in results)
    return Sample(
        tokens_per_s=tokens / elapsed_s,
        first_token_s=statistics.median(first_token_s for _, first_token_s in results),
        cores=cpu_s / elapsed_s,
        cpu_ms_per_token=1000 * cpu_s / tokens,
    )


def make_figures(part: str, ours: list[Sample], shipped: list[Sample]) -> dict[str, float]:
    title = "reading a prompt" if part == READING else f"{part} at once"
    figures: dict[str, float] = {}
    for unit, attribute in (
        ("tokens/s", "tokens_per_s"),
        ("s to first token", "first_token_s"),
        ("processor ms/token", "cpu_ms_per_token"),
    ):
        pairs = [
            (getattr(one, attribute), getattr(other, attribute))
            for one, other in zip(ours, shipped, strict=True)
        ]
        figures[f"{title}, {unit}, as shipped"] = statistics.median(other for _, other in pairs)
        figures[f"{title}, {unit}, ours / as shipped"] = statistics.median(
            one / other for one, other in pairs
        )
    for name, samples in (("as shipped", shipped), ("ours", ours)):
        cores = statistics.median(sample.cores for sample in samples)
        figures[f"{title}, cores, {name}"] = cores
    return figures


async def measure(
    directory: Path, rounds: int, parts: list[str]
) -> dict[str, tuple[list[Sample], list[Sample]]]:
    """Return the samples of our engine and of the engine as shipped, by part."""
    samples: dict[str, tuple[list[Sample], list[Sample]]] = {part: ([], []) for part in parts}
    limiter = LimiterSettings(concurrency=max(int(part) for part in PARTS if part != READING))
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="foundry-api-bench-")))
        url, pid = stack.enter_context(shipped_engine.start(home, directory, ALIAS))
        clients = [
            await stack.enter_async_context(
                FoundryAPIClient(
                    base_url, service=service, home=home, model=ALIAS, limiter=limiter, timeout=300
                )
            )
            for base_url, service in ((None, "embedded"), (url, "auto"))
        ]
        await clients[0].models.register(directory, ALIAS)
        for client in clients:
            await client.complete(QUESTION, max_tokens=2)
        [host] = [child for child in psutil.Process().children() if child.pid != pid]
        engines = (Engine(clients[0], host), Engine(clients[1], psutil.Process(pid)))
        context_length = read_configuration(directory).model["context_length"]
        load = await choose_load(engines[0], context_length)
        for number in range(rounds):
            for part in parts:
                order = list(zip(engines, samples[part], strict=True))
                for engine, collected in order[:: 1 if number % 2 else -1]:  # each is first in turn
                    sample = (
                        measure_reading(engine, load)
                        if part == READING
                        else measure_answers(engine, load, int(part))
                    )
                    collected.append(await sample)
    return samples


def main(
    directory: str = get_demo_models()[0].path,
    rounds: str = str(ROUNDS),
    parts: str = ",".join(PARTS),
) -> None:
    path = Path(directory).resolve()
    samples = asyncio.run(measure(path, int(rounds), parts.split(",")))
    measured = {
        f"{path.name}: {name}": value
        for part, (ours, shipped) in samples.items()
        for name, value in make_figures(part, ours, shipped).items()
    }
    earlier = {name: value for name, value in load_figures("engine").items() if ": " in name}
    save_figures("engine", earlier | measured)


if __name__ == "__main__":
    main(*sys.argv[1:])
