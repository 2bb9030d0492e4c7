"""Checks the versions of Python, the platform, the packages and the shared engine."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_api._version import __version__
from foundry_api.cli.doctor.context import run_abandonable
from foundry_api.cli.doctor.engine import SDK, get_installed_version
from foundry_api.cli.doctor.finding import CheckGroup, Finding, FindingKind
from foundry_api.cli.doctor.leftovers import get_root
from foundry_api.engine import state

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.cli.doctor.context import DiagnosticContext
    from foundry_api.storage.paths import Paths

__all__ = ["GROUP", "explain_missing_engine", "is_satisfied"]

VERSIONS_OK = FindingKind("versions-fine", "ok", "Versions are compatible")
PYTHON = FindingKind(
    "python-not-tested",
    "warning",
    "This version of Python is not tested with the engine",
    "Use Python 3.11 to 3.14.",
)
NO_ENGINE = FindingKind(
    "no-engine-for-platform",
    "warning",
    "There is no engine for this platform",
    "Run a service on another machine, and set FOUNDRY_BASE_URL to its address.",
)
DEPENDENCY = FindingKind(
    "dependency-mismatch",
    "problem",
    "A package is missing, or has a version that foundry-api does not support",
    "Install supported versions: `pip install --upgrade foundry-api`.",
)
OTHER_VERSION = FindingKind(
    "shared-host-of-other-version",
    "warning",
    "The shared engine was started by another installation",
    "Restart it with this installation: `foundry-api down`, then `foundry-api up`.",
)

PACKAGE = "foundry-api"
FIRST_PYTHON, LAST_PYTHON = (3, 11), (3, 14)
ROOT = Path(__file__).resolve().parents[3]


async def check_versions(context: DiagnosticContext) -> Iterable[Finding]:
    findings = await run_abandonable(
        lambda: [*_check_platform(), *_check_packages(), *_check_shared_host(context.paths)]
    )
    if findings:
        return findings
    python, sdk = platform.python_version(), get_installed_version(SDK) or "none"
    evidence = f"foundry-api {__version__}, {SDK} {sdk}, Python {python}, {platform.platform()}"
    return [VERSIONS_OK.make_finding(evidence)]


def explain_missing_engine(system: str, machine: str, libc: str) -> str:
    """Return why there is no engine for a platform, named as by `platform`; empty if there is."""
    if system == "Darwin" and machine != "arm64":
        return f"macOS on {machine}: {SDK} requires Apple silicon"
    if system == "Linux" and libc != "glibc":
        return f"Linux without glibc (musl?): {SDK} requires glibc"
    if system not in {"Darwin", "Linux", "Windows"}:
        return f"{SDK} is not available for {system}"
    return ""


def is_satisfied(version: str, specifier: str) -> bool:
    """Whether a version is in the range of a requirement, such as `>=3.14,<4`."""
    from packaging.specifiers import SpecifierSet  # noqa: PLC0415 - for this check alone

    # A pre-release was installed on purpose; pip, too, accepts one that is installed.
    return SpecifierSet(specifier).contains(version, prereleases=True)


def _check_platform() -> Iterable[Finding]:
    if not FIRST_PYTHON <= sys.version_info[:2] <= LAST_PYTHON:
        yield PYTHON.make_finding(f"this is Python {platform.python_version()}")
    reason = explain_missing_engine(platform.system(), platform.machine(), platform.libc_ver()[0])
    if reason:
        yield NO_ENGINE.make_finding(reason)


def _check_packages() -> Iterable[Finding]:
    from packaging.requirements import Requirement  # noqa: PLC0415 - for this check alone

    try:
        lines = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return  # foundry-api runs from a checkout
    for requirement in map(Requirement, lines):
        name, specifier = requirement.name, str(requirement.specifier)
        version = get_installed_version(name)
        if version is None:
            if requirement.marker is None:  # with a marker it belongs to an extra
                yield DEPENDENCY.make_finding(
                    f"{name} is not installed; foundry-api requires {specifier or 'any version'}"
                )
        elif not is_satisfied(version, specifier):
            yield DEPENDENCY.make_finding(f"{name} is {version}; foundry-api requires {specifier}")


def _check_shared_host(paths: Paths) -> Iterable[Finding]:
    known = state.read_state(paths.state_file)
    if known is None:
        return
    sdk, root = get_installed_version(SDK), get_root(known.pid)
    if known.package_version != __version__:
        version = known.package_version or "an earlier version"
        yield OTHER_VERSION.make_finding(f"it runs foundry-api {version}; this is {__version__}")
    elif sdk is not None and known.sdk_version != sdk:
        yield OTHER_VERSION.make_finding(f"it runs {SDK} {known.sdk_version}; this is {sdk}")
    elif root is not None and root != ROOT:
        yield OTHER_VERSION.make_finding(f"it runs from {root}; this is {ROOT}", level="note")


GROUP = CheckGroup(
    "Versions", (check_versions,), (VERSIONS_OK, PYTHON, NO_ENGINE, DEPENDENCY, OTHER_VERSION)
)
