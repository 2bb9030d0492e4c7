"""What a check finds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from foundry_api.cli.doctor.machine import DiagnosticContext

__all__ = ["LEVELS", "Check", "CheckGroup", "Finding", "FindingKind", "Level"]

Level = Literal["ok", "note", "warning", "problem"]

LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "problem")
"""From the harmless to what keeps something from working."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was seen.

    Attributes:
        id: Its kind, the same in every version: `dead-port`.
        level: `problem` keeps something from working; `warning` will, or does so for other
            programs; `note` is worth knowing; `ok` is as it should be.
        group: The part of the machine that was looked at.
        title: What it is, in one sentence without a full stop.
        evidence: What exactly was seen.
        remedy: What to do next; empty where nothing is to be done.
    """

    id: str
    level: Level
    title: str
    evidence: str
    remedy: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class FindingKind:
    """A kind of finding, of which docs/doctor.md has a row.

    Attributes:
        id: Never changes.
        level: How bad it is.
        title: One sentence without a full stop.
        remedy: What to do; `{names}` in it are filled in when it is found.
    """

    id: str
    level: Level
    title: str
    remedy: str = ""

    def make_finding(
        self, evidence: str, *, level: Level | None = None, **details: object
    ) -> Finding:
        """A finding of this kind.

        Args:
            evidence: What exactly was seen.
            level: Another level than the usual one.
            details: For the remedy.
        """
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
    """Checks of one part of the machine.

    Attributes:
        name: What people call that part.
        checks: All are run, at the same time.
        kinds: What they can find.
    """

    name: str
    checks: tuple[Check, ...]
    kinds: tuple[FindingKind, ...]
