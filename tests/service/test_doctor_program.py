"""`foundry-api doctor` as people run it, and faults of an installation, planted in copies of it."""

from __future__ import annotations

import getpass
import json
import os
import platform
import shutil
import site
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import foundry_api
from foundry_api import __version__
from foundry_api.engine import shared, state
from foundry_api.storage.paths import Paths
from service.fakes import free_port
from support.cli_program import Terminal, make_environment, run

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGE = Path(foundry_api.__file__).parent
SECRET = "geheim-0815-token"  # noqa: S105 - planted to be looked for


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of this package for a test to damage; goes on PYTHONPATH."""
    root = tmp_path / "installation"
    shutil.copytree(PACKAGE, root / "foundry_api", ignore=shutil.ignore_patterns("__pycache__"))
    return root


def findings(*arguments: str, home: Path, **variables: str) -> Mapping[str, Mapping[str, str]]:
    """The findings of a run by their ids."""
    told = run("doctor", "--json", *arguments, home=home, **variables)
    found = json.loads(told.stdout)["findings"]
    problems = any(finding["level"] == "problem" for finding in found)
    assert told.returncode == int(problems)
    return {finding["id"]: finding for finding in found}


# What it prints


def test_without_a_problem_it_ends_with_0(own_home: Path) -> None:
    told = run("doctor", "--quick", home=own_home, NO_PROXY="*")
    assert (told.returncode, told.stderr) == (0, "")
    assert "\x1b" not in told.stdout
    assert "Programs on this machine can connect to each other" in told.stdout


def test_a_problem_is_told_last_with_what_was_seen_and_what_to_do(own_home: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    told = run("doctor", home=own_home, FOUNDRY_BASE_URL=url, FOUNDRY_TIMEOUTS="3")
    assert told.returncode == 1
    *_, title, seen, remedy, _, summary = told.stdout.splitlines()
    assert title == "  problem  Nothing responds at the configured URL [dead-port]"
    assert seen == f"           seen: nothing accepts connections at {url}"
    assert remedy.startswith("           do:   Start the service, ")
    assert summary == "1 problem and 1 warning found."


def test_an_option_that_cannot_be_used_is_wrong_usage(own_home: Path) -> None:
    told = run("doctor", "--base-url", "ftp://x", home=own_home)
    assert told.returncode == 2
    assert told.stderr.startswith("Error: --base-url is 'ftp://x', not a service's address.")


def test_json_counts_the_levels(own_home: Path) -> None:
    told = json.loads(run("doctor", "--quick", "--json", home=own_home).stdout)
    levels = [finding["level"] for finding in told["findings"]]
    assert told["summary"] == {
        level: levels.count(level) for level in ("ok", "note", "warning", "problem")
    }


def test_the_token_of_the_shared_engine_is_told_nowhere(own_home: Path) -> None:
    paths = Paths.from_home(own_home)
    shared.start(paths, idle_timeout_s=60)
    try:
        known = state.parse_state(paths.state_file)
        assert known
        for arguments in (["--json"], ["--report"], ["-vv"]):
            told = run("doctor", "--quick", *arguments, home=own_home)
            assert known.url in told.stdout
            assert known.token not in told.stdout + told.stderr
    finally:
        shared.stop(paths)


@pytest.mark.parametrize("to_file", [True, False])
def test_a_report_has_no_secrets(tmp_path: Path, *, to_file: bool) -> None:
    home = Path.home() / "does-not-exist" / SECRET
    arguments = ["--report", str(tmp_path / "report.md")] if to_file else ["--report"]
    told = run(
        "doctor",
        "--quick",
        *arguments,
        home=home,
        FOUNDRY_API_KEY=SECRET,
        FOUNDRY_TIMEOUT=f"{SECRET}-x",
        FOUNDRY_BASE_URL=f"http://me:{SECRET}@127.0.0.1:9",
        HTTP_PROXY=f"http://me:{SECRET}@{platform.node()}.example.org:3128/{SECRET}?k={SECRET}",
    )
    assert told.returncode == 1
    text = (tmp_path / "report.md").read_text(encoding="utf-8") if to_file else told.stdout
    assert "`bad-setting`" in text
    assert "`credential-in-url`" in text
    assert SECRET not in text
    assert "example.org" not in text
    assert f"{Path.home()}/" not in text
    for name in (getpass.getuser(), platform.node()):
        assert name not in text.replace(platform.platform(), "").split()
    assert ("problem" in told.stdout) is to_file or "#### Problems" in told.stdout


def test_a_report_that_cannot_be_written(tmp_path: Path, own_home: Path) -> None:
    told = run("doctor", "--quick", "--report", str(tmp_path / "no" / "file"), home=own_home)
    assert told.returncode == 2
    assert "there is no directory" in told.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="Python has no pseudo terminals on Windows")
def test_on_a_terminal_there_are_colours(own_home: Path) -> None:
    with Terminal("doctor", "--quick", "--base-url", "http://127.0.0.1:9", home=own_home) as screen:
        screen.expect("\x1b[31mproblem")
        screen.expect("found.")
        assert screen.exit_code() == 1


# Faults of the installation


@pytest.mark.skipif(os.name != "posix", reason="links need a privilege on Windows")
def test_a_python_without_the_engine(own_home: Path, tmp_path: Path) -> None:
    """Its site-packages are this Python's, but for the engine."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for directory in site.getsitepackages():
        for entry in Path(directory).glob("*"):
            if not entry.name.startswith(("foundry_local", "_")) and entry.suffix != ".pth":
                (bare / entry.name).symlink_to(entry)
    done = subprocess.run(
        [sys.executable, "-S", "-m", "foundry_api", "doctor", "--json"],
        capture_output=True,
        env=make_environment(
            own_home, PYTHONPATH=os.pathsep.join([str(PACKAGE.parent), str(bare)])
        ),
        timeout=60,
        check=False,
    )
    found = {finding["id"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found["engine-missing"]["level"] == "problem"
    assert 'pip install "foundry-api[embedded]"' in found["engine-missing"]["remedy"]


def test_an_sdk_that_cannot_be_imported(own_home: Path, tmp_path: Path) -> None:
    shim = tmp_path / "shim"
    shim.mkdir()
    (shim / "foundry_local_sdk.py").write_text(
        "raise ImportError('libonnxruntime.so: cannot open shared object file')", encoding="utf-8"
    )
    path = os.pathsep.join([str(shim), str(PACKAGE.parent)])
    found = findings(home=own_home, PYTHONPATH=path)
    assert "libonnxruntime.so" in found["engine-does-not-start"]["evidence"]


def test_a_demo_model_that_is_gone(own_home: Path, copy: Path) -> None:
    (copy / "foundry_api" / "engine" / "demo_model" / "genai_config.json").unlink()
    found = findings(home=own_home, PYTHONPATH=str(copy))
    assert "engine-starts" in found
    assert "pip install --force-reinstall" in found["demo-missing"]["remedy"]


def test_a_demo_model_that_is_damaged(own_home: Path, copy: Path) -> None:
    demo = copy / "foundry_api" / "engine" / "demo_model"
    for graph in demo.glob("*.onnx*"):
        graph.write_bytes(graph.read_bytes()[:1000])
    found = findings(home=own_home, PYTHONPATH=str(copy))
    assert found["demo-fails"]["evidence"]
    assert str(own_home) in found["demo-fails"]["remedy"]


def test_a_shared_engine_of_another_version(own_home: Path, copy: Path) -> None:
    version = copy / "foundry_api" / "_version.py"
    version.write_text(version.read_text().replace(__version__, "0.0.9"), encoding="utf-8")
    try:
        assert run("up", home=own_home, PYTHONPATH=str(copy)).returncode == 0
        found = findings("--quick", home=own_home)
    finally:
        shared.stop(Paths.from_home(own_home))
    told = found["shared-host-of-other-version"]
    assert told["evidence"] == f"it runs foundry-api 0.0.9; this is {__version__}"
    assert "foundry-api down" in told["remedy"]


def test_packages_of_versions_that_do_not_go_together(own_home: Path, tmp_path: Path) -> None:
    metadata = tmp_path / "site" / "foundry_api-9.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: foundry-api\nVersion: 9\nRequires-Dist: msgspec>=99\n"
        "Requires-Dist: no-such-package\nRequires-Dist: nor-this; extra == 'x'\n",
        encoding="utf-8",
    )
    path = os.pathsep.join([str(metadata.parent), str(PACKAGE.parent)])
    told = json.loads(run("doctor", "-q", "--json", home=own_home, PYTHONPATH=path).stdout)
    seen = [f["evidence"] for f in told["findings"] if f["id"] == "dependency-mismatch"]
    assert len(seen) == 2
    assert "foundry-api requires >=99" in seen[0]
    assert seen[1].startswith("no-such-package is not installed")
