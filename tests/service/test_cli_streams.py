"""Standard streams that are full or closed, closed pipes, and locales without Unicode."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.cli_program import make_command, make_environment

if TYPE_CHECKING:
    from foundry_api.engine.endpoint import Endpoint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")

VERBS = (
    ("--help",),
    ("--version",),
    ("models", "register", "--help"),
    ("chat", "-m", "scripted", "say-hello"),
    ("chat", "-m", "scripted", "say-lines", "--no-stream"),
    ("embed", "-m", "embedder", "Hello"),
    ("models", "list"),
    ("models", "show", "scripted"),
    ("status",),
    ("health",),
    ("health", "--watch", "--count", "1"),
    ("cache", "stats"),
    ("keys", "list"),
    ("request", "GET", "/v1/models"),
    ("doctor", "--quick"),
    ("batch", "check", "prompts.txt"),
    ("batch", "plan", "prompts.txt", "-m", "scripted"),
    ("batch", "run", "prompts.txt", "-m", "scripted", "-o", "-"),
    ("batch", "run", "prompts.txt", "-m", "scripted", "-o", "answers.jsonl", "--report", "r.html"),
)


@pytest.fixture
def home(engine: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of the shared engine; the working directory has a batch."""
    assert engine
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("say-hello\nsay-lines\n", encoding="utf-8")
    return Path(os.environ["FOUNDRY_TEST_HOME"])


def shell(line: str, arguments: tuple[str, ...], home: Path, **variables: str) -> tuple[int, str]:
    """Run a line of shell, in which "$@" is the command; return exit code and standard error."""
    done = subprocess.run(
        ["/bin/bash", "-c", line, "bash", *make_command(*arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=make_environment(home, **variables),
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_a_failed_write_is_reported(home: Path, verb: tuple[str, ...]) -> None:
    code, stderr = shell('"$@" > /dev/full', verb, home)
    assert (code, stderr.splitlines()[0]) == (
        1,
        "Error: standard output cannot be written: No space left on device.",
    )
    assert "bug" not in stderr
    code, stderr = shell('"$@" --json >&-', verb, home)
    assert code == 1
    assert stderr.startswith(
        ("Error: standard output is closed.", "Error: standard output cannot be written: Bad file")
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ('"$@" > /dev/full 2> /dev/full', 1),
        ('"$@" >&- 2>&-', 1),
        ('"$@" <&- >&- 2>&-', 1),
        ('"$@" 2> /dev/full', 0),
        ('"$@" 2>&-', 0),
        ('"$@" -v 2> /dev/full', 0),
        ('"$@" | head -c 0; exit ${PIPESTATUS[0]}', 1),
        ('PYTHONUNBUFFERED=1 "$@" > /dev/full', 1),
    ],
)
def test_exit_codes_when_nothing_can_be_printed(home: Path, line: str, code: int) -> None:
    """A full standard error changes nothing, and a closed pipe needs no message."""
    ended, stderr = shell(line, ("chat", "-m", "scripted", "say-hello"), home)
    assert ended == code
    assert "bug" not in stderr
    assert "Traceback" not in stderr
    assert "Exception ignored" not in stderr


@pytest.mark.parametrize("line", ['"$@" --json > /dev/full', '"$@" --json >&-'])
def test_a_failed_write_of_json_is_reported_as_text(home: Path, line: str) -> None:
    code, stderr = shell(line, ("chat", "-m", "scripted", "--temperature", "9", "hi"), home)
    assert code == 2
    assert stderr.startswith("Error: --temperature is 9")
    assert "standard output" in stderr.splitlines()[-1]


def test_files_do_not_replace_closed_streams(home: Path) -> None:
    """Otherwise the answer would be written to the first file that is opened."""
    batch = ("batch", "run", "prompts.txt", "-m", "scripted", "-o", "answers.jsonl")
    assert shell('"$@" <&- >&- 2>&-', batch, home)[0] == 1
    answers = [json.loads(line) for line in Path("answers.jsonl").read_text("utf-8").splitlines()]
    assert [answer["error"] for answer in answers] == [None, None]


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    "locale",
    [ASCII, {"LC_ALL": "C"}, {"LC_ALL": "", "LANG": "POSIX"}, {"LC_ALL": "no_SUCH.locale"}],
)
def test_prompts_and_answers_are_utf_8_in_any_locale(home: Path, locale: dict[str, str]) -> None:
    done = subprocess.run(
        make_command("chat", "-m", "scripted", "-s", "Grüße", "日本語 🎉 say-multibyte"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=make_environment(home, **locale),
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert not done.stdout.isascii()
    done.stdout.decode()


def test_a_prompt_that_is_not_utf_8_is_rejected(home: Path) -> None:
    done = subprocess.run(
        [*map(os.fsencode, make_command("chat", "-m", "scripted")), b"caf\xe9"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=make_environment(home, **ASCII),
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert b"not valid UTF-8" in done.stderr


def test_file_names_in_any_locale(home: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").rename(tmp_path / "für alle.txt")
    assert shell('"$@"', ("batch", "check", "für alle.txt"), home, **ASCII) == (0, "")


def test_environment_variables_in_any_locale(home: Path) -> None:
    done = subprocess.run(
        make_command("chat", "hi"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=make_environment(home, FOUNDRY_MODEL="modèle", **ASCII),
        timeout=60,
        check=False,
    )
    assert "modèle is not on this machine" in done.stderr.decode()
