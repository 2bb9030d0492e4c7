"""Versions: Python, platform, packages, and the shared engine against this installation."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_api._version import __version__
from foundry_api.cli.doctor.engine import SDK, installed_version
from foundry_api.cli.doctor.finding import Finding, Group, Kind
from foundry_api.cli.doctor.leftovers import root_of
from foundry_api.cli.doctor.machine import in_thread
from foundry_api.engine import state

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.cli.doctor.machine import Machine
    from foundry_api.storage.paths import Paths

__all__ = ["GROUP", "no_engine_for", "satisfies"]

FINE = Kind("versions-fine", "ok", "Versions go together")
PYTHON = Kind(
    "python-not-tested",
    "warning",
    "This Python has no tested engine",
    "Use Python 3.11 to 3.14.",
)
NO_ENGINE = Kind(
    "no-engine-for-platform",
    "warning",
    "There is no engine for this platform",
    "Run a service on another machine, and set FOUNDRY_BASE_URL to its address.",
)
DEPENDENCY = Kind(
    "dependency-mismatch",
    "problem",
    "A package is missing, or of a version that foundry-api does not take",
    "Install what it takes: `pip install --upgrade foundry-api`.",
)
OTHER_VERSION = Kind(
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


async def examine(machine: Machine) -> Iterable[Finding]:
    """Look at what goes together."""
    found = await in_thread(lambda: [*_python(), *_packages(), *_shared(machine.paths)])
    if found:
        return found
    python, sdk = platform.python_version(), installed_version(SDK) or "none"
    seen = f"foundry-api {__version__}, {SDK} {sdk}, Python {python}, {platform.platform()}"
    return [FINE.seen(seen)]


def no_engine_for(system: str, machine: str, libc: str) -> str:
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


def satisfies(version: str, specifier: str) -> bool:
    """Whether a version is in the range of a requirement, such as `>=3.14,<4`."""
    return all(_holds(version, *clause) for clause in _CLAUSE.findall(specifier))


def _holds(version: str, operator: str, bound: str) -> bool:
    actual, limit = _numbers(version), _numbers(bound)
    length = max(len(actual), len(limit))
    actual, limit = (numbers + (0,) * (length - len(numbers)) for numbers in (actual, limit))
    compatible = _numbers(bound)[:-1]
    return {
        "==": actual == limit,
        "!=": actual != limit,
        ">=": actual >= limit,
        "<=": actual <= limit,
        ">": actual > limit,
        "<": actual < limit,
        "~=": actual >= limit and actual[: len(compatible)] == compatible,
    }[operator]


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return tuple(map(int, release[0].split("."))) if release else ()


def _python() -> Iterable[Finding]:
    if not FIRST_PYTHON <= sys.version_info[:2] <= LAST_PYTHON:
        yield PYTHON.seen(f"this is Python {platform.python_version()}")
    why = no_engine_for(platform.system(), platform.machine(), platform.libc_ver()[0])
    if why:
        yield NO_ENGINE.seen(why)


def _packages() -> Iterable[Finding]:
    for name, specifier, marker in _requirements():
        version = installed_version(name)
        if version is None:
            if not marker:  # what an extra brings may be missing
                yield DEPENDENCY.seen(f"{name} is not installed; it takes {specifier or 'any'}")
        elif not satisfies(version, specifier):
            yield DEPENDENCY.seen(f"{name} is {version}; it takes {specifier}")


def _requirements() -> Iterable[tuple[str, str, str]]:
    try:
        written = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return  # it runs from a checkout
    for line in written:
        if parsed := _REQUIREMENT.match(line):
            yield parsed[1], parsed[2].strip(), parsed[3] or ""


def _shared(paths: Paths) -> Iterable[Finding]:
    known = state.read(paths.state_file)
    if known is None:
        return
    sdk, root = installed_version(SDK), root_of(known.pid)
    if known.package_version != __version__:
        told = known.package_version or "an earlier version"
        yield OTHER_VERSION.seen(f"it runs foundry-api {told}; this is {__version__}")
    elif sdk is not None and known.sdk_version != sdk:
        yield OTHER_VERSION.seen(f"it runs {SDK} {known.sdk_version}; here is {sdk}")
    elif root is not None and root != ROOT:
        yield OTHER_VERSION.seen(f"it runs what is in {root}; this is {ROOT}", level="note")


GROUP = Group("Versions", (examine,), (FINE, PYTHON, NO_ENGINE, DEPENDENCY, OTHER_VERSION))
