"""`foundry-api batch`: run a file of prompts."""

from __future__ import annotations

import click

from foundry_api.cli.batch import check, plan, run, status
from foundry_api.cli.options import format_examples, output_options

__all__ = ["command"]

EPILOG = format_examples(
    "batch run prompts.jsonl -o answers.jsonl",
    "batch list",
    "batch status answers.jsonl",
    "batch cancel answers.jsonl",
    "batch retry answers.jsonl",
    "batch plan prompts.jsonl --within 2h",
    "batch check prompts.jsonl",
)


@click.group("batch", epilog=EPILOG)
@output_options
def command() -> None:
    """Run a file of prompts, resumable at any time."""


for subcommand in (
    run.command,
    status.list_command,
    status.command,
    status.cancel_command,
    run.retry_command,
    plan.command,
    check.command,
):
    command.add_command(subcommand)
