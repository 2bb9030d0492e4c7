"""A batch of 200 lines whose runner and engine are killed while it runs."""

from __future__ import annotations

import asyncio
import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from foundry_api import FoundryAPIClient
from foundry_api.batch.journal import read_status
from foundry_api.batch.types import get_journal_directory
from foundry_api.types.errors import BatchStorageFailed
from real_model.models import CHAT, CHAT_MODEL, TIMEOUT_S
from service.helpers import list_hosts, wait_until
from support.cli_program import make_command, make_environment

if TYPE_CHECKING:
    from pathlib import Path

LINES = 200
MAX_TOKENS = 10
# After this many finished lines, the runner or its engine is killed.
KILLS = {15: "runner", 40: "engine", 80: "engine", 110: "runner", 150: "engine"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home where the model is registered."""
    home = tmp_path / "home"

    async def register() -> None:
        async with FoundryAPIClient(service="embedded", home=home) as client:
            await client.models.register(CHAT_MODEL, CHAT)

    asyncio.run(register())
    return home


def start_batch(home: Path, source: Path, output: Path) -> subprocess.Popen[bytes]:
    command = make_command("batch", "run", str(source), "-o", str(output), "--model", CHAT)
    command += ["--service", "embedded", "--concurrency", "2", "--timeout", str(TIMEOUT_S)]
    command += ["--set", f"max_tokens={MAX_TOKENS}", "--set", "temperature=0"]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=make_environment(home),
    )


def count_finished(output: Path) -> int:
    """Return the number of finished lines; 0 before there is a journal."""
    try:
        return read_status(get_journal_directory(output)).counts.finished
    except BatchStorageFailed:
        return 0


def wait_for_lines(lines: int, output: Path, runner: subprocess.Popen[bytes]) -> None:
    wait_until(
        lambda: count_finished(output) >= lines or runner.poll() is not None,
        within_s=TIMEOUT_S / 3,
    )


def test_no_line_is_lost_or_answered_twice(home: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "prompts.txt", tmp_path / "answers.jsonl"
    prompts = [f"What is {number} plus one?" for number in range(LINES)]
    source.write_text("\n".join(prompts) + "\n", encoding="utf-8")
    runner = start_batch(home, source, output)
    try:
        for lines, target in KILLS.items():
            wait_for_lines(lines, output, runner)
            assert runner.poll() is None, "it works on after its engine was killed"
            if target == "engine":
                for host in list_hosts(home):
                    host.kill()
                continue
            runner.kill()
            runner.communicate()
            wait_until(lambda: not list_hosts(home))  # an engine ends with the program it serves
            assert not output.exists(), "only a complete batch has an output"
            runner = start_batch(home, source, output)
        _, errors = runner.communicate(timeout=TIMEOUT_S / 3)
    finally:
        runner.kill()
        runner.communicate()
    assert runner.returncode == 0, errors.decode()
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert sorted(line["custom_id"] for line in lines) == sorted(
        f"line-{number}" for number in range(1, LINES + 1)
    )
    assert all(line["response"]["status_code"] == 200 for line in lines)
    assert all(
        1 <= line["response"]["body"]["usage"]["completion_tokens"] <= MAX_TOKENS for line in lines
    )
    assert not (tmp_path / "answers.errors.jsonl").exists()
    assert not list_hosts(home)
