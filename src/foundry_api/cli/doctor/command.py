"""`foundry-api doctor`: what is wrong on this machine, and how to mend it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from foundry_api.cli.doctor.environment import make_usable_settings
from foundry_api.cli.doctor.finding import LEVELS
from foundry_api.cli.doctor.machine import DiagnosticContext
from foundry_api.cli.doctor.report import TITLE, current_user, render_markdown
from foundry_api.cli.doctor.runner import run_checks
from foundry_api.cli.options import GlobalOptions, common_options, format_examples, pass_common
from foundry_api.cli.output import is_terminal, print_json, sanitize, sanitize_line
from foundry_api.cli.session import DEBUG_VERBOSITY, OPTIONS, make_log_handler
from foundry_api.storage.private_file import is_replaceable

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from foundry_api.cli.doctor.finding import Finding

__all__ = ["command"]

COLOURS = {"ok": "green", "note": "blue", "warning": "yellow", "problem": "red"}
EXIT_PROBLEMS_FOUND = 1
STANDARD_OUTPUT = "-"
MARK_WIDTH = max(map(len, LEVELS))
INDENT = " " * (MARK_WIDTH + 4)
MIN_WIDTH = 50

EPILOG = (
    format_examples(
        "doctor",
        "doctor --quick                      start no engine, ask no catalog",
        "doctor --online --model phi-4-mini  does it fit, and can it be had?",
        "doctor --base-url http://127.0.0.1:5273",
        "doctor --report                     for an issue, without secrets",
        "doctor --json",
    )
    + """

\b
Exit codes:
  0  no problem was found; there may be warnings
  1  problems were found
  2  wrong usage"""
)


@click.command("doctor", epilog=EPILOG)
@click.option("-m", "--model", metavar="NAME", help="Look whether this model can be used.")
@click.option("-q", "--quick", is_flag=True, help="Start no engine, ask no catalog.")
@click.option("--online", is_flag=True, help="Ask the model catalog, which is on the network.")
@click.option(
    "--report",
    is_flag=False,
    flag_value=STANDARD_OUTPUT,
    metavar="[FILE]",
    help="Write a report for an issue, without secrets; without FILE, print it.",
)
@common_options
@pass_common
def command(
    common: GlobalOptions, *, model: str | None, quick: bool, online: bool, report: str | None
) -> int:
    """Find what is wrong here, and tell how to mend it.

    Looks at versions, settings, the network, space, Foundry Local's own command, services, what
    earlier runs left, the engine and models. Nothing is changed. Other machines are left alone, but
    for the service whose address is set, and for the model catalog, which is asked with --online,
    or when a shared engine runs.
    """
    if report is not None and report != STANDARD_OUTPUT:
        _check_report_path(Path(report))
    environ = dict(os.environ)
    settings = make_usable_settings(
        environ,
        names=OPTIONS,
        base_url=common.base_url,
        service=common.service,
        log_level="DEBUG" if common.verbose >= DEBUG_VERBOSITY else None,
    )
    machine = DiagnosticContext(settings, environ, model=model, quick=quick, online=online)
    with _log_to_stderr(common, settings.log_level):
        findings = asyncio.run(_run_checks(machine))
    if report is not None:
        _write_report(report, render_markdown(findings, environ, current_user()))
    if common.as_json:
        print_json({"findings": findings, "summary": _count_levels(findings)})
    elif report != STANDARD_OUTPUT:
        _print_findings(findings)
    return EXIT_PROBLEMS_FOUND if any(finding.level == "problem" for finding in findings) else 0


@contextlib.contextmanager
def _log_to_stderr(common: GlobalOptions, level: str) -> Generator[None]:
    """Show the log, where it was asked for: it tells why a check failed."""
    logger, handler = logging.getLogger("foundry_api"), make_log_handler(common)
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)


async def _run_checks(context: DiagnosticContext) -> list[Finding]:
    async with context:
        if not is_terminal(sys.stderr):
            return await run_checks(context)
        from rich.console import Console  # noqa: PLC0415 - only terminals have a progress bar
        from rich.progress import Progress  # noqa: PLC0415 - as above

        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("Looking around", total=None)
            return await run_checks(
                context,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )


def _check_report_path(report: Path) -> None:
    """Refuse a report that would replace what is none, before the examination, which takes time."""
    if report.is_file() and not is_replaceable(report, TITLE):
        raise click.UsageError(f"--report {report} is there, and is no report: name another file.")
    if not report.parent.is_dir():
        raise click.UsageError(f"--report {report}: there is no directory {report.parent}.")


def _write_report(file: str, text: str) -> None:
    if file == STANDARD_OUTPUT:
        click.echo(text, nl=False)
        return
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.FileError(file, error.strerror or str(error)) from error
    click.echo(sanitize_line(f"The report is in {file}. Read it before you send it."), err=True)


def _print_findings(findings: Sequence[Finding]) -> None:
    """The harmless first, by its groups; the problems last, where the eye is."""
    fine = [finding for finding in findings if finding.level in {"ok", "note"}]
    for group in dict.fromkeys(finding.group for finding in fine):
        click.secho(group, bold=True)
        for finding in fine:
            if finding.group == group:
                _print_finding(finding)
    for level in ("warning", "problem"):
        of_level = [finding for finding in findings if finding.level == level]
        for finding in of_level:
            click.echo()
            _print_finding(finding)
    click.echo()
    click.echo(_format_summary(findings))


def _print_finding(finding: Finding) -> None:
    """What is as it should be takes one line; what is wrong says what was seen and what to do."""
    mark = click.style(finding.level.ljust(MARK_WIDTH), fg=COLOURS[finding.level])
    if finding.level == "ok":
        text = _wrap(f"{finding.title}: {finding.evidence}")
        click.echo(f"  {mark}  {text.removeprefix(INDENT)}")
        return
    serious = finding.level in {"warning", "problem"}
    title = f"{finding.title} [{finding.id}]"
    click.echo(f"  {mark}  {click.style(title, bold=True) if serious else finding.title}")
    click.echo(_wrap(finding.evidence, "seen: " if serious else ""))
    if finding.remedy:
        click.echo(_wrap(finding.remedy, "do:   " if serious else ""))


def _wrap(text: str, label: str = "") -> str:
    """A paragraph, wrapped on a terminal; a pipe gets it on one line, for grep."""
    text = " ".join(sanitize(text).split())
    if not is_terminal(sys.stdout):
        return f"{INDENT}{label}{text}"
    width = max(shutil.get_terminal_size().columns, MIN_WIDTH)
    return textwrap.fill(
        text,
        width,
        initial_indent=INDENT + label,
        subsequent_indent=INDENT + " " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _format_summary(findings: Sequence[Finding]) -> str:
    counts = _count_levels(findings)
    if not (counts["problem"] or counts["warning"]):
        return click.style("Nothing is wrong.", fg="green", bold=True)
    parts = [
        f"{counts[level]} {level}{'s' if counts[level] > 1 else ''}"
        for level in ("problem", "warning")
        if counts[level]
    ]
    colour = COLOURS["problem" if counts["problem"] else "warning"]
    return click.style(f"{' and '.join(parts)} found.", fg=colour, bold=True)


def _count_levels(findings: Sequence[Finding]) -> dict[str, int]:
    return {level: sum(finding.level == level for finding in findings) for level in LEVELS}
