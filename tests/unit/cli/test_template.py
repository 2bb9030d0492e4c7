"""Prompt templates of `chat`: files, variables, options, and what is wrong with them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from foundry_api.cli import main
from foundry_api.cli.template import Template, load_template
from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path

TOML = """\
description = "Translates"
model = "demo"
system = "Write $to only."
prompt = "Translate into $to: $input"
options = {temperature = 0, stop = "END"}
defaults = {to = "French"}
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOUNDRY_HOME", str(tmp_path))
    directory = tmp_path / "templates"
    directory.mkdir()
    (directory / "translate.toml").write_text(TOML, encoding="utf-8")
    (directory / "joke.txt").write_text("Tell a joke.\n", encoding="utf-8")
    return directory


def test_a_template_is_found_by_name_and_by_path(directory: Path) -> None:
    by_name = load_template("translate")
    assert by_name == load_template(str(directory / "translate.toml"))
    assert by_name.make_options() == {"temperature": 0, "stop": ("END",)}
    assert (by_name.model, by_name.variables, by_name.needs_input) == ("demo", ["to"], True)
    assert load_template("joke") == Template(prompt="Tell a joke.")


@pytest.mark.parametrize(
    ("template", "text", "params", "filled"),
    [
        (Template(prompt="Say $input!"), "hi", [], (None, "Say hi!")),
        (Template(prompt="Sum up."), "a text", [], (None, "Sum up.\n\na text")),
        (Template(prompt="Sum up."), "", [], (None, "Sum up.")),
        (Template(prompt="Sum up."), None, [], (None, "Sum up.")),
        (Template(prompt="Say $input"), None, [], (None, None)),
        (Template(system="Be $mood."), None, ["mood=kind"], ("Be kind.", None)),
        (Template(system="Be brief."), "hi", [], ("Be brief.", "hi")),
        (Template(prompt="$a$$", defaults={"a": "1"}), "", ["a=x=y"], (None, "x=y$")),
        (Template(prompt="To $a: $input"), "$b and {c}", ["a=1"], (None, "To 1: $b and {c}")),
    ],
)
def test_variables_are_filled(
    template: Template, text: str | None, params: list[str], filled: tuple[str | None, str | None]
) -> None:
    assert template.fill(text, params) == filled


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ([], "needs a value for a, b"),
        (["a=1", "b=2", "c=3"], "has no variable c"),
        (["a"], "--param a is not NAME=VALUE"),
    ],
)
def test_variables_that_cannot_be_filled(params: list[str], problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        Template(prompt="$a and $b").fill("x", params)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("prompt = 1", "Expected `str`, got `int`"),
        ("promt = 'x'", "unknown field `promt`"),
        ("prompt = ", "Invalid value"),
        ("options = {temperature = 9}", "temperature"),
        ("options = {colour = 1}", "there is no option colour"),
        ("prompt = 'costs $5'", "a \\$ is followed by no name"),
    ],
)
def test_a_wrong_template_is_named(directory: Path, content: str, problem: str) -> None:
    (directory / "wrong.toml").write_text(content, encoding="utf-8")
    with pytest.raises(InvalidRequest, match=f"wrong.toml: .*{problem}"):
        load_template("wrong")


@pytest.mark.usefixtures("directory")
def test_an_unknown_template_lists_the_others() -> None:
    with pytest.raises(InvalidRequest, match="there is no template nope") as caught:
        load_template("nope")
    assert caught.value.hint == "There are: joke, translate."


def test_templates_are_listed_and_shown(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "wrong.toml").write_text("promt = 1", encoding="utf-8")
    assert main(["templates"]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        "NAME       VARIABLES  DESCRIPTION",
        "joke                  Tell a joke.",
        "translate  to         Translates",
    ]
    assert main(["templates", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["templates"]
    assert listed[2]["description"].startswith("invalid: ")
    assert main(["templates", "show", "joke"]) == 0
    assert capsys.readouterr().out == "Tell a joke.\n"
    assert main(["templates", "path"]) == 0
    assert capsys.readouterr().out == f"{directory}\n"


@pytest.mark.usefixtures("directory")
def test_usage_of_templates(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["chat", "-p", "to=x", "hi"]) == 2
    assert "--param needs --template" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert main(["chat", "-t", "translate"]) == 2
    assert "it has $input" in capsys.readouterr().err
