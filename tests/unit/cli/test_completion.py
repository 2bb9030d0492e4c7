"""Completion in shells: verbs, options, models and settings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from foundry_api.cli.verbs import VERBS
from support.cli_program import make_command, make_environment, run

if TYPE_CHECKING:
    from pathlib import Path

SHELLS = ("bash", "zsh", "fish", "powershell")


def complete(shell: str, *words: str, home: Path) -> list[str]:
    """Return what the program gives a shell for the last word."""
    position = {"COMP_CWORD": str(len(words) - 1) if shell in {"bash", "zsh"} else words[-1]}
    separator = "\n" if shell == "powershell" else " "
    finished = subprocess.run(
        make_command(),
        env=make_environment(
            home,
            _FOUNDRY_API_COMPLETE=f"{shell}_complete",
            COMP_WORDS=separator.join(("foundry-api", *words[1:])),
            COMP_WORD=words[-1],
            **position,
        ),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert finished.stderr == b""
    return finished.stdout.decode("utf-8").splitlines()


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_printed_for_each_shell(shell: str, tmp_path: Path) -> None:
    script = run("completion", shell, home=tmp_path)
    assert script.returncode == 0
    # click asks the shell for its version.
    if shell != "bash" or shutil.which(shell) is not None:
        assert script.stderr == ""
    assert f"{shell}_complete" in script.stdout
    document = json.loads(run("completion", shell, "--json", home=tmp_path).stdout)
    assert document["script"].strip() == script.stdout.strip()
    program = None if sys.platform == "win32" else shutil.which(shell)
    if shell != "powershell" and program is not None:
        checked = subprocess.run([program, "-n"], input=script.stdout.encode(), check=False)
        assert checked.returncode == 0


def test_an_unknown_shell_is_a_usage_error(tmp_path: Path) -> None:
    assert run("completion", "tcsh", home=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("foundry-api", "c"), [verb for verb in VERBS if verb.startswith("c")]),
        (("foundry-api", "--vers"), ["--version"]),
        (("foundry-api", "chat", "--no-"), ["--no-think", "--no-stream"]),
        (("foundry-api", "chat", "--context", "k"), ["keep"]),
        (("foundry-api", "chat", "-m", "d"), ["demo"]),
        (("foundry-api", "models", "unl"), ["unload"]),
        (("foundry-api", "models", "load", "x", "D"), ["demo"]),
        (("foundry-api", "config", "set", "time"), ["timeout"]),
    ],
)
def test_verbs_options_models_and_settings_are_completed(
    tmp_path: Path, words: tuple[str, ...], expected: list[str]
) -> None:
    assert complete("bash", *words, home=tmp_path) == [f"plain,{word}" for word in expected]


def test_powershell_gets_the_help_with_each_value(tmp_path: Path) -> None:
    lines = complete("powershell", "foundry-api", "ser", home=tmp_path)
    assert lines == [f"plain\tserve\t{VERBS['serve']}"]
    assert complete("powershell", "foundry-api", "chat", "-m", "d", home=tmp_path) == [
        "plain\tdemo\t"
    ]


def test_completion_survives_an_invalid_settings_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("broken = ", encoding="utf-8")
    assert complete("bash", "foundry-api", "chat", "-m", "d", home=tmp_path) == ["plain,demo"]


@pytest.mark.skipif(
    sys.platform == "win32" or shutil.which("bash") is None, reason="runs the script in bash"
)
def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "foundry-api"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m foundry_api "$@"\n', encoding="utf-8"
    )
    program.chmod(0o700)
    script = run("completion", "bash", home=tmp_path).stdout
    test = (
        f"{script}\nCOMP_WORDS=(foundry-api chat -m d) COMP_CWORD=3\n"
        'complete -p foundry-api\n_foundry_api_completion foundry-api\necho "${COMPREPLY[@]}"\n'
    )
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    finished = subprocess.run(
        ["bash", "--norc"],  # noqa: S607 - the shell of the user
        input=test.encode(),
        env=make_environment(tmp_path, PATH=path),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert finished.stdout.decode().splitlines()[-1] == "demo"


def test_completion_of_verbs_imports_no_verb() -> None:
    program = (
        "import sys\n"
        "from foundry_api.cli import main\n"
        "try:\n    main([])\n"
        "except SystemExit:\n    pass\n"
        "print(sorted(m for m in sys.modules if m.startswith('foundry_api.cli.')))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program],
        env=make_environment(
            _FOUNDRY_API_COMPLETE="bash_complete", COMP_WORDS="foundry-api c", COMP_CWORD="1"
        ),
        capture_output=True,
        timeout=60,
        check=True,
    )
    modules = finished.stdout.decode().splitlines()[-1]
    assert "foundry_api.cli.chat" not in modules
    assert "foundry_api.cli.session" not in modules
