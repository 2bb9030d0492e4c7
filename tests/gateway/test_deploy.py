"""The files in `deploy/`: they must fit the command line and the settings."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from foundry_api.cli import main
from foundry_api.cli.serve import EXIT_UNSAFE
from foundry_api.gateway.config import PREFIX, GatewayConfig, load_config
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.types import NewKey
from gateway.tls import make_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = (DEPLOY / "foundry-api.service").read_text(encoding="utf-8")
CONTAINER = (DEPLOY / "Containerfile").read_text(encoding="utf-8")


def get(name: str) -> str:
    """Return the value of a name in the unit."""
    [value] = re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)
    return str(value)


def find_commands(text: str) -> Iterator[list[str]]:
    """Return the arguments of each `foundry-api serve` and `foundry-api keys` in a text."""
    for line in text.replace("\n#", "\n").replace("\\\n", " ").splitlines():
        if found := re.search(r"foundry-api ((?:serve|keys) .*)", line):
            yield shlex.split(found[1])


@pytest.mark.parametrize(
    "arguments",
    [*find_commands(UNIT), *find_commands(CONTAINER)],
    ids=" ".join,
)
def test_the_command_line_has_these_flags(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    # An unknown flag is refused before the help is printed.
    assert main([*arguments, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: foundry-api {arguments[0]}")


def test_the_commands_are_found() -> None:
    for text in (UNIT, CONTAINER):
        assert {arguments[0] for arguments in find_commands(text)} == {"serve", "keys"}


def test_the_unit_gives_running_calls_their_time() -> None:
    assert get("KillMode") == "mixed"  # the engine lives until they have ended
    assert int(get("TimeoutStopSec")) > GatewayConfig().drain_s
    assert get("ExecReload") == "/bin/kill -HUP $MAINPID"
    assert str(EXIT_UNSAFE) in get("RestartPreventExitStatus").split()
    assert int(get("LimitNOFILE")) > 2 * GatewayConfig().max_connections


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    path = tmp_path / "foundry-api.service"
    unit = UNIT.replace("/opt/foundry-api/bin/foundry-api", sys.executable)
    path.write_text(unit, encoding="utf-8")
    program = ["systemd-analyze", "verify", "--man=no", str(path)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "foundry-api" in line]
    assert (done.returncode, ours) == (0, [])  # an unknown name is only a message


def test_the_container_runs_without_root() -> None:
    lines = [line for line in CONTAINER.splitlines() if line and not line.startswith("#")]
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["10001:10001"]
    names = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert "--read-only" in CONTAINER


def test_the_variables_of_the_container_are_settings() -> None:
    names = re.findall(rf"{PREFIX}(\w+)=", CONTAINER)
    assert names
    assert set(names) <= {name.upper() for name in GatewayConfig.__struct_fields__}


def test_the_example_of_the_settings_is_valid(
    own_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_config(DEPLOY / "gateway.toml", {}, {}).uses_tls
    certificate, key = make_certificate(tmp_path)
    flags = ("--tls-cert", str(certificate), "--tls-key", str(key), "--check")
    arguments = ("serve", "--config", str(DEPLOY / "gateway.toml"), *flags)
    assert main(arguments) == EXIT_UNSAFE  # there are no keys yet
    KeyDatabase(own_home / "gateway").create(NewKey(name="my-app"))
    assert main(arguments) == 0
    # Where uvloop is installed, a second sentence says so.
    assert capsys.readouterr().out.startswith("The configuration is valid.")
