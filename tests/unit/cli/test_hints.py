"""Hints on the command line: options and commands instead of Python arguments."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

import foundry_api
from foundry_api.cli import main
from foundry_api.cli.hints import adapt_hint
from foundry_api.cli.options import name_options
from foundry_api.types import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(foundry_api.__file__).parent
OPTIONS = {"--timeout", "--deadline", "--max-tokens", "--service", "--yes", "--schema", "--json"}
# An argument, a call, an attribute, or a string of Python.
PYTHON = re.compile(r"\b[a-z_]+=|\w\(|\B\.[a-z_]+\b|'[a-z]+'|\bapi_key\b")
# What these raise is about the arguments of a program.
PROGRAMS_ONLY = (
    "batch/in_memory",
    "client/",
    "cli/",
    "core/responses",
    "gateway/",
    "structured/output_spec",
    "structured/errors",
    "tools/definition",
    "types/checks",
    "types/settings",
    "wire/custom_transport",
    "wire/hooks",
)
# Names of files, and options of other programs.
NO_PYTHON = re.compile(
    r"--[a-z-]+[ =]\S+|\S+\.(json|xlsx\.\S+|wav)|ray\[data\]|foundry-api\[ray\]|\{.*\}|'Translate"
)


def collect_hints() -> Iterator[tuple[str, str]]:
    """Yield where each hint in the source is, and its text without the values in it."""
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if name.startswith(PROGRAMS_ONLY):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            target, value = "", None
            if isinstance(node, ast.keyword):
                target, value = node.arg or "", node.value
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                target = ast.unparse(
                    node.targets[0] if isinstance(node, ast.Assign) else node.target
                )
                value = node.value
            if value is None or not target.lower().endswith("hint"):
                continue
            parts = [
                part.value
                for part in ast.walk(value)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            ]
            yield f"{name}:{value.lineno}", "".join(parts)


@pytest.mark.parametrize("options", [OPTIONS, set[str]()], ids=["all", "none"])
def test_no_hint_speaks_to_python_programs(options: set[str]) -> None:
    hints = {where: adapt_hint(hint, options) for where, hint in collect_hints()}
    assert len(hints) > 100
    left = {where: hint for where, hint in hints.items() if PYTHON.search(NO_PYTHON.sub("", hint))}
    assert left == {}


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (
            errors.ReadTimeout("silence"),
            "Raise --timeout, shorten the prompt, or use a smaller model.",
        ),
        (
            errors.ContextOverflow("too long"),
            "Shorten the prompt, lower max_tokens, or use a model with more context.",
        ),
        (errors.StreamInterrupted("gone", partial="a"), "Try again for a complete answer."),
        (errors.InvalidRequest("bad"), errors.InvalidRequest.default_hint),
        (errors.ServerError("broken", hint=""), ""),
    ],
)
def test_a_hint_names_the_options_that_the_command_has(
    error: errors.FoundryError, hint: str
) -> None:
    name_options(error, click.Command("x", params=[click.Option(["--timeout"])]))
    assert error.hint == hint


def test_all_hints_of_errors_are_adapted_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise errors.ReadTimeout("no token within 30 s", model="demo")

    monkeypatch.setattr("foundry_api.cli.embed.Session", fail)
    assert main(["embed", "-m", "demo", "text"]) == 1
    assert "Raise --timeout" in capsys.readouterr().err
