"""Batches that stop early and resume: killed runners and engines, cancellation, a full disk.

They run in processes, against the real engine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.batch.journal import BLOCK_LINES, read_status, request_cancel
from foundry_api.batch.types import get_journal_directory
from foundry_api.types.errors import BatchStorageFailed
from service.helpers import DEADLINE_S, list_hosts, wait_until
from support.cli_program import make_command, make_environment, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint

    Start = Callable[..., subprocess.Popen[bytes]]

SCRIPTED = ("--model", "scripted")


@pytest.fixture
def start() -> Iterator[Start]:
    """Start commands, which are killed at the end of the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        home = options.pop("home", None)
        process = subprocess.Popen(
            make_command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=make_environment(home),
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def write_prompts(path: Path, *texts: str) -> Path:
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def wait_for_exit(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Return the exit code of a command, and its standard error."""
    _, stderr = process.communicate(timeout=DEADLINE_S)
    assert b"Traceback" not in stderr, stderr.decode()
    return process.returncode, stderr.decode().replace("\r\n", "\n")


def count_finished(output: Path) -> int:
    """Return the number of finished lines; 0 before there is a journal."""
    try:
        return read_status(get_journal_directory(output)).counts.finished
    except BatchStorageFailed:
        return 0


def count_ids(path: Path) -> Counter[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return Counter(json.loads(line)["custom_id"] for line in lines)


def one_of_each(count: int) -> Counter[str]:
    return Counter(f"line-{number}" for number in range(1, count + 1))


def test_surviving_runner_of_a_shared_batch_answers_all_lines(
    engine: Endpoint, start: Start, tmp_path: Path
) -> None:
    output, lines = tmp_path / "answers.jsonl", 8 * BLOCK_LINES
    source = write_prompts(tmp_path / "prompts.txt", *(f"{number} + 1" for number in range(lines)))
    arguments = ("batch", "run", str(source), "-o", str(output), "--shared", "--model", "demo")
    arguments = (*arguments, "--set", "max_tokens=1", "--base-url", engine.base_url)
    runners = [start(*arguments), start(*arguments)]

    def both_work() -> bool:
        """Return whether both report progress, which they do once they have lines."""
        if not count_finished(output):
            return False
        alive = [each for each in read_status(get_journal_directory(output)).runners if each.alive]
        return len([each for each in alive if each.progress]) == len(runners)

    wait_until(both_work)
    runners[0].kill()
    assert wait_for_exit(runners[1])[0] == 0
    assert count_ids(output) == one_of_each(lines)
    remaining = {path.name for path in get_journal_directory(output).iterdir()}
    assert not [name for name in remaining if name.startswith("part-")]


def test_cancelled_batch_finishes_lines_in_flight_and_resumes(
    engine: Endpoint, start: Start, tmp_path: Path
) -> None:
    output, lines = tmp_path / "answers.jsonl", 40
    source = write_prompts(tmp_path / "p.txt", *(f"{number} say-slowly" for number in range(lines)))
    arguments = ("batch", "run", str(source), "-o", str(output), *SCRIPTED)
    arguments = (*arguments, "--set", "max_tokens=4", "--base-url", engine.base_url)
    runner = start(*arguments, "--concurrency", "1")
    wait_until(lambda: count_finished(output) > 2)
    assert (
        request_cancel(get_journal_directory(output), "drain") == 1
    )  # at once, so that some lines remain
    code, stderr = wait_for_exit(runner)
    stored = count_finished(output)
    assert (code, 2 < stored < lines) == (1, True)
    assert f"Stopped: {stored} of {lines} lines are finished and stored in" in stderr
    assert "Error: the batch was cancelled" in stderr
    assert stderr.count("Run the same command") == 1
    assert not output.exists()
    resumed = run(*arguments, "--json")
    assert (resumed.returncode, json.loads(resumed.stdout)["resumed"]) == (0, stored)
    assert count_ids(output) == one_of_each(lines)


def test_cancel_now_stops_lines_in_flight(engine: Endpoint, start: Start, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    source = write_prompts(tmp_path / "p.txt", "1 say-hello", "2 say-hello", "say-at-a-crawl")
    arguments = ("batch", "run", str(source), "-o", str(output), *SCRIPTED)
    runner = start(*arguments, "--base-url", engine.base_url)
    wait_until(lambda: count_finished(output) == 2)
    cancelled = run("batch", "cancel", "--now", str(output))
    assert (cancelled.returncode, cancelled.stdout[:18]) == (0, "Requested 1 runner")
    code, stderr = wait_for_exit(runner)  # the last line alone would take a minute
    assert (code, "Stopped: 2 of 3 lines are finished and stored in" in stderr) == (1, True)


def test_killed_engine_fails_no_line(start: Start, home: Path, tmp_path: Path) -> None:
    output, lines = tmp_path / "answers.jsonl", 150
    source = write_prompts(tmp_path / "prompts.txt", *(f"{number} + 1" for number in range(lines)))
    arguments = ("batch", "run", str(source), "-o", str(output), "--model", "demo")
    runner = start(
        *arguments,
        "--set",
        "max_tokens=8",
        "--service",
        "embedded",
        "--concurrency",
        "1",
        home=home,
    )
    wait_until(lambda: count_finished(output) > 0)
    for host in list_hosts(home):
        host.kill()
    code, stderr = wait_for_exit(runner)
    assert code == 0, stderr
    assert count_ids(output) == one_of_each(lines)
    assert not (tmp_path / "answers.errors.jsonl").exists()


def test_failed_lines_are_answered_by_a_retry(engine: Endpoint, tmp_path: Path) -> None:
    output, errors = tmp_path / "answers.jsonl", tmp_path / "answers.errors.jsonl"
    source = write_prompts(tmp_path / "p.txt", "1 say-hello", "say-at-a-crawl", "2 say-hello")
    arguments = ("batch", "run", str(source), "-o", str(output), *SCRIPTED)
    arguments = (*arguments, "--set", "max_tokens=5", "--base-url", engine.base_url)
    first = run(*arguments, "--deadline", "0.4", "--attempts", "1")
    assert (first.returncode, "line-2" in count_ids(errors)) == (3, True), first.stderr
    assert run(*arguments).returncode == 3, "it is retried only on request"

    mine = output.rename(tmp_path / "mine.jsonl")
    output.write_bytes(b"something else\n")
    for command in (("batch", "retry", str(output)), (*arguments, "--retry-failed")):
        refused = run(*command)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "answers.jsonl is not as this batch left it" in refused.stderr
    assert output.read_bytes() == b"something else\n"

    mine.replace(output)
    retried = run("batch", "retry", str(output), "--base-url", engine.base_url, "--json")
    assert (retried.returncode, json.loads(retried.stdout)["failed"]) == (0, 0), retried.stderr
    assert count_ids(output) == one_of_each(3)
    assert not errors.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file size limit")
@pytest.mark.usefixtures("no_bytecode")
def test_batch_stops_on_a_full_disk_and_resumes(
    engine: Endpoint, start: Start, tmp_path: Path
) -> None:
    output, lines = tmp_path / "answers.jsonl", 400
    source = write_prompts(tmp_path / "p.txt", *(f"{number} + 1" for number in range(lines)))
    arguments = ("batch", "run", str(source), "-o", str(output), "--model", "demo")
    arguments = (*arguments, "--set", "max_tokens=2", "--base-url", engine.base_url)
    code, stderr = wait_for_exit(start(*arguments, preexec_fn=limit_file_size))
    assert code == 1, stderr
    assert "cannot be used" in stderr
    stored = count_finished(output)
    assert f"Stopped: {stored} of {lines} lines" in stderr
    assert (stored < lines, output.exists()) == (True, False)
    resumed = run(*arguments, "--json")
    assert (resumed.returncode, json.loads(resumed.stdout)["resumed"]) == (0, stored), (
        resumed.stderr
    )
    assert count_ids(output) == one_of_each(lines)


def limit_file_size() -> None:
    """Limit the size of all files that this process writes."""
    import resource  # noqa: PLC0415 - missing on Windows

    resource.setrlimit(resource.RLIMIT_FSIZE, (160 * 1024, resource.RLIM_INFINITY))
