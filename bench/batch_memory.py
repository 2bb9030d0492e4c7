"""The memory of a batch's command line: it is to be the same for 10,000 lines and for 100,000.

Short answers of the demo model on the real engine, which is a process of its own and not counted.
`python3 dev.py bench batch_memory [LINES ...]`
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from parts.at_once import write_input
from parts.programs import Program, batch_command
from parts.results import keep

from foundry_api import FoundryAPIClient

LINES = (10_000, 100_000)
ANSWER_TOKENS = 4


async def main(sizes: tuple[int, ...]) -> None:
    """A batch of each size, on one engine."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="foundry-api-bench-") as path:
        async with FoundryAPIClient(service="embedded", home=Path(path) / "home") as own:
            service = (await own.complete("Hello", model="demo", max_tokens=2)).service
            for lines in sizes:
                source, output = (
                    Path(path) / f"{lines}.jsonl",
                    Path(path) / f"answers-{lines}.jsonl",
                )
                write_input(source, lines, ANSWER_TOKENS)
                command = batch_command(source, output, "--base-url", service, "--model", "demo")
                run = await asyncio.to_thread(Program(command).ended)
                if run.code or sum(1 for _ in output.open("rb")) != lines:
                    sys.exit(f"the batch of {lines} lines ended with {run.code}")
                figures[f"peak MB, {lines} lines"] = run.peak_mb
                figures[f"lines/s, {lines} lines"] = lines / run.wall_s
    keep("batch_memory", figures)


if __name__ == "__main__":
    asyncio.run(main(tuple(map(int, sys.argv[1:])) or LINES))
