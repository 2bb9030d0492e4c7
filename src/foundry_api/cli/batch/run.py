"""`foundry-api batch run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click
import msgspec

from foundry_api.batch.journal import read_status
from foundry_api.batch.types import STANDARD_STREAM, BatchOptions, get_journal_directory
from foundry_api.cli.batch.options import engine_options, input_options
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
        "batch run questions.txt -o answers.jsonl --model demo --set max_tokens=50",
        'batch run people.csv -o letters.jsonl --template "Write to {name} in {city}."',
        "batch run prompts.jsonl.zst -o answers.parquet --ordered --report report.html",
        "batch run prompts.jsonl -o answers.jsonl --base-urls 10.0.0.1:5273,10.0.0.2:5273",
        "batch run prompts.jsonl -o answers.jsonl          again, and it goes on",
    )
    + """

\b
Exit codes:
  0    every line is answered
  1    stopped by an error or by `batch cancel`; the same command goes on
  2    wrong usage, or the input is refused
  3    finished, but some lines failed; the summary says what may help
  130  stopped with Ctrl-C; the same command goes on"""
)


@click.command("run", epilog=EPILOG)
@input_options
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    metavar="FILE",
    required=True,
    help="The answers; - is standard output.",
)
@click.option(
    "--errors",
    type=click.Path(),
    metavar="FILE",
    help="Lines that failed. [NAME.errors.jsonl beside it]",
)
@click.option(
    "--output-format",
    type=click.Choice(["auto", "jsonl", "parquet"]),
    default="auto",
    help="What the answers are written as; else the output's name tells.",
)
@click.option("--ordered", is_flag=True, help="Keep the order of the input.")
@click.option("--dedupe", is_flag=True, help="Ask identical requests once.")
@click.option("--no-check", is_flag=True, help="Begin at once, without looking at the whole input.")
@click.option("--strict", is_flag=True, help="Refuse the input for one bad line.")
@click.option("--retry-failed", is_flag=True, help="Ask lines again that failed before.")
@click.option("--restart", is_flag=True, help="Forget what was answered, and begin anew.")
@click.option("--shared", is_flag=True, help="Share the work with other runs of this command.")
@click.option(
    "--report",
    type=click.Path(),
    metavar="FILE",
    help="Write a page with plots, such as report.html.",
)
@engine_options
@common_options
@pass_common
def command(
    common: GlobalOptions,
    *,
    read: InputOptions,
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
    wishes: EngineOptions,
) -> int:
    """Answer a whole file of prompts.

    INPUT is OpenAI's batch JSONL, plain lines of text, CSV or Parquet, or - for standard input.
    What is answered is kept at once, so whatever stops this, the same command goes on.
    """
    if strict and no_check:
        raise click.UsageError("--strict needs the check: leave --no-check out.")
    for name, value in (("--errors", errors), ("--report", report)):
        if value is not None and output == STANDARD_STREAM:
            raise click.UsageError(
                f"{name} is not written beside -o -: name a file for the answers."
            )
    model = make_settings(common, model=read.model).model
    options = BatchOptions(
        input=msgspec.structs.replace(read, model=model),
        output=output,
        errors=errors,
        output_format=output_format,
        ordered=ordered,
        dedupe=dedupe,
        strict=strict,
        check=not no_check,
        report=report,
    )
    if wishes.max_attempts is not None:
        options = msgspec.structs.replace(options, max_attempts=wishes.max_attempts)
    if wishes.patience_s is not None:
        options = msgspec.structs.replace(options, patience_s=wishes.patience_s)
    return run_batch(
        common, options, wishes, shared=shared, restart=restart, retry_failed=retry_failed
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
    help="Write a page with plots, such as report.html.",
)
@engine_options
@common_options
@pass_common
def retry_command(
    common: GlobalOptions, *, output: str, report: str | None, wishes: EngineOptions
) -> int:
    """Ask lines again that failed, and finish what is not finished.

    Which input it was and how it was asked is known from the run that began it.
    """
    options = read_status(get_journal_directory(output)).options
    overrides = {
        "max_attempts": wishes.max_attempts,
        "patience_s": wishes.patience_s,
        "report": report,
    }
    changes = {name: value for name, value in overrides.items() if value is not None}
    options = msgspec.structs.replace(options, output=output, **changes)
    return run_batch(common, options, wishes, retry_failed=True, reuse_spooled_input=True)
