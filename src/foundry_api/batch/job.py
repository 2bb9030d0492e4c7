"""A batch over files, from its input to its output."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from foundry_api.batch.async_tools import SerialExecutor
from foundry_api.batch.dedupe import delete_saved_answers
from foundry_api.batch.files import check_files
from foundry_api.batch.journal import CheckResult, Journal, read_status
from foundry_api.batch.journal.database import FILE as JOURNAL
from foundry_api.batch.ledger import StdoutStore
from foundry_api.batch.progress import BatchProgress, ProgressMeter
from foundry_api.batch.runner import RETRY_PUBLISH_S, BatchRunner, RunPlan
from foundry_api.batch.sources import CheckReport, check, is_stream, open_source, remove_drafts
from foundry_api.observe.format import format_count
from foundry_api.types.errors import BatchInputInvalid, BatchInUse, BatchStorageFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from foundry_api.batch.engine import BatchEngine
    from foundry_api.batch.journal import PublishedOutput
    from foundry_api.batch.sources import CheckProgress, Source
    from foundry_api.batch.statistics import BatchStatistics
    from foundry_api.batch.types import BatchOptions

__all__ = ["BatchJob", "BatchSummary"]

SPOOL = "input"
"""Where the copy of a pipe lies, beside the journal, so that it can be read again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """What a batch came to.

    Attributes:
        total: Lines of the input.
        done: Lines answered, in earlier runs too.
        failed: Lines that failed for good, in earlier runs too.
        shared: Of those answered, the ones that took the answer of an identical request.
        resumed: Lines that were finished before this run.
        elapsed_s: Seconds of this run.
        tokens: Tokens of the answers of this run.
        output: Where the answers are; None for standard output.
        errors: Where the failed lines are; None without any, and for standard output.
        figures: The whole batch in figures; None for standard output.
    """

    total: int
    done: int
    failed: int
    shared: int
    resumed: int
    elapsed_s: float
    tokens: int
    output: Path | None = None
    errors: Path | None = None
    figures: BatchStatistics | None = None


class BatchJob:
    """A batch over files. It is run once.

    Args:
        options: What to do.
        shared: Whether other processes may work on it at the same time.
        restart: Whether to forget what was answered before.
        retry_failed: Whether lines that failed are asked again.
        kept: Whether standard input, or another pipe, was read by an earlier run, and is not to be
            read now.
        tell: Called in the event loop, some times a second, with how far it is; while the input
            is checked, in another thread.
    """

    def __init__(
        self,
        options: BatchOptions,
        *,
        shared: bool = False,
        restart: bool = False,
        retry_failed: bool = False,
        reuse_spooled_input: bool = False,
        on_progress: Callable[[BatchProgress], None] | None = None,
    ) -> None:
        self._options = options
        self._shared = shared
        self._restart = restart
        self._retry_failed = retry_failed
        self._reuse_spooled_input = reuse_spooled_input
        self._on_progress = on_progress or _ignore_progress
        self._meter = ProgressMeter()
        self._is_leaving = False
        self._report: CheckReport | None = None

    async def run(self, engine: BatchEngine) -> BatchSummary:
        """Answer what is not answered, and write the output.

        Raises:
            BatchInputInvalid: The input cannot be read, or is refused for a bad line; or two of
                the files are the same one, or one cannot be written where it is.
            BatchMismatch: The input or the output is not what it was.
            BatchInUse: Another process works on it.
            BatchStorageFailed: The journal or the output cannot be written.
            BatchCancelled: Somebody asked for the end.
            FoundryError: As `BatchEngine.run`. What was answered is kept.
        """
        with SerialExecutor() as thread, self._abandon_check_on_exit():
            await thread(check_files, self._options, restart=self._restart)
            source = await thread(self._open_source)
            if self._options.to_stream:
                return await self._run_to_stream(source, engine, thread)
            journal = await thread(self._open_journal, source)
            try:
                if not self._shared:  # nobody else works on it
                    await thread(remove_drafts, self._options.directory / SPOOL)
                if self._restart:
                    await thread(delete_saved_answers, self._options.directory)
                return await self._run_with_journal(source, journal, engine, thread)
            finally:
                await thread(journal.close)

    async def _run_with_journal(
        self, source: Source, journal: Journal, engine: BatchEngine, thread: SerialExecutor
    ) -> BatchSummary:
        check_result = await thread(self._ensure_checked, source, journal)
        if self._retry_failed:
            await thread(journal.forget_failed)
        counts = await thread(journal.get_counts)
        self._meter.resume(done=counts.done, failed=counts.failed, shared=counts.shared)
        plan = RunPlan(source=source)
        if check_result is not None:
            plan = replace(
                plan,
                total=check_result.total,
                models=check_result.models,
                duplicates=check_result.duplicates,
            )
        if check_result is None or not await thread(journal.is_complete, check_result.total):
            total = await self._make_runner(plan, journal, engine, thread).run()
        else:
            total = check_result.total
        self._on_progress(self._meter.make_progress("publishing", total=total))
        published = await _publish(journal, total, thread)
        statistics = await thread(journal.get_statistics)
        return BatchSummary(
            total=total,
            done=statistics.done,
            failed=statistics.failed,
            shared=statistics.shared,
            resumed=self._meter.resumed,
            elapsed_s=self._meter.elapsed_s,
            tokens=self._meter.tokens,
            output=published.output,
            errors=published.errors,
            figures=statistics,
        )

    async def _run_to_stream(
        self, source: Source, engine: BatchEngine, thread: SerialExecutor
    ) -> BatchSummary:
        plan = RunPlan(source=source, ordered=self._options.ordered)
        if self._options.check and source.is_seekable:
            report = await thread(self._check, source)
            plan = replace(
                plan, total=report.lines, models=report.models, duplicates=report.duplicates
            )
        total = await self._make_runner(plan, StdoutStore(), engine, thread).run()
        meter = self._meter
        return BatchSummary(
            total=total,
            done=meter.done,
            failed=meter.failed,
            shared=meter.shared,
            resumed=0,
            elapsed_s=meter.elapsed_s,
            tokens=meter.tokens,
        )

    def _make_runner(
        self,
        plan: RunPlan,
        store: Journal | StdoutStore,
        engine: BatchEngine,
        thread: SerialExecutor,
    ) -> BatchRunner:
        return BatchRunner(
            plan, store, engine, thread=thread, meter=self._meter, on_progress=self._on_progress
        )

    def _open_source(self) -> Source:
        options = self._options
        if options.to_stream or not options.check:
            if self._reuse_spooled_input and is_stream(options.input.path):
                raise BatchInputInvalid(
                    f"{options.input.path} was read already, and no copy of it is kept",
                    field="path",
                    hint="Run the command again that began the batch, with the same input.",
                )
            return open_source(options.input, is_abandoned=self._is_abandoned)
        if self._restart:
            _check_not_running(options.directory)  # its copy of a pipe is about to be replaced
        directory, spool = options.directory, options.directory / SPOOL
        is_begun = (directory / JOURNAL).exists()
        is_new = self._restart or not is_begun
        try:
            return open_source(
                options.input,
                spool=spool,
                standard_input="kept" if self._reuse_spooled_input else "new" if is_new else "same",
                is_abandoned=self._is_abandoned,
                accept=self._accept if self._restart and self._options.strict else None,
            )
        except BatchInputInvalid:
            if not is_begun:  # what is refused leaves nothing behind
                with suppress(OSError):
                    spool.unlink()
                    directory.rmdir()
            raise

    def _accept(self, source: Source) -> None:
        """Refuse an input before what was answered is forgotten."""
        if source.is_seekable:
            self._report = self._check(source)

    def _is_abandoned(self) -> bool:
        return self._is_leaving

    def _open_journal(self, source: Source) -> Journal:
        is_checked = self._options.check and source.is_seekable
        return Journal.open(
            self._options,
            fingerprint=source.compute_fingerprint() if is_checked else None,
            request_digest=_request_digest(self._options),
            shared=self._shared,
            restart=self._restart,
        )

    def _ensure_checked(self, source: Source, journal: Journal) -> CheckResult | None:
        """What a check finds, or found before."""
        if not (self._options.check and source.is_seekable):
            return None
        known = journal.check_result
        if known is None or (known.bad and self._options.strict):
            report = self._report or self._check(source)
            journal.store_check_result(
                report.lines, report.models, report.duplicates, bad=report.bad
            )
            known = journal.check_result
        return known

    def _check(self, source: Source) -> CheckReport:
        report = check(source, on_progress=self._on_check_progress)
        if report.bad and self._options.strict:
            bad_lines = format_count(report.bad, "line")
            raise BatchInputInvalid(
                f"{source.name} is refused: {bad_lines} of it cannot be asked",
                hint="Mend these lines, or leave --strict out: they go to the error file then.",
            ).with_problems(tuple(problem.message for problem in report.problems))
        return report

    def _on_check_progress(self, progress: CheckProgress) -> None:
        if self._is_leaving:
            raise _CheckAbandoned
        self._on_progress(
            BatchProgress(
                phase="checking",
                failed=progress.bad,
                read_bytes=progress.position_bytes,
                size_bytes=progress.size_bytes,
                elapsed_s=self._meter.elapsed_s,
            )
        )

    @contextmanager
    def _abandon_check_on_exit(self) -> Generator[None]:
        """A check that goes on in its thread ends when the run does."""
        try:
            yield
        finally:
            self._is_leaving = True


def _check_not_running(directory: Path) -> None:
    try:
        running = read_status(directory).running
    except BatchStorageFailed:
        return  # there is no batch, or what is there is refused when it is opened
    if running:
        raise BatchInUse("another process works on this batch", hint="Wait for it.")


async def _publish(journal: Journal, total: int, thread: SerialExecutor) -> PublishedOutput:
    """Publish. While another runner does, wait for it in a way that can be ended."""
    while True:
        try:
            return await thread(journal.publish, total)
        except BatchInUse:
            await asyncio.sleep(RETRY_PUBLISH_S)


class _CheckAbandoned(Exception):
    """Nobody waits for the check any more."""


def _ignore_progress(progress: BatchProgress) -> None:
    """Hears how far it is."""


def _request_digest(options: BatchOptions) -> str:
    """A digest of what makes requests of an input."""
    input_options = msgspec.structs.replace(options.input, path="")
    return hashlib.blake2b(
        msgspec.json.encode(input_options, order="sorted"), digest_size=16
    ).hexdigest()
