"""Versions: Python, platform, packages, and the shared engine against this installation."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_api._version import __version__
from foundry_api.cli.doctor.engine import SDK, get_installed_version
from foundry_api.cli.doctor.finding import CheckGroup, Finding, FindingKind
from foundry_api.cli.doctor.leftovers import get_root
from foundry_api.cli.doctor.machine import run_abandonable
from foundry_api.engine import state

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.cli.doctor.machine import DiagnosticContext
    from foundry_api.storage.paths import Paths

__all__ = ["GROUP", "explain_missing_engine", "is_satisfied"]

VERSIONS_OK = FindingKind("versions-fine", "ok", "Versions go together")
PYTHON = FindingKind(
    "python-not-tested",
    "warning",
    "This Python has no tested engine",
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
    "A package is missing, or of a version that foundry-api does not take",
    "Install what it takes: `pip install --upgrade foundry-api`.",
)
OTHER_VERSION = FindingKind(
    "shared-host-of-other-version",
    "warning",
    "The shared engine was started by another installation",
    "Start it again with this one: `foundry-api down`, then `foundry-api up`.",
)

PACKAGE = "foundry-api"
FIRST_PYTHON, LAST_PYTHON = (3, 11), (3, 14)
ROOT = Path(__file__).resolve().parents[3]
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*\(?([^;)]*)\)?\s*(;.*)?$")
_CLAUSE = re.compile(r"(==|>=|<=|!=|<|>|~=)\s*([0-9][0-9.]*)")


async def check_versions(machine: DiagnosticContext) -> Iterable[Finding]:
    """Look at what goes together."""
    findings = await run_abandonable(
        lambda: [*_check_python(), *_check_packages(), *_check_shared_host(machine.paths)]
    )
    if findings:
        return findings
    python, sdk = platform.python_version(), get_installed_version(SDK) or "none"
    seen = f"foundry-api {__version__}, {SDK} {sdk}, Python {python}, {platform.platform()}"
    return [VERSIONS_OK.make_finding(seen)]


def explain_missing_engine(system: str, machine: str, libc: str) -> str:
    """Why there is no engine for a platform; empty where there is one.

    Args:
        system: As `platform.system`.
        machine: As `platform.machine`.
        libc: As `platform.libc_ver`'s name; empty on Linux without glibc.
    """
    if system == "Darwin" and machine != "arm64":
        return f"macOS on {machine}: {SDK} is built for Apple silicon alone"
    if system == "Linux" and libc != "glibc":
        return f"Linux without glibc (musl?): {SDK} is built for glibc alone"
    if system not in {"Darwin", "Linux", "Windows"}:
        return f"{system} has no build of {SDK}"
    return ""


def is_satisfied(version: str, specifier: str) -> bool:
    """Whether a version is in the range of a requirement, such as `>=3.14,<4`."""
    return all(_compare(version, *clause) for clause in _CLAUSE.findall(specifier))


def _compare(version: str, operator: str, bound: str) -> bool:
    actual, limit = _parse_version(version), _parse_version(bound)
    length = max(len(actual), len(limit))
    actual, limit = (numbers + (0,) * (length - len(numbers)) for numbers in (actual, limit))
    compatible = _parse_version(bound)[:-1]
    return {
        "==": actual == limit,
        "!=": actual != limit,
        ">=": actual >= limit,
        "<=": actual <= limit,
        ">": actual > limit,
        "<": actual < limit,
        "~=": actual >= limit and actual[: len(compatible)] == compatible,
    }[operator]


def _parse_version(version: str) -> tuple[int, ...]:
    release = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return tuple(map(int, release[0].split("."))) if release else ()


def _check_python() -> Iterable[Finding]:
    if not FIRST_PYTHON <= sys.version_info[:2] <= LAST_PYTHON:
        yield PYTHON.make_finding(f"this is Python {platform.python_version()}")
    why = explain_missing_engine(platform.system(), platform.machine(), platform.libc_ver()[0])
    if why:
        yield NO_ENGINE.make_finding(why)


def _check_packages() -> Iterable[Finding]:
    for name, specifier, marker in _list_requirements():
        version = get_installed_version(name)
        if version is None:
            if not marker:  # what an extra brings may be missing
                yield DEPENDENCY.make_finding(
                    f"{name} is not installed; it takes {specifier or 'any'}"
                )
        elif not is_satisfied(version, specifier):
            yield DEPENDENCY.make_finding(f"{name} is {version}; it takes {specifier}")


def _list_requirements() -> Iterable[tuple[str, str, str]]:
    try:
        written = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return  # it runs from a checkout
    for line in written:
        if parsed := _REQUIREMENT.match(line):
            yield parsed[1], parsed[2].strip(), parsed[3] or ""


def _check_shared_host(paths: Paths) -> Iterable[Finding]:
    known = state.read_state(paths.state_file)
    if known is None:
        return
    sdk, root = get_installed_version(SDK), get_root(known.pid)
    if known.package_version != __version__:
        version = known.package_version or "an earlier version"
        yield OTHER_VERSION.make_finding(f"it runs foundry-api {version}; this is {__version__}")
    elif sdk is not None and known.sdk_version != sdk:
        yield OTHER_VERSION.make_finding(f"it runs {SDK} {known.sdk_version}; here is {sdk}")
    elif root is not None and root != ROOT:
        yield OTHER_VERSION.make_finding(f"it runs what is in {root}; this is {ROOT}", level="note")


GROUP = CheckGroup(
    "Versions", (check_versions,), (VERSIONS_OK, PYTHON, NO_ENGINE, DEPENDENCY, OTHER_VERSION)
)
