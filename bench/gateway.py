"""Processor time of the gateway per call and per chunk, relative to a hand-written proxy.

python3 dev.py bench gateway
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from parts import server
from parts.results import save_figures

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAMS = Path(__file__).resolve().parent / "parts" / "gateway_programs.py"
NAMES = ("pass-through", "gateway")
CLIENTS = (1, 64)
ROUNDS = 3
CALLS, STREAMS = 600, 24
# The prompts of `parts.server`: an answer of two tokens, and one of 500.
JOBS = (("call", "short", CALLS), ("chunk", "long", STREAMS))


class Program:
    """One of the compared servers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url = self._read_line()

    def get_cpu_s(self) -> float:
        assert self._process.stdin is not None  # noqa: S101 - for type checkers
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._read_line())

    def _read_line(self) -> str:
        assert self._process.stdout is not None  # noqa: S101 - for type checkers
        return self._process.stdout.readline().strip()


async def run_calls(url: str, prompt: str, calls: int, clients: int, *, streamed: bool) -> None:
    body = {
        "model": server.MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "stream": streamed,
    }
    remaining = iter(range(calls))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client() -> None:
            for _ in remaining:
                async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                    text = await response.text()
                    assert response.status == 200, text  # noqa: S101, PLR2004

        await asyncio.gather(*(client() for _ in range(clients)))


def measure(program: Program, work: Callable[[], None]) -> float:
    before = program.get_cpu_s()
    work()
    return program.get_cpu_s() - before


def main() -> None:
    ratios: dict[str, list[float]] = {}
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        upstream = stack.enter_context(server.start())
        programs: dict[str, Program] = {}
        for name in NAMES:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, str(PROGRAMS), name, upstream],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    encoding="utf-8",
                )
            )
            stack.callback(process.terminate)
            programs[name] = Program(process)
        for number in range(ROUNDS + 1):
            for unit, prompt, calls in JOBS:
                for clients in CLIENTS:
                    order = NAMES if number % 2 else NAMES[::-1]
                    cpu_s = {
                        name: measure(
                            programs[name],
                            lambda name=name, prompt=prompt, calls=calls, clients=clients: (
                                asyncio.run(
                                    run_calls(
                                        programs[name].url, prompt, calls, clients, streamed=True
                                    )
                                )
                            ),
                        )
                        for name in order
                    }
                    if number:  # the first round warms up
                        count = calls * (server.LONG if unit == "chunk" else 1)
                        label = f"µs per {unit} at {clients}, pass-through"
                        figures[label] = cpu_s["pass-through"] / count * 1e6
                        ratios.setdefault(
                            f"{unit} at {clients}, gateway / pass-through", []
                        ).append(cpu_s["gateway"] / cpu_s["pass-through"])
    figures |= {name: statistics.median(values) for name, values in ratios.items()}
    save_figures("gateway", figures)


if __name__ == "__main__":
    main()
