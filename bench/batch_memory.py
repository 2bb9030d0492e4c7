"""Peak memory of `foundry-api batch`, which should be equal for 10,000 and for 100,000 lines.

Short answers of the demo model on the real engine, whose own process is not counted.
`python3 dev.py bench batch_memory [LINES ...]`
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from parts.instant_engine import write_input
from parts.programs import Program, batch_command
from parts.results import save_figures

from foundry_api import FoundryAPIClient

LINES = (10_000, 100_000)
ANSWER_TOKENS = 4


async def main(sizes: tuple[int, ...]) -> None:
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
                run = await asyncio.to_thread(Program(command).wait)
                if run.exit_code or sum(1 for _ in output.open("rb")) != lines:
                    sys.exit(f"the batch of {lines} lines ended with {run.exit_code}")
                figures[f"peak MB, {lines} lines"] = run.peak_mb
                figures[f"lines/s, {lines} lines"] = lines / run.wall_s
    save_figures("batch_memory", figures)


if __name__ == "__main__":
    asyncio.run(main(tuple(map(int, sys.argv[1:])) or LINES))
