"""Printed output, without control characters on a terminal."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING

import pytest

from foundry_api.cli import output, streams
from foundry_api.cli.printer import AnswerPrinter

if TYPE_CHECKING:
    from collections.abc import Callable


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_no_control_characters_from_a_model() -> None:
    attack = "\x1b]0;title\x07 \x9b31m \x7f\x08"
    assert output.sanitize(attack) == r"\x1b]0;title\x07 \x9b31m \x7f\x08"
    assert output.sanitize("tab\tline\r\n日本語 😀") == "tab\tline\n日本語 😀"


@pytest.mark.parametrize(
    ("stream", "expected"), [(io.StringIO, "\x1b[2J\n"), (Terminal, "\\x1b[2J\n")]
)
def test_a_pipe_gets_the_answer_unchanged(stream: Callable[[], io.StringIO], expected: str) -> None:
    written = stream()
    speaker = AnswerPrinter(written)
    speaker.write("\x1b[2J")
    speaker.finish()
    assert written.getvalue() == expected
    assert speaker.text == "\x1b[2J"


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [(["a", "b"], "ab\n"), (["a\n"], "a\n"), (["a\n", "\n"], "a\n\n"), ([], "")],
)
def test_at_most_one_newline_is_added_to_an_answer(pieces: list[str], expected: str) -> None:
    written = io.StringIO()
    speaker = AnswerPrinter(written)
    for piece in pieces:
        speaker.write(piece)
    speaker.finish()
    assert written.getvalue() == expected


def test_a_table_is_aligned_and_plain_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("NAME", "STATE"), [("a-long-name", "loaded"), ("b", "")])
    assert capsys.readouterr().out == "NAME         STATE\na-long-name  loaded\nb\n"


def test_empty_fields_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_fields("Service", "healthy", [("pid", "1"), ("memory", ""), ("uptime", "2 s")])
    assert capsys.readouterr().out == "Service  healthy\n  pid     1\n  uptime  2 s\n"


def test_json_is_one_document_in_utf8(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"text": "日本語\x1b"})
    text = capsys.readouterr().out
    assert "日本語" in text
    assert json.loads(text) == {"text": "日本語\x1b"}


def test_a_lone_surrogate_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"file": "caf\udce9", "said": "\u00fc"}, indent=0)
    assert json.loads(capsys.readouterr().out) == {"file": "caf\udce9", "said": "\u00fc"}


@pytest.mark.parametrize("code_page", ["cp437", "cp1252", "cp932"])
def test_pipes_on_windows_use_utf8(monkeypatch: pytest.MonkeyPatch, code_page: str) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("é".encode()), encoding=code_page))
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding=code_page))
    monkeypatch.setattr("sys.stderr", None)
    streams.force_utf8()
    import sys  # noqa: PLC0415 - the streams are replaced above

    print(sys.stdin.read(), "日本😀\udcff", end="", flush=True)  # noqa: T201
    assert written.getvalue() == "é 日本😀\\udcff".encode()


@pytest.mark.parametrize(
    ("text", "wrapped"),
    [
        ("日本語のとても長い名前の模型", "日本語のとても長い名\n前の模型"),
        ("  the model 日本語の名前 is not here", "  the model\n  日本語の名前 is\n  not here"),
        ("😀 😀 😀 😀 😀 😀 😀 😀", "😀 😀 😀 😀 😀 😀 😀\n😀"),
        ("é" * 12 + " run `foundry api` now", "é" * 12 + " run\n`foundry api` now"),
    ],
)
def test_wide_characters_wrap_at_their_width(
    monkeypatch: pytest.MonkeyPatch, text: str, wrapped: str
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert output.wrap_words(text, sys.stderr) == wrapped


def test_columns_align_beside_wide_characters(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("A", "B"), [("日本", "x"), ("abcd", "y")])
    output.print_fields("T", "", [("日本", "x"), ("abcd", "y")])
    assert capsys.readouterr().out == "A     B\n日本  x\nabcd  y\nT  \n  日本  x\n  abcd  y\n"
