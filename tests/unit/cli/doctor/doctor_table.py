"""docs/doctor.md: what `foundry-api doctor` can find, from the kinds that its checks declare."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from foundry_api.cli.doctor.finding import LEVELS
from foundry_api.cli.doctor.runner import CHECK_FAILED, CHECK_TIMED_OUT, GROUPS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.cli.doctor.finding import FindingKind

INTRODUCTION = """\
# What the doctor finds

Written by `python -m tests.unit.cli.doctor.doctor_table` from the kinds of findings that the checks
of `foundry-api doctor` declare. A finding has an id that stays the same in every version, a level,
what was seen, and a remedy. A `problem` keeps something from working, and makes the command end
with 1; a `warning` will, or does so for other programs; a `note` is worth knowing. Words in
capitals stand for what was found.
"""

WORDS = {"hint": "It depends on what was seen, and is told with it."}


def markdown() -> str:
    """The tables for readers, the worst first in each."""
    lines = INTRODUCTION.splitlines()
    for group in GROUPS:
        lines += _table(group.name, group.kinds)
    lines += _table("The examination itself", (CHECK_FAILED, CHECK_TIMED_OUT))
    return "\n".join(lines) + "\n"


def _table(heading: str, kinds: Iterable[FindingKind]) -> list[str]:
    ordered = sorted(kinds, key=lambda kind: -LEVELS.index(kind.level))
    return [
        "",
        f"## {heading}",
        "",
        "| id | level | what it is | what to do |",
        "|---|---|---|---|",
        *(_row(kind) for kind in ordered),
    ]


def _row(kind: FindingKind) -> str:
    remedy = re.sub(r"\{(\w+)\}", lambda name: WORDS.get(name[1], name[1].upper()), kind.remedy)
    return f"| `{kind.id}` | {kind.level} | {kind.title} | {remedy} |"


if __name__ == "__main__":
    from pathlib import Path

    Path("docs/doctor.md").write_text(markdown(), encoding="utf-8")
