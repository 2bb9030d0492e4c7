"""Time from process start to the first printed token, compared with the SDK in process.

python3 dev.py bench start
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import foundry_api

ROUNDS = 10
PROMPT = "Explain quantum computing"
DEMO_MODEL = Path(foundry_api.__file__).parent / "engine" / "demo_model"
PEER = Path(__file__).parent / "peers" / "sdk_in_process.py"


def seconds_to_first_byte(command: list[str], environment: dict[str, str]) -> float:
    """Measure the time from the start of a program to its first output."""
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        first = process.stdout.read(1)
        took_s = time.perf_counter() - started
        process.stdout.read()
    if not first:
        sys.exit(f"{command} printed nothing")
    return took_s


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="foundry-api-bench-") as directory:
        home = Path(directory)
        environment = {**os.environ, "FOUNDRY_HOME": str(home / "ours")}
        environment.pop(
            "PYTHONDONTWRITEBYTECODE", None
        )  # both use compiled modules, as after any first run
        commands = {
            "sdk in process": [
                *(sys.executable, str(PEER), str(DEMO_MODEL), str(home / "sdk"), PROMPT)
            ],
            "foundry-api": [
                *(sys.executable, "-m", "foundry_api", "chat", "--model", "demo", PROMPT)
            ],
        }
        for command in commands.values():  # registers the model, and fills the file cache
            seconds_to_first_byte(command, environment)
        samples: dict[str, list[float]] = {name: [] for name in commands}
        # Both take turns, so that they see the same machine.
        for _ in range(ROUNDS):
            for name, command in commands.items():
                samples[name].append(seconds_to_first_byte(command, environment))
    baseline = statistics.median(samples["sdk in process"])
    for name, seconds in samples.items():
        median = statistics.median(seconds)
        spread = f"{min(seconds):.3f} to {max(seconds):.3f}"
        print(f"{name:16} {median:.3f} s median of {ROUNDS} ({spread}), {median / baseline:.2f}x")


if __name__ == "__main__":
    main()
