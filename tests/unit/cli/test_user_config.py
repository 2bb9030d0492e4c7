"""The user's settings: the file, its precedence, and the verb `config`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from foundry_api.cli import main
from foundry_api.cli.options import GlobalOptions
from foundry_api.cli.root import EPILOG
from foundry_api.cli.session import make_settings
from foundry_api.cli.user_config import KEYS, load_user_config, merge_environment
from foundry_api.types.errors import ConfigurationError
from foundry_api.types.settings import environment_variables

if TYPE_CHECKING:
    from collections.abc import Callable

    Call = Callable[..., tuple[int, str, str]]

DOCUMENTATION = Path(__file__).parents[3] / "docs" / "configuration.md"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in environment_variables():
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("FOUNDRY_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def config(capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(["config", *arguments])
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


def write(home: Path, text: str) -> None:
    (home / "config.toml").write_text(text, encoding="utf-8")


def test_the_table_has_every_variable_and_is_documented() -> None:
    variables = {key.variable for key in KEYS.values() if key.variable}
    assert variables == {*environment_variables()} - {"FOUNDRY_API_KEY", "FOUNDRY_HOME"}
    assert all(variable in EPILOG for variable in variables)
    page = DOCUMENTATION.read_text(encoding="utf-8")
    for key in KEYS.values():
        variable, flag = (f"`{text}`" if text else "" for text in (key.variable, key.flag))
        row = f"| `{key.name}` | {variable} | {flag} | {key.default} | {key.meaning} |"
        assert row in page.splitlines()


def test_flags_override_the_environment_which_overrides_the_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home, 'model = "from-file"\ntimeout = 7\nretries = 1\n')
    monkeypatch.setenv("FOUNDRY_TIMEOUT", "8")
    monkeypatch.setenv("FOUNDRY_RETRIES", " ")
    settings = make_settings(GlobalOptions(), timeout_s=9)
    assert (settings.model, settings.timeout_s, settings.max_retries) == ("from-file", 9, 1)
    assert make_settings(GlobalOptions()).timeout_s == 8


def test_an_address_in_the_environment_overrides_those_of_the_file(home: Path) -> None:
    write(home, 'base_urls = ["http://a:1", "http://b:2"]\n')
    file = load_user_config()
    assert merge_environment(file, {})["FOUNDRY_BASE_URLS"] == "http://a:1,http://b:2"
    assert merge_environment(file, {"FOUNDRY_BASE_URL": "http://c:3"}) == {
        "FOUNDRY_BASE_URL": "http://c:3"
    }


def test_values_are_set_shown_and_unset(config: Call, home: Path) -> None:
    assert config("set", "model", "demo") == (0, "model is demo.\n", "")
    assert config("set", "timeout", "120") == (0, "timeout is 120.\n", "")
    assert config("set", "base_urls", "http://a:1,http://b:2")[0] == 0
    assert config("set", "history", "on")[1].startswith("history is on.\nWhat you type")
    assert (home / "config.toml").read_text(encoding="utf-8") == (
        'model = "demo"\ntimeout = 120\nbase_urls = ["http://a:1", "http://b:2"]\nhistory = true\n'
    )
    assert config("get", "timeout")[1] == "120\n"
    assert config("unset", "timeout")[1] == "timeout is 30, the default.\n"
    assert config("unset", "timeout")[0] == 0
    listed = {row["name"]: row for row in json.loads(config("list", "--json")[1])["settings"]}
    assert listed["model"] == {"name": "model", "value": "demo", "from": "file"}
    assert listed["timeout"] == {"name": "timeout", "value": "30", "from": "default"}
    assert listed.keys() == KEYS.keys()
    if sys.platform != "win32":
        assert (home / "config.toml").stat().st_mode & 0o777 == 0o600


def test_the_list_fits_80_columns(config: Call) -> None:
    assert max(map(len, config()[1].splitlines())) <= 80


def test_a_value_that_the_environment_overrides_is_reported(
    config: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOUNDRY_MODEL", "other")
    assert config("set", "model", "demo")[1] == "model is other, which FOUNDRY_MODEL sets.\n"


def test_comments_and_other_lines_stay(config: Call, home: Path) -> None:
    write(home, '# mine\nmodel = "a" # why\n\n"timeout" = 5\n# end')
    assert config("set", "model", "b")[0] == config("set", "timeout", "auto")[0] == 0
    assert (home / "config.toml").read_text(encoding="utf-8") == (
        '# mine\nmodel = "b"\n\ntimeout = "auto"\n# end\n'
    )


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_linked_file_stays_a_link(config: Call, home: Path, tmp_path: Path) -> None:
    (tmp_path / "dotfile.toml").write_text("retries = 1\n", encoding="utf-8")
    (home / "config.toml").symlink_to(tmp_path / "dotfile.toml")
    assert config("set", "retries", "2")[0] == 0
    assert (home / "config.toml").is_symlink()
    assert (tmp_path / "dotfile.toml").read_text(encoding="utf-8") == "retries = 2\n"


def test_a_value_of_several_lines_is_not_changed_blindly(config: Call, home: Path) -> None:
    text = 'base_urls = [\n  "http://a:1",\n]\n'
    write(home, text)
    code, _, error = config("set", "base_urls", "http://b:2")
    assert code == 2
    assert "config edit" in error
    assert (home / "config.toml").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("set", "modl", "demo"), "Did you mean model?"),
        (("get", "nothing"), "there is no setting nothing"),
        (("set", "timeout", "soon"), "timeout is 'soon'"),
        (("set", "retries", "many"), "retries is 'many'"),
        (("set", "history", "maybe"), "history is 'maybe'"),
        (("set", "base_url", "http://me:secret@host"), "base_url carries a credential"),
        (("set", "api_key", "sk-123"), "set FOUNDRY_API_KEY"),
    ],
)
def test_an_invalid_setting_is_refused_and_the_file_stays(
    config: Call, home: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, output, error = config(*arguments)
    assert (code, output) == (2, "")
    assert message in error
    assert "secret" not in error
    assert "sk-123" not in error
    assert not (home / "config.toml").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = ", "is not valid TOML"),
        ("modle = 'a'", "there is no setting modle"),
        ("timeout = 'soon'", "timeout is 'soon'"),
        ("timeout = true", "timeout is True, neither text nor a number"),
        ("history = 'on'", "Give true or false"),
        ("base_url = 'http://a'\nbase_urls = ['http://b']", "both set"),
        ("[model]\na = 1", "model is"),
        ("# \xff", None),
    ],
)
def test_an_invalid_file_is_an_error_that_names_it(
    home: Path, text: str, message: str | None
) -> None:
    (home / "config.toml").write_bytes(text.encode("utf-8" if message else "latin-1"))
    with pytest.raises(ConfigurationError) as refused:
        load_user_config()
    assert str(home / "config.toml") in str(refused.value)
    assert (message or "is not text in UTF-8") in str(refused.value)
    assert "config edit" in str(refused.value)


@pytest.mark.skipif(sys.platform == "win32", reason="the editor is a shell script")
def test_the_editor_gets_a_file_with_every_setting(
    config: Call, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho "retries = 7" >> "$1"\n', encoding="utf-8")
    editor.chmod(0o700)
    monkeypatch.setenv("EDITOR", str(editor))
    monkeypatch.delenv("VISUAL", raising=False)
    assert config("edit")[0] == 0
    assert load_user_config().values == {"retries": "7"}
    text = (home / "config.toml").read_text(encoding="utf-8")
    assert all(f"# {name} = " in text for name in KEYS)
    editor.write_text('#!/bin/sh\necho "retires = 7" >> "$1"\n', encoding="utf-8")
    code, _, error = config("edit")
    assert (code, "there is no setting retires" in error) == (2, True)


def test_an_editor_that_fails_is_an_error_with_the_path_of_the_file(
    config: Call, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISUAL", "no-such-editor")
    code, _, error = config("edit")
    assert (code, str(home / "config.toml") in error) == (1, True)


def test_the_path_is_in_the_configuration_directory_of_the_user(
    config: Call, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config("path")[1] == f"{home / 'config.toml'}\n"
    monkeypatch.delenv("FOUNDRY_HOME")
    path = Path(config("path")[1].strip())
    assert (path.name, path.parent.name) == ("config.toml", "foundry-api")
    assert path.is_absolute()
