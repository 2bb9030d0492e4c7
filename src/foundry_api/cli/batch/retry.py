"""`foundry-api batch retry`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from foundry_api.batch.journal import read_status
from foundry_api.batch.options import directory_of
from foundry_api.cli.batch.running import run_batch
from foundry_api.cli.batch.wishes import engine_options
from foundry_api.cli.options import Common, common_options, examples, pass_common

if TYPE_CHECKING:
    from foundry_api.cli.batch.wishes import EngineWishes

__all__ = ["command"]


@click.command(
    "retry",
    epilog=examples("batch retry answers.jsonl", "batch retry answers.jsonl --attempts 10"),
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
def command(common: Common, *, output: str, report: str | None, wishes: EngineWishes) -> int:
    """Ask lines again that failed, and finish what is not finished.

    Which input it was and how it was asked is known from the run that began it.
    """
    options = read_status(directory_of(output)).options
    given = {"attempts": wishes.attempts, "patience_s": wishes.patience_s, "report": report}
    changes = {name: value for name, value in given.items() if value is not None}
    options = msgspec.structs.replace(options, output=output, **changes)
    return run_batch(common, options, wishes, retry_failed=True, kept=True)
