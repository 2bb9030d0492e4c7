"""A batch whose runner is killed repeatedly has each line in its output once."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint

LINES = 400
KILLS = 6


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(LINES):
            body = {
                "model": "demo",
                "max_tokens": 6,
                "messages": [{"role": "user", "content": f"What is {number} + 1?"}],
            }
            line = {"custom_id": f"n-{number}", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps({"method": "POST", **line}) + "\n")
        file.write('{"custom_id": "bad", "method": "POST", "url": "/v1/other", "body": {}}\n')
    return path


def start_runner(engine: Endpoint, prompts: Path, output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "foundry_api", "batch", "run", str(prompts), "--json"]
    return subprocess.Popen(
        [*command, "-o", str(output), "--base-url", engine.base_url, "--ordered"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )


def read_ids(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["custom_id"] for line in lines]


def test_runner_killed_at_any_moment_loses_and_repeats_no_line(
    engine: Endpoint, prompts: Path, tmp_path: Path
) -> None:
    output, moments = tmp_path / "answers.jsonl", random.Random(20261125)  # noqa: S311 - the same each time
    for _ in range(KILLS):
        with start_runner(engine, prompts, output) as process:
            # The time varies on purpose: there is no condition to wait for.
            time.sleep(moments.uniform(0.1, 1.2))
            process.kill()
    with start_runner(engine, prompts, output) as process:
        assert process.wait(100) == 3, "finished, and one line failed"
    assert read_ids(output) == [f"n-{number}" for number in range(LINES)]
    assert Counter(read_ids(tmp_path / "answers.errors.jsonl")) == {"bad": 1}
    assert sorted(path.name for path in (tmp_path / "answers.jsonl.batch").iterdir()) == [
        "journal.sqlite",
        "lock",
    ]
