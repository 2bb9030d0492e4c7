"""`foundry-api batch check`: validate an input file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from foundry_api.batch.progress import BatchProgress
from foundry_api.batch.sources import check, open_seekable
from foundry_api.cli.batch.options import add_input_options
from foundry_api.cli.batch.progress import show_progress
from foundry_api.cli.options import GlobalOptions, format_examples, output_options, pass_common
from foundry_api.cli.output import print_json, print_table, sanitize_line
from foundry_api.observe.format import format_count, format_int

if TYPE_CHECKING:
    from foundry_api.batch.sources import CheckProgress, CheckReport
    from foundry_api.batch.types import InputOptions

__all__ = ["command"]

EXIT_REFUSED = 2
MAX_PROBLEMS = 20


@click.command(
    "check",
    epilog=format_examples(
        "batch check prompts.jsonl", "batch check --json people.csv --column question"
    ),
)
@add_input_options
@output_options
@pass_common
def command(common: GlobalOptions, *, input_options: InputOptions) -> int:
    """Validate an input file without running it.

    The exit code is 2 if a line is invalid.
    """
    with (
        open_seekable(input_options) as source,
        show_progress(f"Checking {input_options.path}", common) as show,
    ):

        def report_check(progress: CheckProgress) -> None:
            show(
                BatchProgress(
                    phase="checking",
                    failed=progress.bad,
                    read_bytes=progress.position_bytes,
                    size_bytes=progress.size_bytes,
                )
            )

        report = check(source, on_progress=report_check)
    if common.as_json:
        print_json(_to_json(report))
    else:
        _print_report(source.name, report)
    return EXIT_REFUSED if report.bad else 0


def _to_json(report: CheckReport) -> dict[str, object]:
    return {
        "lines": report.lines,
        "bad": report.bad,
        "duplicates": len(report.duplicates),
        "models": report.models,
        "urls": report.urls,
        "problems": report.problems,
    }


def _print_report(name: str, report: CheckReport) -> None:
    state = format_count(report.bad, "bad line") if report.bad else "all valid"
    colour = "red" if report.bad else "green"
    if not report.lines:
        state, colour = "nothing to run", "yellow"
    click.echo(f"{sanitize_line(name)}: {format_count(report.lines, 'line')}, ", nl=False)
    click.secho(state, fg=colour, bold=True)
    if report.models:
        rows = [[model or "(default)", format_int(count)] for model, count in report.models.items()]
        print_table(["MODEL", "LINES"], rows)
    for problem in report.problems[:MAX_PROBLEMS]:
        click.echo(sanitize_line(problem.message))
    if report.bad > MAX_PROBLEMS:
        more = report.bad - MAX_PROBLEMS
        click.echo(f"And {format_int(more)} more; --json lists the first {len(report.problems)}.")
