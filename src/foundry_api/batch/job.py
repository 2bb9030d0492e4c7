"""Run a batch over files, from its input to its output."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from foundry_api.batch.async_tools import SerialExecutor
from foundry_api.batch.dedupe import delete_saved_answers
from foundry_api.batch.files import check_files
from foundry_api.batch.journal import CheckResult, Journal, read_status
from foundry_api.batch.journal.database import FILE as JOURNAL
from foundry_api.batch.progress import BatchProgress, ProgressMeter
from foundry_api.batch.result_store import StdoutStore
from foundry_api.batch.runner import POLL_INTERVAL_S, BatchRunner, RunPlan
from foundry_api.batch.sources import CheckReport, check, is_stream, open_source, remove_drafts
from foundry_api.observe.format import format_count
from foundry_api.types.errors import BatchInputInvalid, BatchInUse, BatchStorageFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from foundry_api.batch.engine import BatchEngine
    from foundry_api.batch.journal import PublishedOutput
    from foundry_api.batch.sources import CheckProgress, CopyMode, Source
    from foundry_api.batch.statistics import BatchStatistics
    from foundry_api.batch.types import BatchOptions

__all__ = ["BatchJob", "BatchSummary"]

# The copy of a pipe, in the journal's directory: the input is read several times.
SPOOL = "input"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """The outcome of a run. `done` and `failed` include the lines of earlier runs."""

    total: int
    done: int
    failed: int
    shared: int  # done lines that share the answer of an identical request
    resumed: int  # lines that were finished before this run
    elapsed_s: float  # of this run
    tokens: int  # of the answers of this run
    output: Path | None = None  # None for standard output
    errors: Path | None = None  # None if no line failed, and for standard output
    statistics: BatchStatistics | None = None  # of the whole batch; None for standard output


class _CheckAbandoned(Exception):
    """The run that started a check has ended."""


class BatchJob:
    """A batch over files. It is run once.

    Args:
        options: What to run.
        shared: Whether other processes may work on the batch at the same time.
        restart: Whether to discard earlier answers.
        retry_failed: Whether to retry lines that failed.
        reuse_spooled_input: Whether to read the copy of standard input, or of another pipe, that an
            earlier run made.
        on_progress: Called some times a second, in the event loop; while the input is checked, in
            another thread.
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
        self._on_progress: Callable[[BatchProgress], None] = on_progress or (lambda _: None)
        self._meter = ProgressMeter()
        self._is_leaving = False
        self._report: CheckReport | None = None

    async def run(self, engine: BatchEngine) -> BatchSummary:
        """Answer all unfinished lines, and write the output. What was answered is always kept."""
        with SerialExecutor() as thread:
            try:
                await thread(check_files, self._options, restart=self._restart)
                source = await thread(self._open_source)
                if self._options.to_stream:
                    return await self._run_to_stream(source, engine, thread)
                journal = await thread(self._open_journal, source)
                try:
                    if not self._shared:  # no other process can be writing a draft
                        await thread(remove_drafts, self._options.directory / SPOOL)
                    if self._restart:
                        await thread(delete_saved_answers, self._options.directory)
                    return await self._run_with_journal(source, journal, engine, thread)
                finally:
                    await thread(journal.close)
            finally:
                # The executor waits for its thread, which cannot be cancelled: the flag ends a
                # check, or the wait for a pipe, that still runs there.
                self._is_leaving = True

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
            statistics=statistics,
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
                    f"{options.input.path} has already been read, and no copy of it was stored",
                    field="path",
                    hint="Run the command that started the batch again, with the same input.",
                )
            return open_source(options.input, is_abandoned=lambda: self._is_leaving)
        if self._restart:
            _check_not_running(options.directory)  # a restart replaces the copy of a pipe
        directory, spool = options.directory, options.directory / SPOOL
        has_journal = (directory / JOURNAL).exists()
        starts_over = self._restart or not has_journal
        copy_mode: CopyMode = "verify"
        if self._reuse_spooled_input:
            copy_mode = "reuse"
        elif starts_over:
            copy_mode = "replace"
        try:
            return open_source(
                options.input,
                spool=spool,
                copy_mode=copy_mode,
                is_abandoned=lambda: self._is_leaving,
                accept=self._check_before_start if starts_over and options.strict else None,
            )
        except BatchInputInvalid:
            if not has_journal:  # a batch whose input is refused leaves no files
                with suppress(OSError):
                    spool.unlink()
                    directory.rmdir()
            raise

    def _check_before_start(self, source: Source) -> None:
        # A start makes a directory, and a restart discards earlier answers, so an invalid input is
        # refused before that.
        if source.is_seekable:
            self._report = self._check(source)

    def _open_journal(self, source: Source) -> Journal:
        is_checked = self._options.check and source.is_seekable
        # A digest of the options that turn lines into requests. The path does not count.
        input_options = msgspec.structs.replace(self._options.input, path="")
        encoded_options = msgspec.json.encode(input_options, order="sorted")
        return Journal.open(
            self._options,
            fingerprint=source.compute_fingerprint() if is_checked else None,
            request_digest=hashlib.blake2b(encoded_options, digest_size=16).hexdigest(),
            shared=self._shared,
            restart=self._restart,
        )

    def _ensure_checked(self, source: Source, journal: Journal) -> CheckResult | None:
        """Check the input, unless an earlier run did; None if the options skip the check."""
        if not (self._options.check and source.is_seekable):
            return None
        # With --strict, a result with bad lines is not enough: the error has to name them.
        known = journal.check_result
        if known is None or (known.bad and self._options.strict):
            report = self._report or self._check(source)
            journal.store_check_result(
                report.lines, report.models, report.duplicates, bad=report.bad
            )
            known = journal.check_result
        return known

    def _check(self, source: Source) -> CheckReport:
        def on_check_progress(progress: CheckProgress) -> None:
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

        report = check(source, on_progress=on_check_progress)
        if report.bad and self._options.strict:
            bad_lines = format_count(report.bad, "invalid line")
            raise BatchInputInvalid(
                f"{source.name} is refused: it has {bad_lines}",
                hint="Correct these lines, or omit --strict: they then go to the error file.",
            ).with_problems(tuple(problem.message for problem in report.problems))
        return report


def _check_not_running(directory: Path) -> None:
    try:
        running = read_status(directory).running
    except BatchStorageFailed:
        return  # there is no batch, or opening its journal will report what is wrong
    if running:
        raise BatchInUse("another process works on this batch", hint="Wait for it.")


async def _publish(journal: Journal, total: int, thread: SerialExecutor) -> PublishedOutput:
    # Another runner may be publishing. This polls instead of waiting for the lock in the thread,
    # which could not be cancelled.
    while True:
        try:
            return await thread(journal.publish, total)
        except BatchInUse:
            await asyncio.sleep(POLL_INTERVAL_S)
