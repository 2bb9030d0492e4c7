"""All groups of checks, in the order in which they are told."""

from __future__ import annotations

from foundry_api.doctor import (
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
from foundry_api.doctor.finding import Group, Kind

__all__ = ["CHECK_FAILED", "CHECK_TIMED_OUT", "GROUPS"]

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
