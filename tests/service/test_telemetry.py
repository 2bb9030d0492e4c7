"""What the engine's libraries prepare to send to Microsoft."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from support.cli_program import run

if TYPE_CHECKING:
    from pathlib import Path

if sys.platform != "linux":
    pytest.skip("the place of the reports is known on Linux only", allow_module_level=True)

# With any of them the engine's libraries send nothing.
CI_VARIABLES = (
    *("CI", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "TRAVIS", "JENKINS_URL"),
    *("CODEBUILD_BUILD_ID", "BUILDKITE", "TEAMCITY_VERSION", "APPVEYOR"),
)


def list_reports(home: Path, tmp_path: Path, **variables: str) -> set[str]:
    """Return the names of the databases in which the libraries queue their reports."""
    user = tmp_path / "user"
    user.mkdir()
    answered = run("chat", "-m", "demo", "hi", home=home, HOME=str(user), **variables)
    assert answered.returncode == 0
    return {path.stem for path in user.rglob("*.db")}


@pytest.fixture(autouse=True)
def no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*CI_VARIABLES, "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)


def test_onnx_runtime_reports_nothing(home: Path, tmp_path: Path) -> None:
    # Foundry Local's own report has no switch.
    assert list_reports(home, tmp_path) == {"foundry-local-processinfo"}


def test_the_users_environment_decides(home: Path, tmp_path: Path) -> None:
    reports = list_reports(home, tmp_path, ORT_DISABLE_TELEMETRY="0")
    assert {"onnxruntime", "onnxruntime-genai"} <= reports


def test_ci_systems_report_nothing(home: Path, tmp_path: Path) -> None:
    assert list_reports(home, tmp_path, CI="true") == set()
