"""The examination: every check at once, each bounded in time, none able to spoil the others."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from foundry_api.cli.doctor import (
    engine,
    environment,
    foundry_command,
    leftovers,
    models,
    network,
    services,
    space,
    versions,
)
from foundry_api.cli.doctor.finding import CheckGroup, FindingKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foundry_api.cli.doctor.finding import Check, Finding
    from foundry_api.cli.doctor.machine import DiagnosticContext

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
)

CHECK_FAILED = FindingKind(
    "check-failed",
    "warning",
    "A part of the examination failed",
    "Run `foundry-api doctor -vv` to see where, and report it: that is a bug of foundry-api's.",
)
CHECK_TIMED_OUT = FindingKind(
    "check-timed-out",
    "warning",
    "A part of the examination did not end in time",
    "Mend the other findings, then run it again; a network drive that went away, and a machine"
    " under full load, do this.",
)


CHECK_TIMEOUT_S = 60.0
"""The longest one waits for an engine that does not start, and for a catalog that is offline."""


async def run_checks(
    machine: DiagnosticContext,
    groups: Sequence[CheckGroup] = GROUPS,
    *,
    timeout_s: float = CHECK_TIMEOUT_S,
    progress: Callable[[int, int], object] | None = None,
) -> list[Finding]:
    """Find what is wrong.

    Args:
        machine: What to look at; the caller closes it.
        groups: The checks.
        timeout_s: Bound of each check.
        progress: Called with how many checks are done, and how many there are.

    Returns:
        The findings, in the order of the groups.
    """
    total, done = sum(len(group.checks) for group in groups), 0

    async def run_check(group: CheckGroup, check: Check) -> list[Finding]:
        nonlocal done
        findings = await _run_check(machine, group, check, timeout_s)
        done += 1
        if progress is not None:
            progress(done, total)
        return findings

    results = await asyncio.gather(*(run_check(g, check) for g in groups for check in g.checks))
    return [finding for findings in results for finding in findings]


async def _run_check(
    machine: DiagnosticContext, group: CheckGroup, check: Check, timeout_s: float
) -> list[Finding]:
    bound = asyncio.timeout(timeout_s)
    try:
        async with bound:
            findings = list(await check(machine))
    except Exception as error:
        logging.getLogger("foundry_api").debug("%s failed", _get_name(check), exc_info=error)
        if bound.expired():
            findings = [
                CHECK_TIMED_OUT.make_finding(f"{_get_name(check)} took longer than {timeout_s:g} s")
            ]
        else:
            findings = [
                CHECK_FAILED.make_finding(f"{_get_name(check)}: {type(error).__name__}: {error}")
            ]
    return [msgspec.structs.replace(finding, group=group.name) for finding in findings]


def _get_name(check: Check) -> str:
    return f"{check.__module__.rpartition('.')[2]}.{getattr(check, '__name__', 'check')}"
