"""Runs all checks concurrently; a check that fails or hangs does not affect the others."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from foundry_api.cli.doctor import (
    engine,
    environment,
    foundry_command,
    gateway,
    leftovers,
    models,
    network,
    services,
    space,
    versions,
)
from foundry_api.cli.doctor.finding import CheckGroup, FindingKind
from foundry_api.observe.format import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foundry_api.cli.doctor.context import DiagnosticContext
    from foundry_api.cli.doctor.finding import Check, Finding

__all__ = ["CHECK_FAILED", "CHECK_TIMED_OUT", "CHECK_TIMEOUT_S", "GROUPS", "run_checks"]

GROUPS: tuple[CheckGroup, ...] = (
    versions.GROUP,
    environment.GROUP,
    network.GROUP,
    space.GROUP,
    foundry_command.GROUP,
    services.GROUP,
    leftovers.GROUP,
    engine.GROUP,
    models.GROUP,
    gateway.GROUP,
)

CHECK_FAILED = FindingKind(
    "check-failed",
    "warning",
    "A check failed",
    "Run `foundry-api doctor -vv` to see where, and report it: this is a bug in foundry-api.",
)
CHECK_TIMED_OUT = FindingKind(
    "check-timed-out",
    "warning",
    "A check timed out",
    "Fix the other findings, then run it again. A network drive that is gone, or a machine under"
    " full load, can be the cause.",
)

# An engine that does not start, or a catalog that is offline, takes this long to fail.
CHECK_TIMEOUT_S = 60.0


async def run_checks(
    context: DiagnosticContext,
    groups: Sequence[CheckGroup] = GROUPS,
    *,
    timeout_s: float = CHECK_TIMEOUT_S,
    progress: Callable[[int, int], object] | None = None,
) -> list[Finding]:
    """Run checks, each with a timeout; return the findings in the order of the groups."""
    total, done = sum(len(group.checks) for group in groups), 0

    async def run_check(group: CheckGroup, check: Check) -> list[Finding]:
        nonlocal done
        timeout = asyncio.timeout(timeout_s)
        try:
            async with timeout:
                findings = list(await check(context))
        except Exception as error:
            name = f"{check.__module__.rpartition('.')[2]}.{getattr(check, '__name__', 'check')}"
            logging.getLogger("foundry_api").debug("%s failed", name, exc_info=error)
            if timeout.expired():  # a TimeoutError of the check itself is a failure like any other
                evidence = f"{name} took longer than {format_duration(timeout_s)}"
                findings = [CHECK_TIMED_OUT.make_finding(evidence)]
            else:
                findings = [CHECK_FAILED.make_finding(f"{name}: {type(error).__name__}: {error}")]
        done += 1
        if progress is not None:
            progress(done, total)
        return [msgspec.structs.replace(finding, group=group.name) for finding in findings]

    results = await asyncio.gather(*(run_check(g, check) for g in groups for check in g.checks))
    return [finding for findings in results for finding in findings]
