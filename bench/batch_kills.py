"""Batches of 2,000 lines whose runner or engine is killed 200 times, at random moments.

Each time either the runner is killed, or its engine and a moment later the runner, too. At the end
each line must be in the output exactly once. `python3 dev.py bench batch_kills [KILLS] [LINES]`
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from parts.programs import batch_command
from parts.results import save_figures

ARGUMENTS = [int(argument) for argument in sys.argv[1:3]]
KILLS, LINES = [*ARGUMENTS, *(200, 2000)[len(ARGUMENTS) :]]
ANSWER_TOKENS = 40
ENGINE_FIRST = "engine, then runner"


def main() -> None:
    """Run as many batches as it takes to reach the number of kills, and check each output."""
    rng = random.Random(6)  # noqa: S311 - the same in each run
    killed: Counter[str] = Counter()
    batches = 0
    with tempfile.TemporaryDirectory() as scratch:
        prompts = Path(scratch) / "prompts.txt"
        lines = [f"What is {number} plus 2?" for number in range(LINES)]
        prompts.write_text("\n".join(lines) + "\n", encoding="utf-8")
        while killed.total() < KILLS:
            batches += 1
            output = Path(scratch) / f"answers-{batches}.jsonl"
            killed += run_batch(prompts, output, rng, KILLS - killed.total())
            check_output(output)
    save_figures(
        "batch_kills",
        {
            "kills": killed.total(),
            "engine killed first": killed[ENGINE_FIRST],
            "batches": batches,
            "lines": LINES,
            "lines missing or duplicated": 0,  # otherwise `check_output` exits
        },
    )


def run_batch(prompts: Path, output: Path, rng: random.Random, max_kills: int) -> Counter[str]:
    """Kill one batch again and again, then let it finish; count the kills by target."""
    killed: Counter[str] = Counter()
    while killed.total() < max_kills and (target := kill_once(prompts, output, rng)):
        killed[target] += 1
        print(f"\r{killed.total()} kills in {output.name}", end="", file=sys.stderr)
    print(file=sys.stderr)
    with start_runner(prompts, output, concurrency=0) as runner:
        if code := runner.wait():
            sys.exit(f"the last run ended with {code}")
    return killed


def check_output(output: Path) -> None:
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    ids = Counter(line["custom_id"] for line in lines)
    if len(lines) != LINES or len(ids) != LINES:
        sys.exit(f"{output.name} has {len(lines)} lines of {len(ids)} requests, not {LINES}")


def kill_once(prompts: Path, output: Path, rng: random.Random) -> str | None:
    """Start a runner and kill it, or its engine first; return which, or None if it had finished."""
    with start_runner(prompts, output, concurrency=1) as runner:
        time.sleep(rng.uniform(0.1, 1.6))
        target = "runner"
        engines = find_engines(runner.pid) if rng.random() < 1 / 2 else []
        for engine in engines:
            engine.kill()
            target = ENGINE_FIRST
        if engines:
            time.sleep(rng.uniform(0.0, 1.0))
        code = runner.poll()
        if code == 0:
            return None
        # A runner whose engine dies while it starts ends on its own.
        if code is not None and not engines:
            sys.exit(f"a runner ended with {code}, though nothing was killed")
        runner.kill()
    return target


def start_runner(prompts: Path, output: Path, *, concurrency: int) -> subprocess.Popen[bytes]:
    command = batch_command(prompts, output, "--model", "demo", "--service", "embedded")
    command += ["--set", f"max_tokens={ANSWER_TOKENS}"]
    if concurrency:
        command += ["--concurrency", str(concurrency)]
    home = {"FOUNDRY_HOME": str(prompts.parent / "home")}
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **home},
    )


def find_engines(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []


if __name__ == "__main__":
    main()
