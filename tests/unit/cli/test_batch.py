"""`foundry-api batch` without an engine: progress, summary, advice, and invalid options."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from foundry_api.batch.engine import EngineState
from foundry_api.batch.job import BatchSummary
from foundry_api.batch.progress import BatchProgress
from foundry_api.batch.statistics import ErrorStatistics
from foundry_api.batch.types import BatchOptions, InputOptions
from foundry_api.cli import main
from foundry_api.cli.batch.progress import _Frame, format_line
from foundry_api.cli.batch.summary import _print_errors, make_retry_advice, print_summary
from support.journal_factories import make_answer, make_failure, make_options, open_journal

if TYPE_CHECKING:
    from pathlib import Path

ENGINE = EngineState(in_flight=8, queued=512, limit=8, services=(("http://a:1", "closed"),))


def progress(**changes: Any) -> BatchProgress:
    return BatchProgress(
        **{
            "phase": "running",
            "done": 5_400,
            "failed": 12,
            "shared": 310,
            "total": 10_000,
            "elapsed_s": 131.0,
            "lines_per_s": 41.2,
            "tokens_per_s": 2_310.0,
            "engine": ENGINE,
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("output", "errors"),
    [
        ("answers.jsonl", "answers.errors.jsonl"),
        ("answers", "answers.errors.jsonl"),
        ("mine.train.parquet", "mine.train.errors.jsonl"),
        ("mine.test.parquet", "mine.test.errors.jsonl"),
        (".jsonl", ".jsonl.errors.jsonl"),
    ],
)
def test_default_name_of_the_error_file(output: str, errors: str) -> None:
    options = BatchOptions(input=InputOptions(path="in.txt"), output=output)
    assert options.errors_path.name == errors


def screen(now: BatchProgress, width: int = 100) -> list[str]:
    console = Console(file=StringIO(), width=width, force_terminal=False)
    with console.capture() as captured:
        console.print(_Frame("a.jsonl -> b.jsonl", now, (1.0, 2.0, 3.0)))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_a_log_line_has_all_figures() -> None:
    assert format_line(progress()) == (
        "5,412 of 10,000 (54%) finished, 12 failed, 310 reused, 41.2 lines/s, "
        "2,310 tokens/s, 1 min 51 s left, 8 in flight of at most 8, 512 queued"
    )


def test_an_unavailable_service_is_named() -> None:
    away = EngineState(services=(("http://a:1", "closed"), ("http://b:2", "open")))
    assert format_line(progress(engine=away)).endswith("http://b:2 is unavailable")


def test_log_lines_of_other_phases() -> None:
    checking = progress(phase="checking", read_bytes=1_000_000, size_bytes=2_097_152)
    assert format_line(checking) == "checking the input (2 MB), 48%"
    assert format_line(progress(phase="publishing")).startswith("writing the output, 5,412 of")
    assert format_line(progress(total=None, lines_per_s=None, failed=0, shared=0)).startswith(
        "5,400 finished, 8 in flight"
    )


def test_the_view_has_a_bar_and_current_figures() -> None:
    title, bar, lines, speed, time, engine = screen(progress())
    assert title == "a.jsonl -> b.jsonl"
    assert bar.endswith("5,412 of 10,000   54%")
    assert lines == "lines   5,400 succeeded, 12 failed, 310 reused"
    assert speed.startswith("speed   41.2 lines/s, 2,310 tokens/s")
    assert time == "time    2 min 11 s elapsed, 1 min 51 s left"
    assert engine == "engine  8/8 in flight, 512 queued  http://a:1 is available"


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_view_fits_the_terminal(width: int) -> None:
    assert max(len(line) for line in screen(progress(), width)) <= width
    assert len(screen(progress(), width)) <= 8


def test_the_view_while_the_input_is_checked() -> None:
    title, bar = screen(progress(phase="checking", read_bytes=1, size_bytes=2**21))
    assert (title, bar.split("  ")[-1].strip()) == (
        "a.jsonl -> b.jsonl",
        "checking the input (2 MB)",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "a.txt"], "Missing option '-o'"),
        (
            ["run", "a.txt", "-o", "b", "--strict", "--no-check"],
            "--strict cannot be used with --no-check",
        ),
        (["run", "a.txt", "-o", "b", "--ray-address", "auto"], "--ray-address requires"),
        (["run", "a.txt", "-o", "-", "--report", "r"], "--report cannot be used with -o -"),
        (["run", "a.txt", "-o", "-", "--errors", "e"], "--errors cannot be used with -o -"),
        (
            ["run", "a.txt", "-o", "b", "--engine", "ray", "--concurrency", "2"],
            "--concurrency requires",
        ),
        (["run", "a.txt", "-o", "b", "--patience", "soon"], "--patience is 'soon'"),
        (["run", "a.txt", "-o", "b", "--set", "max_tokens"], "'max_tokens' is not NAME=VALUE"),
        (["plan", "a.txt", "--within", "0s"], "--within is '0s'"),
    ],
)
def test_invalid_options_are_usage_errors(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["batch", *arguments]) == 2
    assert message in capsys.readouterr().err


def summary(**changes: Any) -> BatchSummary:
    counts = {"total": 2, "done": 2, "failed": 0, "shared": 0, "resumed": 0, "tokens": 6}
    return BatchSummary(**{**counts, "elapsed_s": 1.0, **changes})


def test_the_summary_of_an_empty_input(capsys: pytest.CaptureFixture[str]) -> None:
    options = BatchOptions(input=InputOptions(path="/dev/fd/63"), output="a.jsonl")
    print_summary(options, summary(total=0, done=0))
    output = capsys.readouterr().out
    assert output.startswith("finished, but /dev/fd/63 has no lines\n")
    print_summary(options, summary())
    assert capsys.readouterr().out.startswith("finished\n")


@pytest.mark.parametrize(
    ("failures", "advice"),
    [
        ({}, ""),
        ({"InvalidRequest": 2}, "They would fail again: correct them"),
        ({"ContextOverflow": 1, "UnsupportedFeature": 3}, "They would fail again"),
        ({"UnsupportedParameter": 1, "ModelTaskMismatch": 1}, "They would fail again"),
        ({"ServerError": 1}, "Retry them with: foundry-api batch retry 'my answers.jsonl'"),
        ({"StructuredOutputError": 1, "GrammarError": 1}, "(1 of them would fail again: correct"),
        ({"ReadTimeout": 1, "InvalidRequest": 1_200}, "(1,200 of them would fail again: correct"),
    ],
)
def test_permanent_failures_are_not_recommended_for_retry(
    failures: dict[str, int], advice: str
) -> None:
    output = make_retry_advice("my answers.jsonl", failures)
    assert advice in output
    assert bool(output) == bool(failures)
    assert ("batch retry" in output) == ("retry" in advice or "of them" in advice)


def test_status_gives_the_same_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = make_options(tmp_path)
    for code, advice in (("InvalidRequest", "fail again"), ("ServerError", "batch retry")):
        with open_journal(options, restart=True) as journal:
            journal.record([make_answer(0), make_failure(1, code=code)])
            journal.publish(2)
        assert main(["batch", "status", options.output]) == 0
        assert advice in capsys.readouterr().out


def test_check_of_an_empty_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.txt").touch()
    assert main(["batch", "check", str(tmp_path / "in.txt")]) == 0
    assert capsys.readouterr().out == "in.txt: 0 lines, nothing to run\n"


def test_newlines_in_errors_are_escaped_in_the_summary(
    capsys: pytest.CaptureFixture[str],
) -> None:
    message = "it failed\nfinished"
    figures = ErrorStatistics(code="Bad", count=2, custom_id="a\nb", message=message, hint="c\nd")
    _print_errors((figures,), err=False)
    assert capsys.readouterr().out.splitlines() == [
        r"2 lines failed with Bad, such as a\nb: it failed\nfinished",
        r"  c\nd",
    ]


def test_batches_of_a_directory_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["batch", "list", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"There are no batches in {tmp_path}.\n"
    (tmp_path / "other.batch").mkdir()
    with open_journal(make_options(tmp_path)):
        pass
    assert main(["batch", "list", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "other.batch is skipped" in shown.err
    head, row = shown.out.splitlines()
    assert head.split() == ["OUTPUT", "STATE", "FINISHED", "FAILED", "STARTED"]
    assert row.startswith(f"{tmp_path / 'answers.jsonl'}  stopped")
