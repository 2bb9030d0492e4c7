"""A batch of 2,000 lines whose runner or engine is killed 200 times, at random moments.

Each time either the runner is killed, or its engine, and a moment later the runner, too. In the end
every line has to be in the output once. `python3 dev.py bench batch_kills [KILLS] [LINES]`
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
from parts.results import keep

KILLS, LINES = (int(given) for given in (sys.argv[1:] + ["200", "2000"][len(sys.argv) - 1 :])[:2])
ANSWER_TOKENS = 40
ENGINE_FIRST = "engine, then runner"


def main() -> None:
    """Kill until the number is reached, in as many batches as that takes, and count their lines."""
    moments = random.Random(6)  # noqa: S311 - to be the same each time
    killed: Counter[str] = Counter()
    batches = 0
    with tempfile.TemporaryDirectory() as scratch:
        prompts = Path(scratch) / "prompts.txt"
        lines = [f"What is {number} plus 2?" for number in range(LINES)]
        prompts.write_text("\n".join(lines) + "\n", encoding="utf-8")
        while killed.total() < KILLS:
            batches += 1
            output = Path(scratch) / f"answers-{batches}.jsonl"
            killed += one_batch(prompts, output, moments, KILLS - killed.total())
            check(output)
    keep(
        "batch_kills",
        {
            "kills": killed.total(),
            "of these, the engine first": killed[ENGINE_FIRST],
            "batches": batches,
            "lines": LINES,
            "lines missing or twice": 0,  # or `check` had ended it
        },
    )


def one_batch(prompts: Path, output: Path, moments: random.Random, most: int) -> Counter[str]:
    """Kill one batch again and again, then let it finish. What was killed how often."""
    killed: Counter[str] = Counter()
    while killed.total() < most and (target := kill_once(prompts, output, moments)):
        killed[target] += 1
        print(f"\r{killed.total()} kills in {output.name}", end="", file=sys.stderr)
    print(file=sys.stderr)
    with started(prompts, output, concurrency=0) as runner:
        if code := runner.wait():
            sys.exit(f"the last run ended with {code}")
    return killed


def check(output: Path) -> None:
    """Every line has to be there once."""
    told = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    ids = Counter(line["custom_id"] for line in told)
    if len(told) != LINES or len(ids) != LINES:
        sys.exit(f"{output.name} has {len(told)} lines of {len(ids)} requests, not {LINES}")


def kill_once(prompts: Path, output: Path, moments: random.Random) -> str | None:
    """Start a runner and kill it, or its engine first. Which of them; None if it had finished.

    A runner whose engine dies while it starts ends by itself.
    """
    with started(prompts, output, concurrency=1) as runner:
        time.sleep(moments.uniform(0.1, 1.6))
        target = "runner"
        engines = hosts_of(runner.pid) if moments.random() < 1 / 2 else []
        for engine in engines:
            engine.kill()
            target = ENGINE_FIRST
        if engines:
            time.sleep(moments.uniform(0.0, 1.0))
        code = runner.poll()
        if code == 0:
            return None
        if code is not None and not engines:
            sys.exit(f"a runner ended with {code}, though nothing was killed")
        runner.kill()
    return target


def started(prompts: Path, output: Path, *, concurrency: int) -> subprocess.Popen[bytes]:
    """A runner in a process of its own."""
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


def hosts_of(pid: int) -> list[psutil.Process]:
    """The engines of a runner."""
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []


if __name__ == "__main__":
    main()
