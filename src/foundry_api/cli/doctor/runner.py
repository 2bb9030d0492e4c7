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
from foundry_api.cli.doctor.finding import Group, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foundry_api.cli.doctor.finding import Check, Finding
    from foundry_api.cli.doctor.machine import Machine

__all__ = ["CHECK_FAILED", "CHECK_TIMED_OUT", "CHECK_TIMEOUT_S", "GROUPS", "examine"]


GROUPS: tuple[Group, ...] = (
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

CHECK_FAILED = Kind(
    "check-failed",
    "warning",
    "A part of the examination failed",
    "Run `foundry-api doctor -vv` to see where, and report it: that is a bug of foundry-api's.",
)
CHECK_TIMED_OUT = Kind(
    "check-timed-out",
    "warning",
    "A part of the examination did not end in time",
    "Mend the other findings, then run it again; a network drive that went away, and a machine"
    " under full load, do this.",
)


CHECK_TIMEOUT_S = 60.0
"""The longest one waits for an engine that does not start, and for a catalog that is offline."""


async def examine(
    machine: Machine,
    groups: Sequence[Group] = GROUPS,
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

    async def checked(group: Group, check: Check) -> list[Finding]:
        nonlocal done
        found = await _checked(machine, group, check, timeout_s)
        done += 1
        if progress is not None:
            progress(done, total)
        return found

    found = await asyncio.gather(*(checked(g, check) for g in groups for check in g.checks))
    return [finding for findings in found for finding in findings]


async def _checked(machine: Machine, group: Group, check: Check, timeout_s: float) -> list[Finding]:
    bound = asyncio.timeout(timeout_s)
    try:
        async with bound:
            found = list(await check(machine))
    except Exception as error:
        logging.getLogger("foundry_api").debug("%s failed", _name(check), exc_info=error)
        if bound.expired():
            found = [CHECK_TIMED_OUT.seen(f"{_name(check)} took longer than {timeout_s:g} s")]
        else:
            found = [CHECK_FAILED.seen(f"{_name(check)}: {type(error).__name__}: {error}")]
    return [msgspec.structs.replace(finding, group=group.name) for finding in found]


def _name(check: Check) -> str:
    return f"{check.__module__.rpartition('.')[2]}.{getattr(check, '__name__', 'check')}"
