"""Tokens per second of the real engine: through the gateway, and of the service as shipped.

python3 dev.py bench gateway_engine                       # the demo model
python3 dev.py bench gateway_engine DIRECTORY [ROUNDS]    # another model directory

Both run at the same time, and answer the same questions in turn.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import psutil
from parts import shipped_engine, stream_load
from parts.results import load_figures, save_figures

from foundry_api import FoundryAPIClient
from foundry_api.engine.process import get_demo_models

if TYPE_CHECKING:
    from collections.abc import Generator

ALIAS = "bench-engine"
QUESTION = "Write a story about the sea, the wind and the stars."
MANY = 64
CONCURRENCIES = (1, 2, 4, 8, 16, 32, MANY)
ROUNDS = 3
MAX_TOKENS = 32
# Of a sample at the speed of a first one.
SAMPLE_S = 3.0


class Sample(NamedTuple):
    """One measurement; the processor time is in milliseconds per token."""

    tokens_per_s: float
    cpu_ms: dict[str, float]


class Service:
    """A service under test, with the processes that it consists of."""

    def __init__(self, url: str, model: str, **processes: int) -> None:
        self._url = url
        self._model = model
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}

    def measure(self, calls: int, clients: int) -> Sample:
        before = self._read_cpu_s()
        bodies = [self._make_body(number) for number in range(calls)]
        load = asyncio.run(stream_load.run(self._url, bodies, clients))
        cpu_s = {name: after - before[name] for name, after in self._read_cpu_s().items()}
        cpu_s["clients"] = load.cpu_s
        per_token = {name: used_s / load.tokens * 1000 for name, used_s in cpu_s.items()}
        return Sample(load.tokens_per_s, per_token)

    def _make_body(self, number: int) -> dict[str, Any]:
        return {
            "model": self._model,
            "messages": [{"role": "user", "content": QUESTION}],
            "max_tokens": MAX_TOKENS,
            "temperature": 1.0,
            "seed": number,  # both write the same answers
        }

    def _read_cpu_s(self) -> dict[str, float]:
        times = {name: process.cpu_times() for name, process in self._processes.items()}
        return {name: float(one.user + one.system) for name, one in times.items()}


async def register(home: Path, directory: Path) -> None:
    async with FoundryAPIClient(service="embedded", home=home) as client:
        await client.models.register(directory, ALIAS)


@contextmanager
def start_gateway(home: Path) -> Generator[Service]:
    command = [sys.executable, "-m", "foundry_api", "serve", "-m", ALIAS, "--port", "0"]
    with subprocess.Popen(
        [*command, "--service", "embedded"],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "FOUNDRY_HOME": str(home), "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            url = f"{process.stdout.readline().split()[2].rstrip('.')}/chat/completions"
            warm_up = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 2}
            asyncio.run(stream_load.run(url, [warm_up], 1))
            [host] = psutil.Process(process.pid).children()
            yield Service(url, ALIAS, gateway=process.pid, engine=host.pid)
        finally:
            process.terminate()


@contextmanager
def start_shipped(home: Path, directory: Path) -> Generator[Service]:
    with shipped_engine.start(home, directory, ALIAS) as (url, pid):
        base_url = f"http://{urlsplit(url).netloc}/catalogs/local"
        with urllib.request.urlopen(f"{base_url}/models/load/{ALIAS}") as response:  # noqa: S310 - our own process
            response.read()
        yield Service(f"{base_url}/v1/chat/completions", f"{ALIAS}:1", engine=pid)


def measure(directory: Path, rounds: int) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {}
    with tempfile.TemporaryDirectory(prefix="foundry-api-bench-") as name:
        home = Path(name)
        asyncio.run(register(home, directory))
        with start_gateway(home) as gateway, start_shipped(home, directory) as shipped:
            rate = shipped.measure(4, 2).tokens_per_s
            calls = max(MANY, round(rate * SAMPLE_S / MAX_TOKENS))
            gateway.measure(calls, MANY)  # its limiter finds the best concurrency
            for _ in range(rounds):
                for clients in CONCURRENCIES:
                    sample = shipped.measure(calls, clients)
                    samples.setdefault(f"as shipped at {clients}", []).append(sample)
                    samples.setdefault(f"gateway at {clients}", []).append(
                        gateway.measure(calls, clients)
                    )
    return samples


def make_figures(samples: dict[str, list[Sample]]) -> dict[str, float]:
    figures: dict[str, float] = {}
    rates: dict[str, float] = {}
    for name, many in samples.items():
        rates[name] = statistics.median(sample.tokens_per_s for sample in many)
        figures[f"tokens/s, {name}"] = rates[name]
    for name in (f"as shipped at {MANY}", f"gateway at {MANY}"):
        for part in samples[name][0].cpu_ms:
            figures[f"processor ms/token, {name}, {part}"] = statistics.median(
                sample.cpu_ms[part] for sample in samples[name]
            )
    best = max(rate for name, rate in rates.items() if name.startswith("as shipped"))
    through = rates[f"gateway at {MANY}"]
    figures[f"gateway at {MANY} / best as shipped"] = through / best
    figures[f"gateway at {MANY} / as shipped at {MANY}"] = through / rates[f"as shipped at {MANY}"]
    return figures


def main(directory: str = get_demo_models()[0].path, rounds: str = str(ROUNDS)) -> None:
    path = Path(directory).resolve()
    figures = make_figures(measure(path, int(rounds)))
    measured = {f"{path.name}: {name}": value for name, value in figures.items()}
    save_figures("gateway_engine", {**load_figures("gateway_engine"), **measured})


if __name__ == "__main__":
    main(*sys.argv[1:])
