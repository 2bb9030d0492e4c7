"""`foundry-api batch` as a separate process, with the real engine."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.cli_program import Terminal, run
from support.scripted_model import script

if TYPE_CHECKING:
    from foundry_api.engine.endpoint import Endpoint

ROWS = 24
MODEL = ("--model", "scripted")


@pytest.fixture
def shared_home(engine: Endpoint) -> Path:
    """The home of the shared engine, which has the scripted model."""
    del engine
    return Path(os.environ["FOUNDRY_TEST_HOME"])


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Numbered lines of text."""
    path = tmp_path / "prompts.txt"
    text = "".join(f"{number} say-hello\n" for number in range(ROWS))
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def contents(lines: list[dict[str, Any]]) -> set[str]:
    return {line["response"]["body"]["choices"][0]["message"]["content"] for line in lines}


def with_a_bad_line(prompts: Path) -> Path:
    """OpenAI batch lines, the second with an unknown URL."""
    path = prompts.with_suffix(".jsonl")
    message = {"role": "user", "content": "say-hello"}
    lines = [
        {
            "custom_id": f"id-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"messages": [message], **({"max_tokens": "many"} if number == 1 else {})},
        }
        for number in range(3)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_file_of_prompts_is_answered_once(
    shared_home: Path, prompts: Path, tmp_path: Path
) -> None:
    output, report = tmp_path / "answers.jsonl", tmp_path / "report.html"
    command = ("batch", "run", str(prompts), "-o", str(output), "--report", str(report), *MODEL)
    finished = run(*command, home=shared_home)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert f"{ROWS} lines: {ROWS} succeeded" in finished.stdout
    assert "latency" in finished.stdout
    answers = read(output)
    assert len({line["custom_id"] for line in answers}) == len(answers) == ROWS
    assert contents(answers) == {script("say-hello").text}
    assert "<svg" in report.read_text(encoding="utf-8")

    document = json.loads(run(*command, "--json", home=shared_home).stdout)
    assert (document["total"], document["resumed"], document["failed"]) == (ROWS, ROWS, 0)
    assert read(output) == answers

    status = run("batch", "status", str(output), home=shared_home)
    assert f"{ROWS} of {ROWS} (100%) finished" in status.stdout
    cancelled = run("batch", "cancel", str(output), home=shared_home)
    assert cancelled.stdout.startswith("No process is running")


def test_an_invalid_line_goes_to_the_error_file(
    shared_home: Path, prompts: Path, tmp_path: Path
) -> None:
    bad, output = with_a_bad_line(prompts), tmp_path / "answers.jsonl"
    finished = run("batch", "run", str(bad), "-o", str(output), *MODEL, home=shared_home)
    assert finished.returncode == 3, finished.stderr
    assert "3 lines: 2 succeeded, 1 failed" in finished.stdout
    assert "Correct it in a new file" in finished.stdout
    assert "foundry-api batch retry" not in finished.stdout  # which would change nothing
    assert [line["custom_id"] for line in read(tmp_path / "answers.errors.jsonl")] == ["id-1"]

    status = json.loads(run("batch", "status", "--json", str(output), home=shared_home).stdout)
    assert (status["state"], status["counts"]["failed"]) == ("finished", 1)
    retried = run("batch", "retry", str(output), home=shared_home)
    assert retried.returncode == 3, retried.stderr
    assert len(read(output)) == 2


def test_a_strict_run_rejects_an_invalid_line(
    shared_home: Path, prompts: Path, tmp_path: Path
) -> None:
    bad, output = with_a_bad_line(prompts), tmp_path / "answers.jsonl"
    finished = run("batch", "run", str(bad), "-o", str(output), "--strict", home=shared_home)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert "is refused: it has 1 invalid line" in finished.stderr
    assert finished.stderr.count("prompts.jsonl line 2") == 1
    assert not output.exists()


def openai_lines(path: Path, *names: str) -> Path:
    """The same request with several ids."""
    body = {"messages": [{"role": "user", "content": "say-hello"}], "temperature": 0}
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
        for name in names
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_without_check_lines_with_the_same_id_are_all_answered(
    shared_home: Path, tmp_path: Path
) -> None:
    prompts = openai_lines(tmp_path / "prompts.jsonl", "twin", "other", "twin")
    output = tmp_path / "answers.jsonl"
    command = ("batch", "run", str(prompts), "-o", str(output), *MODEL, "--no-check", "--ordered")
    finished = run(*command, home=shared_home)
    assert finished.returncode == 0, finished.stderr
    assert [line["custom_id"] for line in read(output)] == ["twin", "other", "twin"]


def test_identical_lines_run_once_and_restart_runs_them_again(
    shared_home: Path, tmp_path: Path
) -> None:
    prompts = openai_lines(tmp_path / "prompts.jsonl", "one", "two", "three")
    output = tmp_path / "answers.jsonl"
    command = ("batch", "run", str(prompts), "-o", str(output), *MODEL, "--dedupe", "--json")
    for restart in ((), ("--restart",)):
        document = json.loads(run(*command, *restart, home=shared_home).stdout)
        assert (document["done"], document["shared"], document["resumed"]) == (3, 2, 0)


def test_a_batch_uses_the_cache_and_counts_hits(shared_home: Path, tmp_path: Path) -> None:
    prompts = openai_lines(tmp_path / "prompts.jsonl", "one")
    cache = {"FOUNDRY_CACHE": str(tmp_path / "cache.db")}
    for name, shared in (("first", 0), ("second", 1)):
        command = ("batch", "run", str(prompts), "-o", str(tmp_path / f"{name}.jsonl"), *MODEL)
        document = json.loads(run(*command, "--json", home=shared_home, **cache).stdout)
        assert (document["done"], document["shared"]) == (1, shared)


def test_check_reports_problems_without_a_service(prompts: Path) -> None:
    good = run("batch", "check", str(prompts))
    assert (good.returncode, good.stderr) == (0, "")
    assert f"{ROWS} lines, all valid" in good.stdout
    bad = run("batch", "check", "--json", str(with_a_bad_line(prompts)))
    document = json.loads(bad.stdout)
    assert (bad.returncode, document["lines"], document["bad"]) == (2, 3, 1)
    assert "prompts.jsonl line 2" in document["problems"][0]["message"]


def test_plan_estimates_and_writes_nothing(shared_home: Path, prompts: Path) -> None:
    before = sorted(prompts.parent.iterdir())
    finished = run(
        "batch", "plan", str(prompts), "--sample", "20", "--within", "2h", "--json", *MODEL,
        home=shared_home,
    )  # fmt: skip
    document = json.loads(finished.stdout)
    assert (document["total"], document["failed"], document["machines"]) == (ROWS, 0, 1)
    assert document["sampled"] == 10, "half of the sample warms it up"
    assert (
        document["seconds"]["low"] <= document["seconds"]["likely"] <= document["seconds"]["high"]
    )
    tokens = document["completion_tokens"]
    assert tokens["low"] == tokens["high"] > 0, "all answers have the same length"
    assert sorted(prompts.parent.iterdir()) == before


def test_only_answers_go_to_standard_output(shared_home: Path, prompts: Path) -> None:
    finished = run("batch", "run", str(prompts), "-o", "-", *MODEL, home=shared_home)
    answers = [json.loads(line) for line in finished.stdout.splitlines()]
    assert len(answers) == ROWS
    assert f"{ROWS} lines: {ROWS} succeeded" in finished.stderr


@pytest.mark.skipif(
    sys.platform == "win32", reason="the standard library opens no pseudo terminal on Windows"
)
def test_ctrl_c_keeps_finished_lines(shared_home: Path, prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    slow = prompts.read_text(encoding="utf-8") + "say-slowly\n"  # for most of a minute
    prompts.write_text(slow, encoding="utf-8")
    report = tmp_path / "report.html"
    command = ("batch", "run", str(prompts), "-o", str(output), "--report", str(report), *MODEL)
    with Terminal(*command, home=shared_home) as terminal:
        terminal.expect(f"{ROWS} succeeded")
        terminal.process.send_signal(signal.SIGINT)
        terminal.expect(f"Stopped: {ROWS} of {ROWS + 1} lines are finished and stored")
        terminal.expect("Run the same command to resume.")
        terminal.expect("has the results so far")
        assert terminal.exit_code() == 130
    assert not output.exists()
    status = json.loads(run("batch", "status", "--json", str(output), home=shared_home).stdout)
    assert (status["state"], status["counts"]["done"]) == ("stopped", ROWS)
    page = report.read_text(encoding="utf-8")
    assert "not finished" in page
    assert "<svg" in page
