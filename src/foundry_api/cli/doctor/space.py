"""Checks space for models: writable directories, disk and memory."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_api.cli.doctor.context import run_abandonable
from foundry_api.cli.doctor.finding import CheckGroup, Finding, FindingKind
from foundry_api.cli.doctor.models import find_model_in_use
from foundry_api.observe.format import format_bytes, format_megabytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.cli.doctor.context import DiagnosticContext

__all__ = ["GROUP"]

WRITABLE = FindingKind("home-usable", "ok", "The directories are writable")
UNUSABLE = FindingKind(
    "home-unusable",
    "problem",
    "A directory cannot be used",
    "Set FOUNDRY_HOME to a directory that you can write to.",
)
DISK_OK = FindingKind("disk-space", "ok", "There is enough disk space for models")
DISK_LOW = FindingKind(
    "disk-low",
    "warning",
    "There is little disk space for models",
    "Models take 0.5 to 10 GB. Free some space, set FOUNDRY_HOME to another disk, or remove models:"
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
    "Free some space, set FOUNDRY_HOME to another disk, or use a smaller model:"
    " `foundry-api models list --catalog`.",
)
MEMORY_OK = FindingKind("memory", "ok", "There is enough memory for models")
MEMORY_LOW = FindingKind(
    "memory-low",
    "warning",
    "There is little free memory",
    "Close other programs, or use a small model.",
)
TOO_LARGE_FOR_MEMORY = FindingKind(
    "model-exceeds-memory",
    "warning",
    "The model is larger than the free memory",
    "Close other programs, or use a smaller variant: `foundry-api models list --catalog`.",
)

GB = 2**30
LOW_BYTES = 5 * GB
FULL_BYTES = 1 * GB
LOW_MEMORY_BYTES = 1 * GB
MB = 2**20


async def check_directories(context: DiagnosticContext) -> Iterable[Finding]:
    directories = (context.paths.data, context.paths.logs, context.paths.state)

    def check() -> list[Finding]:
        # Without duplicates: all of them may be in the same directory that cannot be used.
        problems = dict.fromkeys(map(_find_problem, directories))
        findings = [UNUSABLE.make_finding(problem) for problem in problems if problem]
        return findings or [WRITABLE.make_finding(", ".join(map(str, directories)))]

    return await run_abandonable(check)


def _find_problem(directory: Path) -> str:
    """Return why a directory cannot be used or created; empty if it can."""
    existing = _find_existing(directory)
    if not existing.is_dir():
        return f"{existing} is not a directory"
    try:
        if existing == directory:
            with tempfile.TemporaryFile(dir=directory):
                return ""
        # Not tried with a file: the doctor must change nothing outside its own directories.
        return "" if os.access(existing, os.W_OK) else f"{existing} is not writable"
    except OSError as error:
        return f"{directory} is not writable: {error.strerror}"


def _find_existing(directory: Path) -> Path:
    """Return the directory, or its nearest parent that exists."""
    for path in (directory, *directory.parents):
        with contextlib.suppress(OSError):  # inside a directory without permission
            if path.exists():
                return path
    return Path(directory.anchor)


async def check_disk(context: DiagnosticContext) -> Iterable[Finding]:
    directory = await run_abandonable(lambda: _find_existing(context.paths.data))
    if not directory.is_dir():
        return []  # reported by the check of the directories
    free = await run_abandonable(lambda: context.probes.disk_free(directory))
    evidence = f"{format_bytes(free)} free in {directory}"
    model = await find_model_in_use(context)
    if model is not None and model.cached is False and (model.size_mb or 0) * MB > free:
        size = format_megabytes(model.size_mb)
        return [TOO_LARGE_FOR_DISK.make_finding(f"{model.id} has {size}; {evidence}")]
    if free < FULL_BYTES:
        return [DISK_FULL.make_finding(evidence)]
    return [(DISK_LOW if free < LOW_BYTES else DISK_OK).make_finding(evidence)]


async def check_memory(context: DiagnosticContext) -> Iterable[Finding]:
    free = await run_abandonable(context.probes.memory_available)
    evidence = f"{format_bytes(free)} available"
    model = await find_model_in_use(context)
    if model is not None and not model.loaded and (model.size_mb or 0) * MB > free:
        size = format_megabytes(model.size_mb)
        return [TOO_LARGE_FOR_MEMORY.make_finding(f"{model.id} has {size}; {evidence}")]
    return [(MEMORY_LOW if free < LOW_MEMORY_BYTES else MEMORY_OK).make_finding(evidence)]


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
