"""A batch with a million finished lines: how soon the next one is asked, and its memory.

The million is answered by an engine that answers at once; then the command line goes on with the
lines that are left, over a service that counts them. `python3 dev.py bench batch_resume [LINES]`
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
from parts.at_once import AtOnce, write_input
from parts.programs import Program, batch_command
from parts.results import keep

from foundry_api.batch.job import BatchJob
from foundry_api.batch.types import BatchOptions, InputOptions
from foundry_api.types.errors import ServiceNotRunning

LINES = 1_000_000
LEFT = 100
LOOK_S = 0.005


async def answer(source: str, output: str, most: int) -> None:
    """The first run: it ends when so many lines are answered."""
    options = BatchOptions(input=InputOptions(path=source, model=server.MODEL), output=output)
    try:
        await BatchJob(options).run(AtOnce(most))
    except ServiceNotRunning:
        return
    sys.exit("the engine did not go away")


def asked(url: str) -> int:
    """How many lines came to the service."""
    with urllib.request.urlopen(f"{url}/bench/counts") as answer:  # noqa: S310 - our own service
        return int(json.load(answer)["chats"])


def first_line_s(url: str, program: Program) -> tuple[float, float]:
    """Seconds from a program's start to its first line at the service: on the wall, and of CPU."""
    before = asked(url)
    while asked(url) == before:
        if not program.runs:
            sys.exit("the command line ended without asking anything")
        time.sleep(LOOK_S)
    return time.perf_counter() - program.began, program.cpu_s


def main(lines: int) -> None:
    """All runs of one batch."""
    figures: dict[str, float] = {"finished lines": lines}
    with server.started() as url, tempfile.TemporaryDirectory(prefix="foundry-api-bench-") as path:
        source, output = Path(path) / "prompts.jsonl", Path(path) / "answers.jsonl"
        write_input(source, lines + LEFT)
        first = [sys.executable, __file__, "answer", str(source), str(output), str(lines)]
        run = Program(first).ended()
        figures["s, first run with an engine that answers at once"] = run.wall_s
        figures["CPU s, first run"] = run.cpu_s
        figures["peak MB, first run"] = run.peak_mb
        command = batch_command(source, output, "--base-url", url, "--model", server.MODEL)
        program = Program(command)
        first_s, first_cpu_s = first_line_s(url, program)
        figures["s to the first line that is left"] = first_s
        figures["CPU s to the first line that is left"] = first_cpu_s
        run = program.ended()
        figures[f"s, {LEFT} lines that were left, and publishing"] = run.wall_s
        figures[f"CPU s, {LEFT} lines that were left, and publishing"] = run.cpu_s
        figures["peak MB, lines that were left, and publishing"] = run.peak_mb
        if run.code or sum(1 for _ in output.open("rb")) != lines + LEFT:
            sys.exit(f"the batch ended with {run.code}")
        run = Program(command).ended()
        figures["s, nothing left"] = run.wall_s
        figures["CPU s, nothing left"] = run.cpu_s
        figures["peak MB, nothing left"] = run.peak_mb
    keep("batch_resume", figures)


if __name__ == "__main__":
    if sys.argv[1:2] == ["answer"]:
        asyncio.run(answer(sys.argv[2], sys.argv[3], int(sys.argv[4])))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else LINES)
