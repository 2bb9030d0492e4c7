"""The command `foundry-api doctor`, and its findings in damaged installations."""

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
SECRET = "geheim-0815-token"  # noqa: S105 - the tests search the output for it


@pytest.fixture
def package_copy(tmp_path: Path) -> Path:
    """Copy this package, so that a test can damage it; return the directory for PYTHONPATH."""
    root = tmp_path / "installation"
    shutil.copytree(PACKAGE, root / "foundry_api", ignore=shutil.ignore_patterns("__pycache__"))
    return root


def run_doctor(*arguments: str, home: Path, **variables: str) -> Mapping[str, Mapping[str, str]]:
    """Run `doctor --json` and return the findings by id."""
    completed = run("doctor", "--json", *arguments, home=home, **variables)
    found = json.loads(completed.stdout)["findings"]
    has_problem = any(finding["level"] == "problem" for finding in found)
    assert completed.returncode == int(has_problem)
    return {finding["id"]: finding for finding in found}


# Output


def test_without_problems_the_exit_code_is_0(own_home: Path) -> None:
    completed = run("doctor", "--quick", home=own_home, NO_PROXY="*")
    assert (completed.returncode, completed.stderr) == (0, "")
    assert "\x1b" not in completed.stdout
    assert "Programs on this machine can connect to each other" in completed.stdout


def test_problems_are_last_with_evidence_and_remedy(own_home: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    completed = run("doctor", home=own_home, FOUNDRY_BASE_URL=url, FOUNDRY_TIMEOUTS="3")
    assert completed.returncode == 1
    *_, title, evidence, remedy, _, summary = completed.stdout.splitlines()
    assert title == "  problem  Nothing responds at the configured URL [dead-port]"
    assert evidence == f"           seen: nothing accepts connections at {url}"
    assert remedy.startswith("           do:   Start the service, ")
    assert summary == "1 problem and 1 warning found."


def test_an_invalid_option_is_a_usage_error(own_home: Path) -> None:
    completed = run("doctor", "--base-url", "ftp://x", home=own_home)
    assert completed.returncode == 2
    assert completed.stderr.startswith("Error: --base-url is 'ftp://x', not a service's address.")


def test_json_has_a_count_for_each_level(own_home: Path) -> None:
    report = json.loads(run("doctor", "--quick", "--json", home=own_home).stdout)
    levels = [finding["level"] for finding in report["findings"]]
    assert report["summary"] == {
        level: levels.count(level) for level in ("ok", "note", "warning", "problem")
    }


def test_no_output_has_the_token_of_the_shared_engine(own_home: Path) -> None:
    paths = Paths.from_home(own_home)
    shared.start(paths, idle_timeout_s=60)
    try:
        host = state.parse_state(paths.state_file)
        assert host
        for arguments in (["--json"], ["--report"], ["-vv"]):
            completed = run("doctor", "--quick", *arguments, home=own_home)
            assert host.url in completed.stdout
            assert host.token not in completed.stdout + completed.stderr
    finally:
        shared.stop(paths)


@pytest.mark.parametrize("to_file", [True, False])
def test_a_report_has_no_secrets(tmp_path: Path, *, to_file: bool) -> None:
    home = Path.home() / "does-not-exist" / SECRET
    arguments = ["--report", str(tmp_path / "report.md")] if to_file else ["--report"]
    completed = run(
        "doctor",
        "--quick",
        *arguments,
        home=home,
        FOUNDRY_API_KEY=SECRET,
        FOUNDRY_TIMEOUT=f"{SECRET}-x",
        FOUNDRY_BASE_URL=f"http://me:{SECRET}@127.0.0.1:9",
        HTTP_PROXY=f"http://me:{SECRET}@{platform.node()}.example.org:3128/{SECRET}?k={SECRET}",
    )
    assert completed.returncode == 1
    text = (tmp_path / "report.md").read_text(encoding="utf-8") if to_file else completed.stdout
    assert "`bad-setting`" in text
    assert "`credential-in-url`" in text
    assert SECRET not in text
    assert "example.org" not in text
    assert f"{Path.home()}/" not in text
    for name in (getpass.getuser(), platform.node()):
        assert name not in text.replace(platform.platform(), "").split()
    assert ("problem" in completed.stdout) is to_file or "#### Problems" in completed.stdout


def test_a_report_to_a_missing_directory_is_an_error(tmp_path: Path, own_home: Path) -> None:
    completed = run("doctor", "--quick", "--report", str(tmp_path / "no" / "file"), home=own_home)
    assert completed.returncode == 2
    assert "there is no directory" in completed.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="Python has no pseudo terminals on Windows")
def test_a_terminal_shows_colours(own_home: Path) -> None:
    with Terminal("doctor", "--quick", "--base-url", "http://127.0.0.1:9", home=own_home) as screen:
        screen.expect("\x1b[31mproblem")
        screen.expect("found.")
        assert screen.exit_code() == 1


# Damaged installations


@pytest.mark.skipif(os.name != "posix", reason="links need a privilege on Windows")
def test_a_missing_engine_is_found(own_home: Path, tmp_path: Path) -> None:
    """The program's site-packages are those of this Python, without the engine."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for directory in site.getsitepackages():
        for entry in Path(directory).glob("*"):
            if not entry.name.startswith(("foundry_local", "_")) and entry.suffix != ".pth":
                (packages / entry.name).symlink_to(entry)
    completed = subprocess.run(
        [sys.executable, "-S", "-m", "foundry_api", "doctor", "--json"],
        capture_output=True,
        env=make_environment(
            own_home, PYTHONPATH=os.pathsep.join([str(PACKAGE.parent), str(packages)])
        ),
        timeout=60,
        check=False,
    )
    found = {finding["id"]: finding for finding in json.loads(completed.stdout)["findings"]}
    assert found["engine-missing"]["level"] == "problem"
    assert "pip install foundry-local-sdk" in found["engine-missing"]["remedy"]


def test_a_failed_import_of_the_sdk_is_found(own_home: Path, tmp_path: Path) -> None:
    shim = tmp_path / "shim"
    shim.mkdir()
    (shim / "foundry_local_sdk.py").write_text(
        "raise ImportError('libonnxruntime.so: cannot open shared object file')", encoding="utf-8"
    )
    path = os.pathsep.join([str(shim), str(PACKAGE.parent)])
    found = run_doctor(home=own_home, PYTHONPATH=path)
    assert "libonnxruntime.so" in found["engine-does-not-start"]["evidence"]


def test_a_missing_demo_model_is_found(own_home: Path, package_copy: Path) -> None:
    (package_copy / "foundry_api" / "engine" / "demo_model" / "genai_config.json").unlink()
    found = run_doctor(home=own_home, PYTHONPATH=str(package_copy))
    assert "engine-starts" in found
    assert "pip install --force-reinstall" in found["demo-missing"]["remedy"]


def test_a_damaged_demo_model_is_found(own_home: Path, package_copy: Path) -> None:
    demo = package_copy / "foundry_api" / "engine" / "demo_model"
    for graph in demo.glob("*.onnx*"):
        graph.write_bytes(graph.read_bytes()[:1000])
    found = run_doctor(home=own_home, PYTHONPATH=str(package_copy))
    assert found["demo-fails"]["evidence"]
    assert str(own_home) in found["demo-fails"]["remedy"]


def test_a_shared_engine_of_another_version_is_found(own_home: Path, package_copy: Path) -> None:
    version = package_copy / "foundry_api" / "_version.py"
    version.write_text(version.read_text().replace(__version__, "0.0.9"), encoding="utf-8")
    try:
        assert run("up", home=own_home, PYTHONPATH=str(package_copy)).returncode == 0
        found = run_doctor("--quick", home=own_home)
    finally:
        shared.stop(Paths.from_home(own_home))
    finding = found["shared-host-of-other-version"]
    assert finding["evidence"] == f"it runs foundry-api 0.0.9; this is {__version__}"
    assert "foundry-api down" in finding["remedy"]


def test_incompatible_packages_are_found(own_home: Path, tmp_path: Path) -> None:
    metadata = tmp_path / "site" / "foundry_api-9.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: foundry-api\nVersion: 9\nRequires-Dist: msgspec>=99\n"
        "Requires-Dist: no-such-package\nRequires-Dist: nor-this; extra == 'x'\n",
        encoding="utf-8",
    )
    path = os.pathsep.join([str(metadata.parent), str(PACKAGE.parent)])
    report = json.loads(run("doctor", "-q", "--json", home=own_home, PYTHONPATH=path).stdout)
    evidence = [f["evidence"] for f in report["findings"] if f["id"] == "dependency-mismatch"]
    assert len(evidence) == 2
    assert "foundry-api requires >=99" in evidence[0]
    assert evidence[1].startswith("no-such-package is not installed")
