"""The report of `doctor --report`: Markdown for an issue, without secrets."""

from __future__ import annotations

import getpass
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_api._version import __version__
from foundry_api.cli.doctor.finding import LEVELS
from foundry_api.cli.doctor.redact import Redactor, UserIdentity
from foundry_api.cli.doctor.runner import CHECK_FAILED, CHECK_TIMED_OUT, GROUPS
from foundry_api.types.plain_text import sanitize_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from foundry_api.cli.doctor.finding import Finding

__all__ = ["TITLE", "current_user", "render_markdown"]

KINDS = (*(kind for group in GROUPS for kind in group.kinds), CHECK_FAILED, CHECK_TIMED_OUT)
TITLE = "### foundry-api doctor"
PUBLIC_WORDS = "\n".join(f"{kind.id} {kind.title} {kind.remedy}" for kind in KINDS)
HEADINGS = {"problem": "Problems", "warning": "Warnings", "note": "Notes", "ok": "No problem"}


def current_user() -> UserIdentity:
    """Return the names that must not be in a report."""
    node = platform.node()
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # the user of a container may have no name
        user = ""
    hosts = tuple(name for name in (node, node.partition(".")[0]) if name.lower() != "localhost")
    try:
        home = str(Path.home())
    except RuntimeError:
        home = ""
    return UserIdentity(home=home, user=user, hosts=hosts)


def render_markdown(
    findings: Sequence[Finding], environ: Mapping[str, str], user: UserIdentity
) -> str:
    """Render findings, worst first, without secrets and without names of the user and machine."""
    redact = Redactor(environ, user, PUBLIC_WORDS)
    system = platform.platform(terse=True)  # never has the name of the machine
    lines = [
        TITLE,
        "",
        f"foundry-api {__version__}, Python {platform.python_version()}, {system}",
    ]
    for level in reversed(LEVELS):
        of_level = [finding for finding in findings if finding.level == level]
        if of_level:
            lines += ["", f"#### {HEADINGS[level]}", ""]
        for finding in of_level:
            lines.append(f"- **{finding.title}** (`{finding.id}`, {finding.group})")
            lines.append(f"  - seen: {_escape(redact(finding.evidence))}")
            if finding.remedy and finding.level in {"problem", "warning"}:
                lines.append(f"  - remedy: {_escape(redact(finding.remedy))}")
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    # One line, in which Markdown finds no HTML.
    return sanitize_line(" ".join(text.split())).replace("<", "&lt;")
