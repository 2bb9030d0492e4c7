"""`foundry-api batch run` and `foundry-api batch retry`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click
import msgspec

from foundry_api.batch.journal import read_status
from foundry_api.batch.types import STANDARD_STREAM, BatchOptions, get_journal_directory
from foundry_api.cli.batch.options import add_engine_options, add_input_options
from foundry_api.cli.batch.runner import run_batch
from foundry_api.cli.options import GlobalOptions, common_options, format_examples, pass_common
from foundry_api.cli.session import make_settings

if TYPE_CHECKING:
    from foundry_api.batch.types import InputOptions
    from foundry_api.cli.batch.options import EngineOptions

__all__ = ["command", "retry_command"]

EPILOG = (
    format_examples(
        "batch run prompts.jsonl -o answers.jsonl",
        "batch run prompts.txt -o out.jsonl -m demo --set max_tokens=50",
        'batch run people.csv -o out.jsonl --template "Greet {name}."',
        "batch run prompts.jsonl.zst -o answers.parquet --ordered",
        "batch run prompts.jsonl -o answers.jsonl --report report.html",
        "batch run in.txt -o out.jsonl --base-urls host1:5273,host2:5273",
        "batch run prompts.jsonl -o answers.jsonl  # again: resume",
    )
    + """

\b
Exit codes:
  0    all lines succeeded
  1    stopped by an error or `batch cancel`; the same command resumes
  2    usage error, or invalid input
  3    finished, but some lines failed; see the summary
  130  interrupted with Ctrl-C; run the same command to resume"""
)


@click.command("run", epilog=EPILOG)
@add_input_options
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    metavar="FILE",
    required=True,
    help="Output file; - is standard output.",
)
@click.option(
    "--errors",
    type=click.Path(),
    metavar="FILE",
    help="File for failed lines. [NAME.errors.jsonl next to the output]",
)
@click.option(
    "--output-format",
    type=click.Choice(["auto", "jsonl", "parquet"]),
    default="auto",
    help="Output format. [from the suffix]",
)
@click.option("--ordered", is_flag=True, help="Keep the order of the input.")
@click.option("--dedupe", is_flag=True, help="Run identical requests once.")
@click.option("--no-check", is_flag=True, help="Start without validating the entire input.")
@click.option("--strict", is_flag=True, help="Reject the input if a line is invalid.")
@click.option("--retry-failed", is_flag=True, help="Run failed lines of earlier runs again.")
@click.option("--restart", is_flag=True, help="Discard earlier answers and start over.")
@click.option("--shared", is_flag=True, help="Share the work with other runs of this command.")
@click.option(
    "--report",
    type=click.Path(),
    metavar="FILE",
    help="Write an HTML report with plots, such as report.html.",
)
@add_engine_options
@common_options
@pass_common
def command(
    common: GlobalOptions,
    *,
    input_options: InputOptions,
    output: str,
    errors: str | None,
    output_format: Literal["auto", "jsonl", "parquet"],
    ordered: bool,
    dedupe: bool,
    no_check: bool,
    strict: bool,
    retry_failed: bool,
    restart: bool,
    shared: bool,
    report: str | None,
    engine_options: EngineOptions,
) -> int:
    """Run a file of prompts.

    INPUT is OpenAI batch JSONL, plain text with a prompt per line, CSV or Parquet, or - for
    standard input. Each answer is stored within a second: after an interruption, run the same
    command again to resume.
    """
    if strict and no_check:
        raise click.UsageError("--strict cannot be used with --no-check.")
    for name, value in (("--errors", errors), ("--report", report)):
        if value is not None and output == STANDARD_STREAM:
            raise click.UsageError(f"{name} cannot be used with -o -: give a file for the answers.")
    model = make_settings(common, model=input_options.model).model
    options = BatchOptions(
        input=msgspec.structs.replace(input_options, model=model),
        output=output,
        errors=errors,
        output_format=output_format,
        ordered=ordered,
        dedupe=dedupe,
        strict=strict,
        check=not no_check,
        report=report,
    )
    options = _override(
        options, max_attempts=engine_options.max_attempts, patience_s=engine_options.patience_s
    )
    return run_batch(
        common, options, engine_options, shared=shared, restart=restart, retry_failed=retry_failed
    )


@click.command(
    "retry",
    epilog=format_examples("batch retry answers.jsonl", "batch retry answers.jsonl --attempts 10"),
)
@click.argument("output", type=click.Path(), metavar="OUTPUT")
@click.option(
    "--report",
    type=click.Path(),
    metavar="FILE",
    help="Write an HTML report with plots, such as report.html.",
)
@add_engine_options
@common_options
@pass_common
def retry_command(
    common: GlobalOptions, *, output: str, report: str | None, engine_options: EngineOptions
) -> int:
    """Run failed and unfinished lines of a batch.

    The input and the options are those of the latest `batch run`.
    """
    options = read_status(get_journal_directory(output)).options
    options = _override(
        options,
        output=output,
        max_attempts=engine_options.max_attempts,
        patience_s=engine_options.patience_s,
        report=report,
    )
    return run_batch(common, options, engine_options, retry_failed=True, reuse_spooled_input=True)


def _override(options: BatchOptions, **values: object) -> BatchOptions:
    """Replace the values that are not None."""
    changes = {name: value for name, value in values.items() if value is not None}
    return msgspec.structs.replace(options, **changes)
