"""Space for models: directories that can be written, disk and memory."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

from foundry_api.cli.doctor.finding import CheckGroup, Finding, FindingKind
from foundry_api.cli.doctor.machine import run_abandonable
from foundry_api.cli.doctor.models import find_model_in_use
from foundry_api.observe.format import format_bytes, format_megabytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from foundry_api.cli.doctor.machine import DiagnosticContext

__all__ = ["GROUP"]

WRITABLE = FindingKind("home-usable", "ok", "The directories can be written")
UNUSABLE = FindingKind(
    "home-unusable",
    "problem",
    "A directory that is needed cannot be used",
    "Set FOUNDRY_HOME to a directory that you can write to.",
)
DISK_OK = FindingKind("disk-space", "ok", "There is disk space for models")
DISK_LOW = FindingKind(
    "disk-low",
    "warning",
    "There is little disk space for models",
    "Models have 0.5 to 10 GB. Free some, set FOUNDRY_HOME to another disk, or remove models:"
    " `foundry-api models list`, then `foundry-api models remove NAME`.",
)
DISK_FULL = FindingKind(
    "disk-full",
    "problem",
    "The disk is full",
    "Free some space, or set FOUNDRY_HOME to another disk.",
)
TOO_LARGE_FOR_DISK = FindingKind(
    "model-exceeds-disk",
    "problem",
    "The model does not fit on the disk",
    "Free some space, set FOUNDRY_HOME to another disk, or take a smaller model:"
    " `foundry-api models list --catalog`.",
)
MEMORY_OK = FindingKind("memory", "ok", "There is memory for models")
MEMORY_LOW = FindingKind(
    "memory-low",
    "warning",
    "There is little memory free",
    "Close other programs, or take a small model.",
)
TOO_LARGE_FOR_MEMORY = FindingKind(
    "model-exceeds-memory",
    "warning",
    "The model is larger than the memory that is free",
    "Close other programs, or take a smaller variant: `foundry-api models list --catalog`.",
)

GB = 2**30
LOW_BYTES = 5 * GB
FULL_BYTES = 1 * GB
LOW_MEMORY_BYTES = 1 * GB
MB = 2**20


async def check_directories(machine: DiagnosticContext) -> Iterable[Finding]:
    """Look whether each directory is, or can be made, and takes a file."""
    paths = machine.paths
    return await run_abandonable(lambda: _check_directories((paths.data, paths.logs, paths.state)))


def _check_directories(directories: Sequence[Path]) -> list[Finding]:
    problems = dict.fromkeys(_find_problem(directory) for directory in directories)
    findings = [UNUSABLE.make_finding(problem) for problem in problems if problem]
    return findings or [WRITABLE.make_finding(", ".join(map(str, directories)))]


def _find_problem(directory: Path) -> str:
    """Why a directory cannot be used. Of what is not there, the parent is looked at."""
    there = _find_existing(directory)
    if not there.is_dir():
        return f"{there} is not a directory"
    try:
        if there == directory:
            with tempfile.TemporaryFile(dir=directory):
                return ""
        return "" if os.access(there, os.W_OK) else f"{there} cannot be written"
    except OSError as error:
        return f"{directory} cannot be written: {error.strerror}"


def _find_existing(directory: Path) -> Path:
    """A directory, or the nearest of its parents that is there."""
    return next(path for path in (directory, *directory.parents) if _exists(path))


def _exists(path: Path) -> bool:
    try:
        return path.exists() or path == path.parent
    except OSError:  # behind a directory that may not be looked into
        return False


async def check_disk(machine: DiagnosticContext) -> Iterable[Finding]:
    """Look how much a disk can take, and whether the wanted model fits."""
    directory = await run_abandonable(lambda: _find_existing(machine.paths.data))
    if not directory.is_dir():
        return []  # see the directories
    free = await run_abandonable(lambda: machine.probes.disk_free(directory))
    seen = f"{format_bytes(free)} free in {directory}"
    model = await find_model_in_use(machine)
    if model is not None and model.cached is False and (model.size_mb or 0) * MB > free:
        large = format_megabytes(model.size_mb or 0)
        return [TOO_LARGE_FOR_DISK.make_finding(f"{model.id} has {large}; {seen}")]
    if free < FULL_BYTES:
        return [DISK_FULL.make_finding(seen)]
    return [(DISK_LOW if free < LOW_BYTES else DISK_OK).make_finding(seen)]


async def check_memory(machine: DiagnosticContext) -> Iterable[Finding]:
    """Look how much memory there is, and whether the wanted model fits."""
    free = await run_abandonable(machine.probes.memory_available)
    seen = f"{format_bytes(free)} available"
    model = await find_model_in_use(machine)
    if model is not None and not model.loaded and (model.size_mb or 0) * MB > free:
        large = format_megabytes(model.size_mb or 0)
        return [TOO_LARGE_FOR_MEMORY.make_finding(f"{model.id} has {large}; {seen}")]
    return [(MEMORY_LOW if free < LOW_MEMORY_BYTES else MEMORY_OK).make_finding(seen)]


GROUP = CheckGroup(
    "Space",
    (check_directories, check_disk, check_memory),
    (
        WRITABLE,
        DISK_OK,
        MEMORY_OK,
        UNUSABLE,
        DISK_FULL,
        DISK_LOW,
        TOO_LARGE_FOR_DISK,
        MEMORY_LOW,
        TOO_LARGE_FOR_MEMORY,
    ),
)
