"""`foundry-api doctor`: diagnose problems on this machine and suggest fixes."""

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

from foundry_api.cli.doctor.context import DiagnosticContext
from foundry_api.cli.doctor.environment import make_usable_settings
from foundry_api.cli.doctor.finding import LEVELS
from foundry_api.cli.doctor.report import TITLE, current_user, render_markdown
from foundry_api.cli.doctor.runner import run_checks
from foundry_api.cli.options import GlobalOptions, common_options, format_examples, pass_common
from foundry_api.cli.output import is_terminal, print_json, print_notice, sanitize, sanitize_line
from foundry_api.cli.session import DEBUG_VERBOSITY, OPTION_NAMES, get_environment, make_log_handler
from foundry_api.observe.format import format_count
from foundry_api.storage.private_file import is_replaceable
from foundry_api.types.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        "doctor --quick  # start no engine, query no catalog",
        "doctor --model phi-4-mini --online  # can it be used?",
        "doctor --base-url http://127.0.0.1:5273",
        "doctor --report report.txt  # for an issue, without secrets",
        "doctor --json",
    )
    + """

\b
Exit codes:
  0  no problems found; there may be warnings
  1  problems found
  2  usage error"""
)


@click.command("doctor", epilog=EPILOG)
@click.option("-m", "--model", metavar="NAME", help="Check whether this model can be used.")
@click.option("-q", "--quick", is_flag=True, help="Start no engine and query no catalog.")
@click.option("--online", is_flag=True, help="Query the model catalog on the network.")
@click.option(
    "--gateway-config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Check this file of the gateway too.",
)
@click.option(
    "--report",
    is_flag=False,
    flag_value=STANDARD_OUTPUT,
    metavar="[FILE]",
    help="Write a report without secrets for an issue; print it if FILE is omitted.",
)
@common_options
@pass_common
def command(
    common: GlobalOptions,
    *,
    model: str | None,
    quick: bool,
    online: bool,
    gateway_config: Path | None,
    report: str | None,
) -> int:
    """Diagnose problems and suggest fixes.

    Checks versions, settings, the network, disk and memory, Foundry Local's own command, services,
    leftovers of earlier runs, the engine, the models and the gateway. Changes nothing. Connects to
    other machines only for the configured service, for the Ray clusters of --gateway-config, and
    for the model catalog with --online or if a shared engine is running.
    """
    if report is not None and report != STANDARD_OUTPUT:
        # Before the checks, which take a while: a file that is no report must not be replaced.
        path = Path(report)
        if path.is_file() and not is_replaceable(path, TITLE):
            raise click.UsageError(
                f"--report {path} exists and is not a report: give another file."
            )
        if not path.parent.is_dir():
            raise click.UsageError(f"--report {path}: there is no directory {path.parent}.")
    environ = dict(os.environ)
    merged = environ
    with contextlib.suppress(ConfigurationError):  # a check reports it
        merged = get_environment()
    settings = make_usable_settings(
        merged,
        names=OPTION_NAMES,
        base_url=common.base_url,
        service=common.service,
        log_level="DEBUG" if common.verbose >= DEBUG_VERBOSITY else None,
    )
    context = DiagnosticContext(
        settings,
        environ,
        model=model,
        quick=quick,
        online=online,
        gateway_config=gateway_config,
    )
    # The log, if requested, shows why a check failed.
    logger, handler = logging.getLogger("foundry_api"), make_log_handler(common, merged)
    logger.addHandler(handler)
    logger.setLevel(settings.log_level)
    try:
        findings = asyncio.run(_run_checks(context))
    finally:
        logger.removeHandler(handler)
    if report is not None:
        _write_report(report, render_markdown(findings, environ, current_user()))
    if common.as_json:
        print_json({"findings": findings, "summary": _count_levels(findings)})
    elif report != STANDARD_OUTPUT:
        _print_findings(findings)
    return EXIT_PROBLEMS_FOUND if any(finding.level == "problem" for finding in findings) else 0


async def _run_checks(context: DiagnosticContext) -> list[Finding]:
    async with context:
        if not is_terminal(sys.stderr):
            return await run_checks(context)
        from rich.console import Console  # noqa: PLC0415 - only terminals have a progress bar
        from rich.progress import Progress  # noqa: PLC0415 - as above

        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("Checking", total=None)
            return await run_checks(
                context,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )


def _write_report(file: str, text: str) -> None:
    if file == STANDARD_OUTPUT:
        click.echo(text, nl=False)
        return
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.FileError(file, error.strerror or str(error)) from error
    print_notice(sanitize_line(f"The report is in {file}. Read it before you publish it."))


def _print_findings(findings: Sequence[Finding]) -> None:
    # Problems come last: there a terminal shows them without scrolling.
    harmless = [finding for finding in findings if finding.level in {"ok", "note"}]
    for group in dict.fromkeys(finding.group for finding in harmless):
        click.secho(group, bold=True)
        for finding in harmless:
            if finding.group == group:
                _print_finding(finding)
    for level in ("warning", "problem"):
        for finding in findings:
            if finding.level == level:
                click.echo()
                _print_finding(finding)
    click.echo()
    counts = _count_levels(findings)
    found = [
        format_count(counts[level], level) for level in ("problem", "warning") if counts[level]
    ]
    colour = COLOURS["problem" if counts["problem"] else "warning" if found else "ok"]
    message = f"{' and '.join(found)} found." if found else "No problems found."
    click.secho(message, fg=colour, bold=True)


def _print_finding(finding: Finding) -> None:
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
    text = " ".join(sanitize(text).split())
    if not is_terminal(sys.stdout):  # one line, for grep
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


def _count_levels(findings: Sequence[Finding]) -> dict[str, int]:
    return {level: sum(finding.level == level for finding in findings) for level in LEVELS}
