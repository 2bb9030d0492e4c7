"""Running a batch, and telling how it goes and how it ended."""

from __future__ import annotations

import sys
from itertools import count
from typing import TYPE_CHECKING

import click

from foundry_api.batch.job import BatchJob
from foundry_api.cli.batch.options import make_engine, make_session
from foundry_api.cli.batch.progress import LastProgress, report_progress
from foundry_api.cli.batch.summary import print_summary, to_json, write_partial_report, write_report
from foundry_api.cli.downloads import retry_after_download
from foundry_api.cli.output import print_json, sanitize
from foundry_api.observe.format import format_int
from foundry_api.types.errors import BatchInUse, BatchMismatch, BatchStorageFailed, InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.batch.job import BatchSummary
    from foundry_api.batch.progress import BatchProgress
    from foundry_api.batch.types import BatchOptions
    from foundry_api.cli.batch.options import EngineOptions
    from foundry_api.cli.options import GlobalOptions
    from foundry_api.cli.session import Session

__all__ = ["run_batch"]

EXIT_SOME_FAILED = 3
NOT_STARTED_ERRORS = (BatchMismatch, BatchInUse, InvalidRequest)
"""After these there is nothing to say about what is kept."""


def run_batch(
    common: GlobalOptions,
    options: BatchOptions,
    engine_options: EngineOptions,
    *,
    shared: bool = False,
    restart: bool = False,
    retry_failed: bool = False,
    reuse_spooled_input: bool = False,
) -> int:
    """Run a batch to its end, and tell what it came to. Returns the exit code.

    Args:
        common: The options that every verb takes.
        options: What the batch is told.
        engine_options: What answers it.
        shared: Whether other processes may work on it at the same time.
        restart: Whether to forget what was answered before.
        retry_failed: Whether lines that failed are asked again.
        reuse_spooled_input: Whether standard input was read by an earlier run.
    """
    last_progress = LastProgress()
    title = f"{options.input.path} -> {options.output}"
    with make_session(common, engine_options, model=options.input.model) as session:
        engine = make_engine(
            session,
            engine_options,
            attempts=options.max_attempts,
            patience_s=options.patience_s,
            dedupe=_get_dedupe(options),
        )

        runs = count()

        async def run() -> BatchSummary:
            is_rerun = next(runs) > 0  # after a download: what was read and answered is kept
            with report_progress(title, common, last_progress) as on_progress:
                job = BatchJob(
                    options,
                    shared=shared,
                    restart=restart and not is_rerun,
                    retry_failed=retry_failed,
                    reuse_spooled_input=reuse_spooled_input or is_rerun,
                    on_progress=on_progress,
                )
                return await job.run(engine)

        try:
            summary = retry_after_download(
                session, run, yes=engine_options.yes, ask=not common.as_json
            )
        except NOT_STARTED_ERRORS:
            raise
        except BaseException as error:
            last = last_progress.progress
            if last is not None and last.phase != "checking" and not options.to_stream:
                _print_stop(options, last, error, restart=restart, quiet=common.as_json)
                _write_partial_report(options, session, quiet=common.as_json)
            raise
        return _print_summary(common, options, session, summary)


def _get_dedupe(options: BatchOptions) -> bool | Path:
    """Where there is a journal, the answers of identical lines lie beside it."""
    if not options.dedupe or options.to_stream:
        return options.dedupe
    return options.directory


def _print_stop(
    options: BatchOptions, last: BatchProgress, error: BaseException, *, restart: bool, quiet: bool
) -> None:
    """After a stop, say what is not lost."""
    if quiet:
        return
    total = f" of {format_int(last.total)}" if last.total else ""
    message = f"Stopped: {format_int(last.finished)}{total} lines are finished and kept in"
    click.echo(f"{message} {sanitize(str(options.directory))}.", err=True)
    if restart:
        click.echo("The same command without --restart goes on from there.", err=True)
    elif not isinstance(error, BatchStorageFailed):  # whose hint says so
        click.echo("The same command goes on from there.", err=True)


def _write_partial_report(options: BatchOptions, session: Session, *, quiet: bool) -> None:
    """Write the page of what is there so far. Why the batch stopped is told all the same."""
    if options.report is None:
        return
    try:
        write_partial_report(options.report, options, session)
    except BatchStorageFailed as error:
        message = str(error)
    else:
        message = f"The report {options.report} tells what is there so far."
    if not quiet:
        click.echo(sanitize(message), err=True)


def _print_summary(
    common: GlobalOptions, options: BatchOptions, session: Session, summary: BatchSummary
) -> int:
    if options.report is not None:
        write_report(options.report, options, session, summary)
    if not common.as_json:
        print_summary(options, summary)
    elif not options.to_stream:
        print_json(to_json(options, summary))
    sys.stdout.flush()
    return EXIT_SOME_FAILED if summary.failed else 0
