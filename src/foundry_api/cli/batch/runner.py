"""Running a batch, and telling how it goes and how it ended."""

from __future__ import annotations

import sys
from itertools import count
from typing import TYPE_CHECKING

import click

from foundry_api.batch.job import BatchJob
from foundry_api.cli.batch.options import engine_of, session_of
from foundry_api.cli.batch.progress import Watch, telling
from foundry_api.cli.batch.summary import described, print_summary, report_end, report_stop
from foundry_api.cli.downloads import run_with_download
from foundry_api.cli.output import print_json, sanitize
from foundry_api.observe.format import format_int
from foundry_api.types.errors import BatchChanged, BatchInUse, BatchStorageFailed, InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.batch.job import BatchSummary
    from foundry_api.batch.progress import BatchProgress
    from foundry_api.batch.types import BatchOptions
    from foundry_api.cli.batch.options import EngineWishes
    from foundry_api.cli.options import Common
    from foundry_api.cli.session import Session

__all__ = ["run_batch"]

SOME_FAILED = 3
NOTHING_BEGAN = (BatchChanged, BatchInUse, InvalidRequest)
"""After these there is nothing to say about what is kept."""


def run_batch(
    common: Common,
    options: BatchOptions,
    wishes: EngineWishes,
    *,
    shared: bool = False,
    restart: bool = False,
    retry_failed: bool = False,
    kept: bool = False,
) -> int:
    """Run a batch to its end, and tell what it came to. Returns the exit code.

    Args:
        common: The options that every verb takes.
        options: What the batch is told.
        wishes: What answers it.
        shared: Whether other processes may work on it at the same time.
        restart: Whether to forget what was answered before.
        retry_failed: Whether lines that failed are asked again.
        kept: Whether standard input was read by an earlier run.
    """
    watch = Watch()
    title = f"{options.input.path} -> {options.output}"
    with session_of(common, wishes, model=options.input.model) as session:
        engine = engine_of(
            session,
            wishes,
            attempts=options.max_attempts,
            patience_s=options.patience_s,
            dedupe=_dedupe(options),
        )

        runs = count()

        async def run() -> BatchSummary:
            again = next(runs) > 0  # after a download: what was read and answered is kept
            with telling(title, common, watch) as tell:
                job = BatchJob(
                    options,
                    shared=shared,
                    restart=restart and not again,
                    retry_failed=retry_failed,
                    reuse_spooled_input=kept or again,
                    on_progress=tell,
                )
                return await job.run(engine)

        try:
            summary = run_with_download(session, run, yes=wishes.yes, ask=not common.as_json)
        except NOTHING_BEGAN:
            raise
        except BaseException as error:
            last = watch.last
            if last is not None and last.phase != "checking" and not options.to_stream:
                _tell_stop(options, last, error, restart=restart, quiet=common.as_json)
                _report_stop(options, session, quiet=common.as_json)
            raise
        return _tell_end(common, options, session, summary)


def _dedupe(options: BatchOptions) -> bool | Path:
    """Where there is a journal, the answers of identical lines lie beside it."""
    if not options.dedupe or options.to_stream:
        return options.dedupe
    return options.directory


def _tell_stop(
    options: BatchOptions, last: BatchProgress, error: BaseException, *, restart: bool, quiet: bool
) -> None:
    """After a stop, say what is not lost."""
    if quiet:
        return
    total = f" of {format_int(last.total)}" if last.total else ""
    told = f"Stopped: {format_int(last.finished)}{total} lines are finished and kept in"
    click.echo(f"{told} {sanitize(str(options.directory))}.", err=True)
    if restart:
        click.echo("The same command without --restart goes on from there.", err=True)
    elif not isinstance(error, BatchStorageFailed):  # whose hint says so
        click.echo("The same command goes on from there.", err=True)


def _report_stop(options: BatchOptions, session: Session, *, quiet: bool) -> None:
    """Write the page of what is there so far. Why the batch stopped is told all the same."""
    if options.report is None:
        return
    try:
        report_stop(options.report, options, session)
    except BatchStorageFailed as error:
        told = str(error)
    else:
        told = f"The report {options.report} tells what is there so far."
    if not quiet:
        click.echo(sanitize(told), err=True)


def _tell_end(
    common: Common, options: BatchOptions, session: Session, summary: BatchSummary
) -> int:
    if options.report is not None:
        report_end(options.report, options, session, summary)
    if not common.as_json:
        print_summary(options, summary)
    elif not options.to_stream:
        print_json(described(options, summary))
    sys.stdout.flush()
    return SOME_FAILED if summary.failed else 0
