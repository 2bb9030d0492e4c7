"""The findings of checks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from foundry_api.cli.doctor.context import DiagnosticContext

__all__ = ["LEVELS", "Check", "CheckGroup", "Finding", "FindingKind", "Level"]

Level = Literal["ok", "note", "warning", "problem"]

LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "problem")  # by severity


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a check, as printed and as in `doctor --json`.

    Attributes:
        id: Id of its kind, such as `dead-port`; stable across versions.
        level: `problem`: something does not work. `warning`: something will not work, or does not
            work in other programs. `note`: worth knowing. `ok`: no problem.
        group: Name of the group of checks.
        title: A sentence without a full stop.
        evidence: What the check found, with names and numbers.
        remedy: What to do; empty if there is nothing to do.
    """

    id: str
    level: Level
    title: str
    evidence: str
    remedy: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class FindingKind:
    """A kind of finding; docs/doctor.md has a row for each."""

    id: str
    level: Level
    title: str
    remedy: str = ""  # with `{names}` for the details of a finding

    def make_finding(
        self, evidence: str, *, level: Level | None = None, **details: object
    ) -> Finding:
        """Make a finding; `details` are the values of names in the remedy."""
        return Finding(
            id=self.id,
            level=level or self.level,
            title=self.title,
            evidence=evidence,
            remedy=self.remedy.format(**details),
        )


Check = Callable[["DiagnosticContext"], Awaitable[Iterable[Finding]]]


@dataclass(frozen=True, slots=True)
class CheckGroup:
    """Checks of one subject, and the kinds of findings that they return."""

    name: str
    checks: tuple[Check, ...]
    kinds: tuple[FindingKind, ...]
