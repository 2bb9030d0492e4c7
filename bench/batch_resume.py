"""Resuming a batch with a million finished lines: time to the next request, and memory.

An engine that answers immediately finishes the million; then the command line resumes with the
remaining lines, over a service that counts them. `python3 dev.py bench batch_resume [LINES]`
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from parts import server
from parts.instant_engine import InstantEngine, write_input
from parts.programs import Program, batch_command
from parts.results import save_figures

from foundry_api.batch.job import BatchJob
from foundry_api.batch.types import BatchOptions, InputOptions
from foundry_api.types.errors import ServiceNotRunning

LINES = 1_000_000
REMAINING = 100
POLL_S = 0.005


async def run_first(source: str, output: str, max_lines: int) -> None:
    """Run the batch until `max_lines` are answered."""
    options = BatchOptions(input=InputOptions(path=source, model=server.MODEL), output=output)
    try:
        await BatchJob(options).run(InstantEngine(max_lines))
    except ServiceNotRunning:
        return
    sys.exit("the engine did not stop")


def count_requests(url: str) -> int:
    with urllib.request.urlopen(f"{url}/bench/counts") as answer:  # noqa: S310 - always http
        return int(json.load(answer)["chats"])


def wait_for_request(url: str, program: Program) -> tuple[float, float]:
    """Return the wall time and the processor time from a program's start to its first request."""
    before = count_requests(url)
    while count_requests(url) == before:
        if not program.is_running:
            sys.exit("the command line ended without a request")
        time.sleep(POLL_S)
    return time.perf_counter() - program.started_at, program.cpu_s


def main(lines: int) -> None:
    figures: dict[str, float] = {"finished lines": lines}
    with server.start() as url, tempfile.TemporaryDirectory(prefix="foundry-api-bench-") as path:
        source, output = Path(path) / "prompts.jsonl", Path(path) / "answers.jsonl"
        write_input(source, lines + REMAINING)
        first = [sys.executable, __file__, "first", str(source), str(output), str(lines)]
        run = Program(first).wait()
        figures["s, first run with an instant engine"] = run.wall_s
        figures["CPU s, first run"] = run.cpu_s
        figures["peak MB, first run"] = run.peak_mb
        command = batch_command(source, output, "--base-url", url, "--model", server.MODEL)
        program = Program(command)
        first_s, first_cpu_s = wait_for_request(url, program)
        figures["s to the first remaining line"] = first_s
        figures["CPU s to the first remaining line"] = first_cpu_s
        run = program.wait()
        figures[f"s, {REMAINING} remaining lines, and publishing"] = run.wall_s
        figures[f"CPU s, {REMAINING} remaining lines, and publishing"] = run.cpu_s
        figures["peak MB, remaining lines, and publishing"] = run.peak_mb
        if run.exit_code or sum(1 for _ in output.open("rb")) != lines + REMAINING:
            sys.exit(f"the batch ended with {run.exit_code}")
        run = Program(command).wait()
        figures["s, nothing left"] = run.wall_s
        figures["CPU s, nothing left"] = run.cpu_s
        figures["peak MB, nothing left"] = run.peak_mb
    save_figures("batch_resume", figures)


if __name__ == "__main__":
    if sys.argv[1:2] == ["first"]:
        asyncio.run(run_first(sys.argv[2], sys.argv[3], int(sys.argv[4])))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else LINES)
