"""How a batch ends before its end, and goes on: its runners and its engine die, it is cancelled,
its disk fills up. Against the real engine, in processes of their own.
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
from service.helpers import list_hosts, wait_until
from support.cli_program import command, environment, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint

    Start = Callable[..., subprocess.Popen[bytes]]

SCRIPTED = ("--model", "scripted")


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts commands, of which none is left when the test is over."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        home = options.pop("home", None)
        process = subprocess.Popen(
            command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(home),
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def prompts(path: Path, *texts: str) -> Path:
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """The exit code of a command, and what it told of its end."""
    _, told = process.communicate(timeout=60)
    assert b"Traceback" not in told, told.decode()
    return process.returncode, told.decode().replace("\r\n", "\n")


def finished(output: Path) -> int:
    """How many lines are finished; none before the journal is begun."""
    try:
        return read_status(get_journal_directory(output)).counts.finished
    except BatchStorageFailed:
        return 0


def names(path: Path) -> Counter[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return Counter(json.loads(line)["custom_id"] for line in lines)


def once_each(count: int) -> Counter[str]:
    return Counter(f"line-{number}" for number in range(1, count + 1))


def test_of_two_runners_that_share_a_batch_one_dies_and_the_other_answers_all(
    engine: Endpoint, start: Start, tmp_path: Path
) -> None:
    output, lines = tmp_path / "answers.jsonl", 8 * BLOCK_LINES
    asked = prompts(tmp_path / "prompts.txt", *(f"{number} + 1" for number in range(lines)))
    arguments = ("batch", "run", str(asked), "-o", str(output), "--shared", "--model", "demo")
    arguments = (*arguments, "--set", "max_tokens=1", "--base-url", engine.base_url)
    runners = [start(*arguments), start(*arguments)]

    def both_work() -> bool:
        """Both have told how far they are, which they do not before they have lines."""
        if not finished(output):
            return False
        alive = [each for each in read_status(get_journal_directory(output)).runners if each.alive]
        return len([each for each in alive if each.progress]) == len(runners)

    wait_until(both_work)
    runners[0].kill()
    assert ended(runners[1])[0] == 0
    assert names(output) == once_each(lines)
    left = {path.name for path in get_journal_directory(output).iterdir()}
    assert not [name for name in left if name.startswith("part-")]


def test_a_cancelled_batch_finishes_what_runs_and_the_same_command_goes_on(
    engine: Endpoint, start: Start, tmp_path: Path
) -> None:
    output, lines = tmp_path / "answers.jsonl", 40
    asked = prompts(tmp_path / "p.txt", *(f"{number} say-slowly" for number in range(lines)))
    arguments = ("batch", "run", str(asked), "-o", str(output), *SCRIPTED)
    arguments = (*arguments, "--set", "max_tokens=4", "--base-url", engine.base_url)
    runner = start(*arguments, "--concurrency", "1")
    wait_until(lambda: finished(output) > 2)
    assert (
        request_cancel(get_journal_directory(output), "drain") == 1
    )  # at once, so that some lines are left
    code, told = ended(runner)
    kept = finished(output)
    assert (code, 2 < kept < lines) == (1, True)
    assert f"Stopped: {kept} of {lines} lines are finished and stored in" in told
    assert "Error: the batch was cancelled" in told
    assert told.count("Run the same command") == 1
    assert not output.exists()
    again = run(*arguments, "--json")
    assert (again.returncode, json.loads(again.stdout)["resumed"]) == (0, kept)
    assert names(output) == once_each(lines)


def test_a_batch_that_is_cancelled_now_stops_what_runs(
    engine: Endpoint, start: Start, tmp_path: Path
) -> None:
    output = tmp_path / "answers.jsonl"
    asked = prompts(tmp_path / "p.txt", "1 say-hello", "2 say-hello", "say-at-a-crawl")
    arguments = ("batch", "run", str(asked), "-o", str(output), *SCRIPTED)
    runner = start(*arguments, "--base-url", engine.base_url)
    wait_until(lambda: finished(output) == 2)
    cancelled = run("batch", "cancel", "--now", str(output))
    assert (cancelled.returncode, cancelled.stdout[:18]) == (0, "Requested 1 runner")
    code, told = ended(runner)  # the last line alone would take a minute
    assert (code, "Stopped: 2 of 3 lines are finished and stored in" in told) == (1, True)


def test_an_engine_that_dies_under_a_batch_costs_no_line(
    start: Start, home: Path, tmp_path: Path
) -> None:
    output, lines = tmp_path / "answers.jsonl", 150
    asked = prompts(tmp_path / "prompts.txt", *(f"{number} + 1" for number in range(lines)))
    arguments = ("batch", "run", str(asked), "-o", str(output), "--model", "demo")
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
    wait_until(lambda: finished(output) > 0)
    for host in list_hosts(home):
        host.kill()
    code, told = ended(runner)
    assert (code, told) == (0, "")
    assert names(output) == once_each(lines)
    assert not (tmp_path / "answers.errors.jsonl").exists()


def test_failed_lines_are_answered_by_a_retry(engine: Endpoint, tmp_path: Path) -> None:
    output, errors = tmp_path / "answers.jsonl", tmp_path / "answers.errors.jsonl"
    asked = prompts(tmp_path / "p.txt", "1 say-hello", "say-at-a-crawl", "2 say-hello")
    arguments = ("batch", "run", str(asked), "-o", str(output), *SCRIPTED)
    arguments = (*arguments, "--set", "max_tokens=5", "--base-url", engine.base_url)
    first = run(*arguments, "--deadline", "0.4", "--attempts", "1")
    assert (first.returncode, "line-2" in names(errors)) == (3, True), first.stderr
    assert run(*arguments).returncode == 3, "it is not asked again without the wish"

    mine = output.rename(tmp_path / "mine.jsonl")
    output.write_bytes(b"something else\n")
    for again in (("batch", "retry", str(output)), (*arguments, "--retry-failed")):
        refused = run(*again)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "answers.jsonl is not as this batch left it" in refused.stderr
    assert output.read_bytes() == b"something else\n"

    mine.replace(output)
    retried = run("batch", "retry", str(output), "--base-url", engine.base_url, "--json")
    assert (retried.returncode, json.loads(retried.stdout)["failed"]) == (0, 0), retried.stderr
    assert names(output) == once_each(3)
    assert not errors.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no process's files")
def test_a_disk_that_fills_up_stops_a_batch_which_then_goes_on(
    engine: Endpoint, start: Start, tmp_path: Path
) -> None:
    output, lines = tmp_path / "answers.jsonl", 400
    asked = prompts(tmp_path / "p.txt", *(f"{number} + 1" for number in range(lines)))
    arguments = ("batch", "run", str(asked), "-o", str(output), "--model", "demo")
    arguments = (*arguments, "--set", "max_tokens=2", "--base-url", engine.base_url)
    code, told = ended(start(*arguments, preexec_fn=limited))
    assert code == 1, told
    assert "cannot be used" in told
    kept = finished(output)
    assert f"Stopped: {kept} of {lines} lines" in told
    assert (kept < lines, output.exists()) == (True, False)
    again = run(*arguments, "--json")
    assert (again.returncode, json.loads(again.stdout)["resumed"]) == (0, kept), again.stderr
    assert names(output) == once_each(lines)


def limited() -> None:
    """No file of this process may grow beyond so many bytes."""
    import resource  # noqa: PLC0415 - it is not there on Windows

    resource.setrlimit(resource.RLIMIT_FSIZE, (160 * 1024, resource.RLIM_INFINITY))
