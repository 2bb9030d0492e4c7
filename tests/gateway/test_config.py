"""The configuration of a gateway: where values come from, and what is said about wrong ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from foundry_api.cli import main
from foundry_api.gateway.config import GatewayConfig, load_config
from foundry_api.types.errors import ConfigurationError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gateway.toml"


def load(file: Path, content: str, **flags: Any) -> GatewayConfig:
    file.write_text(content, encoding="utf-8")
    return load_config(file, flags, {})


def test_flags_override_the_environment_which_overrides_the_file(file: Path) -> None:
    file.write_text('port = 1\nhost = "::1"\ndrain_s = 5', encoding="utf-8")
    environ = {
        "FOUNDRY_GATEWAY_PORT": "2",
        "FOUNDRY_GATEWAY_HOSTS": " a.example , b.example,",
        "FOUNDRY_GATEWAY_AUDIT_LOG": "false",
        "FOUNDRY_GATEWAY_DRAIN_S": " ",  # as for other variables, empty means unset
        "FOUNDRY_GATEWAY_DIRECTORY": "~/x",
    }
    config = load_config(file, {"port": 3, "host": None}, environ)
    assert (config.port, config.host, config.drain_s) == (3, "::1", 5.0)
    assert config.hosts == ("a.example", "b.example")
    assert config.audit_log is False
    assert config.directory == Path("~/x").expanduser()


def test_a_file_of_a_windows_editor(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfport = 7\r\n")
    assert load_config(file, {}, {}).port == 7


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ("prot = 1", "'prot', which is no setting", "Did you mean port?"),
        ("tls-cert = 'x'", "'tls-cert', which is no setting", "Did you mean tls_cert?"),
        ("rate = '3/m'", "'rate', which is no setting", "foundry-api keys create"),
        ("[limits]\nport = 1", "an unknown table, [limits]", "before all lines in brackets"),
        ("[[upstream]]\nname = 'a'\nport = 1", "unknown field `port`", "before the first"),
        ("[[upstream]]\nname = 'a'\nwieght = 1", "unknown field `wieght`", "mean weight?"),
        ("port = '8080'", "port in {file} is '8080'", "Give a whole number."),
        ("port = 70000", "port in {file} is 70000", "Give 0 to 65535."),
        ("port = true", "port in {file} is True", "Give a whole number."),
        ("drain_s = 'long'", "drain_s in {file} is 'long'", "Give a number."),
        ("gap_timeout_s = nan", "gap_timeout_s in {file} is nan", "Give 1 or more."),
        ("gap_timeout_s = inf", "gap_timeout_s in {file} is inf", "Give 1 or more."),
        ("max_connections = 0", "max_connections in {file} is 0", "Give 1 or more."),
        ("insecure_http = 'yes'", "insecure_http in {file} is 'yes'", "Give true or false."),
        ("hosts = 'a.example'", "hosts in {file} is 'a.example'", "Give a list of strings"),
        ("hosts = ['https://a.example']", "hosts in {file} has 'https://a", "Give names alone"),
        ("hosts = ['a.example:80']", "hosts in {file} has 'a.example:80'", "Give names alone"),
        ("origins = ['a.example']", "origins in {file} has 'a.example'", "Give a scheme"),
        ("origins = ['https://a/']", "origins in {file} has 'https://a/'", "and no path"),
        ("host = 'http://x'", "host in {file} is 'http://x'", "Give an IP address"),
        ("base_url = 'ftp://x'", "base_url in {file} is 'ftp://x'", "Give one like http://"),
        ("model = ''", "model in {file} is ''", "Give an alias"),
        ("tls_cert = 3", "tls_cert in {file} is 3", "Give a string."),
        ("directory = ''", "directory in {file} is ''", "Give a string."),
        ("tls_key = 'x'", "only one is set", "Give both files"),
        ("port = ", "{file} is not valid TOML: ", ""),
        ("port = 1\nport = 2", "{file} is not valid TOML: ", ""),
    ],
)
def test_a_wrong_value_is_named_with_its_place(
    file: Path, content: str, message: str, hint: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(file, content)
    assert message.format(file=file) in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "tcp://10.0.0.1:5270", "FOUNDRY_GATEWAY_PORT is 'tcp://10.0.0.1:5270'"),
        ("INSECURE_HTTP", "maybe", "FOUNDRY_GATEWAY_INSECURE_HTTP is 'maybe'"),
        ("HOSTS", "a, b/c", "FOUNDRY_GATEWAY_HOSTS has 'b/c'"),
        pytest.param(
            *("PEPPER_FILE", "~nobody-at-all/x", "FOUNDRY_GATEWAY_PEPPER_FILE is "),
            marks=pytest.mark.skipif(
                sys.platform == "win32", reason="Windows takes any name for that of a profile"
            ),
        ),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_config(None, {}, {f"FOUNDRY_GATEWAY_{name}": value})
    assert message in caught.value.message


def test_a_wrong_flag_is_named(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--check", "--drain", "inf"]) == 2
    assert "--drain is inf" in capsys.readouterr().err


def test_a_missing_file_and_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        assert main(["serve", "--config", str(path)]) == 2
        assert f"{path} cannot be read: " in capsys.readouterr().err


def test_a_misspelt_variable_is_reported(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOUNDRY_GATEWAY_DRAIN", "5")
    monkeypatch.setenv("FOUNDRY_GATEWAY_SERVICE_HOST", "10.0.0.1")  # as Kubernetes sets it
    assert main(["serve", "--check"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "Warning: FOUNDRY_GATEWAY_DRAIN is no setting; did you mean FOUNDRY_GATEWAY_DRAIN_S?"
    ]
