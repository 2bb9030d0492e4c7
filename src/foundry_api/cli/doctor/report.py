"""A report that can be pasted into an issue."""

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
    from collections.abc import Iterable, Mapping, Sequence

    from foundry_api.cli.doctor.finding import Finding

__all__ = ["TITLE", "current_user", "render_markdown"]

KINDS = (*(kind for group in GROUPS for kind in group.kinds), CHECK_FAILED, CHECK_TIMED_OUT)
TITLE = "### foundry-api doctor"
PUBLIC_WORDS = "\n".join(f"{kind.id} {kind.title} {kind.remedy}" for kind in KINDS)
_HEADINGS = {"problem": "Problems", "warning": "Warnings", "note": "Notes", "ok": "As it should be"}


def current_user() -> UserIdentity:
    """Who runs this, and where."""
    node = platform.node()
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
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
    """The findings, worst first, without secrets and without the user's and the machine's names."""
    redacted = Redactor(environ, user, PUBLIC_WORDS)
    about = f"foundry-api {__version__}, Python {platform.python_version()}, {_describe_platform()}"
    lines = [TITLE, "", about]
    for level in reversed(LEVELS):
        of_level = [finding for finding in findings if finding.level == level]
        if of_level:
            lines += ["", f"#### {_HEADINGS[level]}", ""]
            lines += [line for finding in of_level for line in _render_finding(finding, redacted)]
    return "\n".join(lines) + "\n"


def _render_finding(finding: Finding, redact: Redactor) -> Iterable[str]:
    yield f"- **{finding.title}** (`{finding.id}`, {finding.group})"
    yield f"  - seen: {_escape(redact(finding.evidence))}"
    if finding.remedy and finding.level in {"problem", "warning"}:
        yield f"  - remedy: {_escape(redact(finding.remedy))}"


def _describe_platform() -> str:
    """The platform without the machine's name, which `platform.platform` never has."""
    return platform.platform(terse=True)


def _escape(text: str) -> str:
    """One line that Markdown does not take for HTML."""
    return sanitize_line(" ".join(text.split())).replace("<", "&lt;")
