"""Runs a batch, and reports its progress and its end."""

from __future__ import annotations

import sys
from itertools import count
from typing import TYPE_CHECKING

import click

from foundry_api.batch.job import BatchJob
from foundry_api.cli.batch.options import make_engine, make_session
from foundry_api.cli.batch.progress import show_progress
from foundry_api.cli.batch.summary import print_summary, to_json, write_partial_report, write_report
from foundry_api.cli.downloads import retry_after_download
from foundry_api.cli.output import print_json, print_notice, sanitize
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
# Raised before the batch starts: there is no progress to report.
NOT_STARTED_ERRORS = (BatchMismatch, BatchInUse, InvalidRequest)


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
    """Run a batch, print its summary, and return the exit code."""
    last: BatchProgress | None = None
    title = f"{options.input.path} -> {options.output}"
    dedupe: bool | Path = options.dedupe
    if options.dedupe and not options.to_stream:
        dedupe = options.directory  # with a journal, the answers of identical lines are next to it
    with make_session(common, engine_options, model=options.input.model) as session:
        engine = make_engine(
            session,
            engine_options,
            max_attempts=options.max_attempts,
            patience_s=options.patience_s,
            dedupe=dedupe,
        )
        runs = count()

        async def run() -> BatchSummary:
            # The second run, after a download, must keep what the first one read and stored.
            is_rerun = next(runs) > 0
            with show_progress(title, common) as show:

                def report(progress: BatchProgress) -> None:
                    nonlocal last
                    last = progress
                    show(progress)

                job = BatchJob(
                    options,
                    shared=shared,
                    restart=restart and not is_rerun,
                    retry_failed=retry_failed,
                    reuse_spooled_input=reuse_spooled_input or is_rerun,
                    on_progress=report,
                )
                return await job.run(engine)

        try:
            summary = retry_after_download(
                session, run, yes=engine_options.yes, ask=not common.as_json
            )
        except NOT_STARTED_ERRORS:
            raise
        except BaseException as error:
            if last is not None and last.phase != "checking" and not options.to_stream:
                if not common.as_json:
                    _print_stop(options, last, error, restart=restart)
                _write_partial_report(options, session, quiet=common.as_json)
            raise
        if options.report is not None:
            write_report(options.report, options, session, summary)
        if not common.as_json:
            print_summary(options, summary)
        elif not options.to_stream:
            print_json(to_json(options, summary))
        sys.stdout.flush()
        return EXIT_SOME_FAILED if summary.failed else 0


def _print_stop(
    options: BatchOptions, last: BatchProgress, error: BaseException, *, restart: bool
) -> None:
    total = f" of {format_int(last.total)}" if last.total else ""
    message = f"Stopped: {format_int(last.finished)}{total} lines are finished and stored in"
    print_notice(f"{message} {options.directory}.")
    if restart:
        print_notice("Run the same command without --restart to resume.")
    elif not isinstance(error, BatchStorageFailed):  # its hint says the same
        print_notice("Run the same command to resume.")


def _write_partial_report(options: BatchOptions, session: Session, *, quiet: bool) -> None:
    if options.report is None:
        return
    try:
        write_partial_report(options.report, options, session)
    except BatchStorageFailed as error:  # must not replace the error that stopped the batch
        message = str(error)
    else:
        message = f"The report {options.report} has the results so far."
    if not quiet:
        click.echo(sanitize(message), err=True)
