"""Processor time of the gateway per call and per chunk, relative to a hand-written proxy.

python3 dev.py bench gateway             # beside LiteLLM's proxy too, which is installed once
python3 dev.py bench gateway alone       # without it
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import psutil
from parts import peers, server
from parts.results import save_figures

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = Path(__file__).resolve().parent / "parts" / "gateway_programs.py"
BASELINE, GATEWAY, LITELLM = "pass-through", "gateway", "LiteLLM"
CLIENTS = (1, 64)
ROUNDS = 9
# LiteLLM needs so much longer that few calls in one round measure it as well.
LITELLM_ROUNDS = 1
LITELLM_KEY = "sk-bench"
LITELLM_CONFIG = """
model_list:
  - model_name: {model}
    litellm_params: {{model: "openai/{model}", api_base: "{upstream}/v1", api_key: none}}
general_settings: {{master_key: {key}}}
"""


class Job(NamedTuple):
    """What is measured: calls with a prompt of `parts.server`, and what is counted of each."""

    unit: str
    prompt: str
    calls: int
    litellm_calls: int
    units_per_call: int = 1
    streamed: bool = True


JOBS = (
    Job("call", "short", 1200, 64, streamed=False),
    Job("streamed call", "short", 1200, 64),
    Job("chunk", "long", 24, 4, server.LONG),
    Job("chunk in its own packet", "single", 24, 2, server.LONG),
)


class Program:
    """One of the compared servers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url, self.key = self._read_line().split()

    def get_cpu_s(self) -> float:
        assert self._process.stdin is not None  # noqa: S101 - for type checkers
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._read_line())

    def get_memory(self) -> int:
        return psutil.Process(self._process.pid).memory_info().rss

    def _read_line(self) -> str:
        assert self._process.stdout is not None  # noqa: S101 - for type checkers
        return self._process.stdout.readline().strip()


class LiteLlm:
    """LiteLLM's proxy, which does not report its processor time itself."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self._process = process
        self.url, self.key = url, LITELLM_KEY
        while process.poll() is None and asyncio.run(get_status(f"{url}/health/liveliness")) != 200:  # noqa: PLR2004
            time.sleep(0.2)

    def get_cpu_s(self) -> float:
        times = [process.cpu_times() for process in self._walk()]
        return sum(one.user + one.system for one in times)

    def get_memory(self) -> int:
        return sum(process.memory_info().rss for process in self._walk())

    def _walk(self) -> Iterator[psutil.Process]:
        process = psutil.Process(self._process.pid)
        yield process
        yield from process.children(recursive=True)


async def get_status(url: str) -> int | None:
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status
    except aiohttp.ClientError:
        return None


def start_program(stack: ExitStack, name: str, upstream: str) -> Program:
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, str(PROGRAMS), name, upstream],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
    )
    # It ends when its standard input is closed, and removes its directory.
    return Program(process)


def start_litellm(stack: ExitStack, upstream: str) -> LiteLlm:
    python = peers.find_python("litellm-proxy")
    directory = stack.enter_context(tempfile.TemporaryDirectory())
    path = Path(directory) / "config.yaml"
    config = LITELLM_CONFIG.format(model=server.MODEL, upstream=upstream, key=LITELLM_KEY)
    path.write_text(config, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [python.with_name("litellm"), "--config", path, "--host", "127.0.0.1"]
    process = stack.enter_context(
        subprocess.Popen(
            [*command, "--port", str(port), "--telemetry", "False"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=peers.environment(),
            cwd=directory,
            encoding="utf-8",
        )
    )
    stack.callback(process.terminate)
    return LiteLlm(process, f"http://127.0.0.1:{port}")


async def run_calls(program: Program | LiteLlm, job: Job, calls: int, clients: int) -> None:
    body = {
        "model": server.MODEL,
        "messages": [{"role": "user", "content": job.prompt}],
        "stream": job.streamed,
    }
    headers = {"Authorization": f"Bearer {program.key}"}
    connector = aiohttp.TCPConnector(limit=0)
    remaining = iter(range(calls))
    async with aiohttp.ClientSession(program.url, connector=connector, headers=headers) as session:

        async def client() -> None:
            for _ in remaining:
                async with session.post("/v1/chat/completions", json=body) as response:
                    text = await response.text()
                    assert response.status == 200, text  # noqa: S101, PLR2004

        await asyncio.gather(*(client() for _ in range(clients)))


def measure(program: Program | LiteLlm, job: Job, clients: int) -> float:
    """Return the processor seconds for each unit of a job."""
    calls = job.litellm_calls if isinstance(program, LiteLlm) else max(clients, job.calls)
    before = program.get_cpu_s()
    asyncio.run(run_calls(program, job, calls, clients))
    return (program.get_cpu_s() - before) / calls / job.units_per_call


def main() -> None:
    ratios: dict[str, list[float]] = {}
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        upstream = stack.enter_context(server.start())
        programs: dict[str, Program | LiteLlm] = {
            name: start_program(stack, name, upstream) for name in (BASELINE, GATEWAY)
        }
        if "alone" not in sys.argv[1:]:
            programs[LITELLM] = start_litellm(stack, upstream)
            figures["memory at start, gateway / LiteLLM"] = (
                programs[GATEWAY].get_memory() / programs[LITELLM].get_memory()
            )
        figures["MiB at start, gateway"] = programs[GATEWAY].get_memory() / 2**20
        for number in range(ROUNDS + 1):
            for job in JOBS:
                for clients in CLIENTS:
                    names = [
                        name for name in programs if name != LITELLM or number <= LITELLM_ROUNDS
                    ]
                    order = names if number % 2 else names[::-1]
                    cpu_s = {name: measure(programs[name], job, clients) for name in order}
                    if not number:  # the first round warms up
                        continue
                    label = f"{job.unit} at {clients}"
                    figures[f"µs per {label}, {BASELINE}"] = cpu_s[BASELINE] * 1e6
                    for name in names:
                        if name != GATEWAY:
                            ratio = cpu_s[GATEWAY] / cpu_s[name]
                            ratios.setdefault(f"{label}, {GATEWAY} / {name}", []).append(ratio)
    figures |= {name: statistics.median(values) for name, values in ratios.items()}
    save_figures("gateway", figures)


if __name__ == "__main__":
    main()
