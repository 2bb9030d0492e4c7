"""Failures: text, JSON and exit codes."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import click
import pytest

from foundry_api.cli import INTERRUPTED, main
from foundry_api.cli import errors as cli_errors
from foundry_api.cli.root import root
from foundry_api.types import errors

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """A verb `status` that raises the last error in the list."""
    raised: list[BaseException] = []

    @click.command("status")
    @click.option("--json", "as_json", is_flag=True)
    def status(*, as_json: bool) -> None:
        del as_json
        raise raised[-1]

    monkeypatch.setattr(root, "get_command", lambda *_: status)
    return raised


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ModelNotFound("no such model", model="x"), 1),
        (errors.ServiceNotRunning("nothing there"), 1),
        (errors.ReadTimeout("too long"), 1),
        (errors.InvalidRequest("bad"), 2),
        (errors.ContextOverflow("too much"), 2),
        (errors.ConfigurationError("bad setting"), 2),
        (click.UsageError("no such option"), 2),
        (RuntimeError("a bug"), 1),
        (PermissionError("not yours"), 1),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
    ],
)
def test_exit_codes(
    failing: list[BaseException],
    error: BaseException,
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing.append(error)
    assert main(["status"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert code == 130 or "Error: " in captured.err


def test_text_has_message_context_and_hint(capsys: pytest.CaptureFixture[str]) -> None:
    error = errors.ServerError("it broke", hint="Try later.", service="http://x:1", status=500)
    cli_errors.print_error(error.with_context(attempts=4))
    assert capsys.readouterr().err == (
        "Error: it broke (service http://x:1, HTTP 500, after 4 attempts).\nTry later.\n"
    )


def test_the_hint_for_programs_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    cli_errors.print_error(errors.InvalidRequest("x.txt cannot be read"))
    assert capsys.readouterr().err == "Error: x.txt cannot be read.\n"


def test_a_terminal_wraps_errors_at_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "30")
    error = errors.CatalogUnavailable(
        "the model is not on this machine", hint="Run `foundry-api models pull phi-4-mini` later."
    )
    cli_errors.print_error(error)
    assert click.unstyle(capsys.readouterr().err) == (
        "Error: the model is not on\nthis machine.\nRun\n"
        "`foundry-api models pull phi-4-mini`\nlater.\n"  # a command is not broken
    )


def test_control_characters_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    cli_errors.print_error(errors.ServerError("\x1b[2Jgone", hint=""))
    assert capsys.readouterr().err == "Error: \\x1b[2Jgone.\n"


def test_json_goes_to_standard_output(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(errors.StreamInterrupted("it broke", partial="half", model="m"))
    assert main(["status", "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    assert json.loads(captured.out) == {
        "error": {
            "type": "StreamInterrupted",
            "message": "it broke",
            "hint": "The text so far is in .partial; call again for a complete answer.",
            "model": "m",
            "service": None,
            "status": None,
            "attempts": 0,
            "partial": "half",
        }
    }


def test_a_usage_error_as_json_refers_to_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--json", "--nonsense"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "UsageError"
    assert "--nonsense" in error["message"]
    assert error["hint"] == "See `foundry-api chat --help`."


def test_an_unknown_verb_suggests_a_similar_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chta"]) == 2
    assert "Did you mean 'chat'?" in capsys.readouterr().err


def test_json_after_a_double_dash_is_a_prompt(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(errors.ServerError("it broke"))
    assert main(["status", "--", "--json"]) != 0
    assert capsys.readouterr().out == ""


def test_an_invalid_setting_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOUNDRY_TIMEOUT", "soon")
    assert main(["down"]) == 2
    assert "FOUNDRY_TIMEOUT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--timeout", "-3"], "Error: --timeout is -3."),
        (["--deadline", "0"], "Error: --deadline is 0."),
        (["-m", ""], "Error: --model is empty."),
        (["--model", "a\tb"], "Error: --model is 'a\\tb', which holds control characters."),
        (["--base-url", ""], "Error: --base-url is '', not a service's address."),
        (["--base-url", "//user:hunter2@host"], "Error: --base-url carries a credential."),
        (["--temperature", "5"], "Error: --temperature is 5.0, but must be from 0 to 2."),
        (["--max-tokens", "0"], "Error: --max-tokens is 0, but must be from 1 to 2147483647."),
        (["--stop", ""], "Error: --stop is empty."),
    ],
)
def test_errors_name_the_option(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert main(["chat", "--base-url", "http://127.0.0.1:1", *arguments, "Hi"]) == 2
    output = capsys.readouterr().err
    assert output.startswith(message)
    assert "hunter2" not in output
    assert "FOUNDRY_" not in output.replace("FOUNDRY_API_KEY", "")


def test_ctrl_break_interrupts_like_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only Windows has it. By default it ends a program at once."""
    number = getattr(signal, "SIGBREAK", None) or signal.SIGTERM
    monkeypatch.setattr(signal, "SIGBREAK", number, raising=False)
    monkeypatch.setattr("foundry_api.cli.root.run", lambda _: signal.raise_signal(number))
    monkeypatch.setattr("atexit.register", lambda _: None)  # else this process ends by SIGINT
    handlers = {changed: signal.getsignal(changed) for changed in (number, signal.SIGINT)}
    try:
        assert main() == INTERRUPTED
    finally:
        for changed, handler in handlers.items():
            signal.signal(changed, handler)
