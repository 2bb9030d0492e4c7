"""A model's reasoning on the terminal."""

from __future__ import annotations

import click
import pytest

from foundry_api.cli.reasoning import FOLD_LINES, FoldedReasoning


def make_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make standard error a terminal, from a test: pytest replaces it between set-up and test."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")


def test_reasoning_shows_its_end_and_then_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_terminal(monkeypatch)
    times = iter(range(1000))
    view = FoldedReasoning(lambda: 40, lambda: next(times))
    for number in range(100):
        view.write(f"line{number}\n")
    shown = capsys.readouterr().err
    last = shown.rpartition("line96")[2]
    assert [f"line{number}" in last for number in (95, 97, 98, 99)] == [False, True, True, True]
    assert FOLD_LINES == 4
    view.end()
    rest = capsys.readouterr().err
    assert rest.count("\x1b[2K") >= FOLD_LINES  # the lines are erased
    assert (
        click.unstyle(rest).rstrip().endswith("Thought for 1 min 40 s, 100 words. /think shows it.")
    )


@pytest.mark.parametrize(
    "parts",
    [["two wor", "ds"], ["two", " words"], ["two ", "words"], ["t", "w", "o", " ", "words"]],
)
def test_words_are_counted_however_they_arrive(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], parts: list[str]
) -> None:
    make_terminal(monkeypatch)
    view = FoldedReasoning(lambda: 40, lambda: 0.0)
    for part in parts:
        view.write(part)
    view.end()
    view.end()
    assert capsys.readouterr().err.count("2 words.") == 1
