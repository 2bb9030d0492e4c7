"""The command line starts fast: what help needs is imported, and nothing else.

Imports are counted, not timed: a count is the same on every machine and under every load.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

from foundry_api import __version__
from foundry_api.cli.options import format_examples
from foundry_api.cli.root import root
from foundry_api.cli.verbs import VERBS
from support.cli_program import make_environment, run

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = {
    "aiohttp",
    "asyncio",
    "email",
    "json",
    "logging",
    "msgspec",
    "packaging",
    "platformdirs",
    "psutil",
    "rich",
    "ssl",
    "foundry_api.client.client",
    "foundry_api.types.errors",
    "foundry_api.types.settings",
    *(f"foundry_api.cli.{verb}" for verb in VERBS),
}
MAX_MODULES_OF_HELP = 108 if sys.platform == "win32" else 100
"""In addition to those of a bare interpreter; click alone imports about 65, and on Windows, for the
console, ctypes with about eight more."""

WITHOUT_SERVICE = {"up", "down", "cache", "config", "completion", "engine", "keys", "logs"}
FILES_ONLY = {"batch", "batch check", "batch list", "batch status", "batch cancel"}
"""Commands that use no service."""

LIST_MODULES = """
import sys
bare = set(sys.modules)
from foundry_api.cli import main
from foundry_api.cli.options import format_examples
main(sys.argv[1:])
import json
print(json.dumps(sorted(set(sys.modules) - bare - {"json"})), file=sys.stderr)
"""


def imported_by(*arguments: str) -> set[str]:
    finished = subprocess.run(
        [sys.executable, "-c", LIST_MODULES, *arguments],
        capture_output=True,
        check=True,
        env=make_environment(),
        timeout=60,
    )
    return set(json.loads(finished.stderr.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], []])
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    modules = imported_by(*arguments)

    without_json = HEAVY - {"json"}  # the measuring program imports it
    assert modules & without_json == set()
    assert len(modules) < MAX_MODULES_OF_HELP


def test_the_help_of_a_verb_imports_neither_http_nor_rich() -> None:
    modules = imported_by("chat", "--help")
    assert (
        modules & {"aiohttp", "rich", "foundry_api.cli.models", "foundry_api.cli.health"} == set()
    )


def test_a_prompt_needs_neither_the_keys_of_a_conversation_nor_the_log() -> None:
    modules = imported_by("chat", "--help")
    heavy = {"prompt_toolkit", "sqlite3", "tomllib", "foundry_api.cli.markdown"}
    assert modules & heavy == set()


def test_the_table_of_verbs_matches_their_help() -> None:
    for verb, short_help in VERBS.items():
        command = importlib.import_module(f"foundry_api.cli.{verb}").command
        assert command.name == verb
        assert command.get_short_help_str(limit=200) == short_help


def every_command() -> list[tuple[str, click.Command]]:
    context = click.Context(root)
    commands = [(name, root.get_command(context, name)) for name in VERBS]
    found = [(name, command) for name, command in commands if command is not None]
    for name, command in tuple(found):
        if isinstance(command, click.Group):
            found += [(f"{name} {sub}", part) for sub, part in command.commands.items()]
    return found


@pytest.mark.parametrize(("name", "command"), every_command())
def test_every_command_has_examples_and_the_common_options(
    name: str, command: click.Command
) -> None:
    assert f"  foundry-api {name.split(maxsplit=1)[0]}" in (command.epilog or "")
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--json", "--verbose"} <= options
    assert (
        ("--base-url" in options)
        == ("--service" in options)
        == (
            name.split(maxsplit=1)[0]
            not in {"up", "down", "cache", "config", "completion", "engine", "keys", "logs"}
            and name not in FILES_ONLY
            and not name.startswith("templates")
        )
    )
    undescribed = [
        parameter.name
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert undescribed == []


@pytest.mark.parametrize(("name", "command"), [("", root), *every_command()])
def test_help_fits_a_terminal_of_80_columns(name: str, command: click.Command) -> None:
    context = click.Context(command, info_name=f"foundry-api {name}", terminal_width=80)
    lines = command.get_help(context).splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert [line for line in lines[1:] if line.endswith("...")] == []  # a summary that was cut


def test_the_module_runs_and_prints_its_version() -> None:
    finished = run("--version")
    assert (finished.returncode, finished.stdout) == (0, f"foundry-api {__version__}\n")


def test_help_in_a_pipe_is_plain_and_lists_exit_codes() -> None:
    finished = run("--help")
    assert finished.returncode == 0
    assert "\x1b" not in finished.stdout
    assert "130  interrupted" in finished.stdout
    assert all(f"  {verb}" in finished.stdout for verb in VERBS)


def test_an_example_with_a_pipe_is_not_prefixed() -> None:
    shown = format_examples("chat hi", "cat notes | foundry-api chat hi")
    assert shown.splitlines()[2:] == ["  foundry-api chat hi", "  cat notes | foundry-api chat hi"]


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGHUP")
@pytest.mark.parametrize(
    ("arguments", "code"), [(["serve", "--check"], 0), (["doctor", "--help"], -1)]
)
def test_a_hangup_does_not_end_a_gateway_that_starts(
    own_home: Path, arguments: list[str], code: int
) -> None:
    # The signal arrives before anything else of the program has been imported.
    script = (
        "import os, signal, sys; from foundry_api import cli; run = cli._run\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores\n"
        "def hang_up_and_run(arguments):\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    return run(arguments)\n"
        "cli._run = hang_up_and_run\n"
        "sys.exit(cli.main())"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        env=make_environment(own_home),
        check=False,
    )
    assert finished.returncode == code, finished.stderr
