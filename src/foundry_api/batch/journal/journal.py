"""The journal of a batch: it stores every result, so that a run can resume after any failure."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from foundry_api.batch.journal.database import (
    check_usable,
    delete_meta,
    get_meta,
    get_meta_as,
    journal_lock,
    open_or_create,
    set_meta,
    transaction,
    translate_storage_errors,
)
from foundry_api.batch.journal.output import OutputOwnership, Publisher
from foundry_api.batch.journal.results import ResultRows
from foundry_api.batch.journal.runners import Claims, Runner
from foundry_api.batch.journal.segments import SegmentStore
from foundry_api.batch.journal.statistics import compute_statistics, count_results
from foundry_api.batch.journal.types import CheckResult, PublishedOutput
from foundry_api.types.errors import BatchInUse, BatchMismatch, BatchStorageFailed

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from foundry_api.batch.journal.types import CancelMode, ResultCounts
    from foundry_api.batch.statistics import BatchStatistics
    from foundry_api.batch.types import BatchLineResult, BatchOptions

__all__ = ["LEASE_S", "Journal"]

# A runner without a heartbeat for this long loses its claims. A dead one loses them at once.
LEASE_S = 60.0
LOCK_WAIT_S = 10.0
# Another runner that is publishing does the same work, so it is not worth waiting for.
PUBLISH_WAIT_S = 0.5


class Journal:
    """The journal of a batch, opened by one of its runners. A context manager.

    Every method blocks for milliseconds, `publish` and `get_statistics` for longer. Any thread may
    call them, one at a time. Each raises `BatchStorageFailed` if the disk or the database fails;
    results recorded before are safe, and the call may be repeated.
    """

    def __init__(
        self,
        options: BatchOptions,
        database: sqlite3.Connection,
        runner: Runner,
        *,
        wall_clock: Callable[[], float],
        monotonic: Callable[[], float],
        lease_s: float,
    ) -> None:
        self.directory = directory = options.directory
        output = options.output_path
        self._options = options
        self._database = database
        self._runner = runner
        self._wall_clock = wall_clock
        self._rows = ResultRows(database, runner.number)
        self._claims = Claims(directory, database, runner, monotonic=monotonic, lease_s=lease_s)
        self._segments = SegmentStore(directory, output, database, runner)
        self._files = OutputOwnership(database, {"output": output, "errors": options.errors_path})
        self._publisher = Publisher(
            database, options, segments=self._segments, files=self._files, wall_clock=wall_clock
        )

    @classmethod
    def open(
        cls,
        options: BatchOptions,
        *,
        fingerprint: str | None,
        request_digest: str,
        shared: bool = False,
        restart: bool = False,
        wall_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        lease_s: float = LEASE_S,
    ) -> Self:
        """Start or resume a batch as one of its runners.

        `fingerprint` identifies the content of the input, None if it was not read.
        `request_digest` identifies the options that turn it into requests. `restart` forgets all
        results, and lets existing output files be replaced.
        """
        directory = options.directory
        with translate_storage_errors(directory):
            directory.mkdir(mode=0o700, exist_ok=True)
            check_usable(directory)
            with journal_lock(directory, LOCK_WAIT_S):
                database = open_or_create(directory)
                try:
                    runner = Runner(directory, database, shared=shared, now=wall_clock())
                    self = cls(
                        options,
                        database,
                        runner,
                        wall_clock=wall_clock,
                        monotonic=monotonic,
                        lease_s=lease_s,
                    )
                    self._initialize((fingerprint, request_digest), restart=restart)
                except BaseException:
                    database.close()
                    raise
                return self

    def _initialize(self, content: tuple[str | None, str], *, restart: bool) -> None:
        try:
            with transaction(self._database):
                if restart:
                    self._forget_all()
                self._store_content(content)
                self._files.check_not_foreign()
                self._segments.check_output_present()
                set_meta(self._database, "options", self._options.absolute)
                if get_meta(self._database, "began") is None:
                    set_meta(self._database, "began", self._wall_clock())
            self._segments.remove_unused()
        except BaseException:
            self._runner.close(self._wall_clock())
            raise

    def _forget_all(self) -> None:
        if self._runner.live_peers:
            raise BatchInUse("another process works on this batch", hint="Wait for it.")
        self._rows.forget_all()
        self._files.take_ownership()

    def _store_content(self, content: tuple[str | None, str]) -> None:
        """Store the identity of the input and the requests, or refuse it if it changed."""
        before = get_meta_as(self._database, "content", tuple[str | None, str])
        has_results = self._database.execute("select 1 from result limit 1").fetchone() is not None
        # Until a line is finished another input may replace this one, except under another runner,
        # which keeps answering the input that it was started with.
        if before is not None and (self._runner.live_peers or has_results):
            if before[1] != content[1]:
                raise BatchMismatch(
                    "the model, the template or another option that shapes the requests differs"
                    f" from those of the batch in {self.directory}"
                )
            if None not in {content[0], before[0]} and content[0] != before[0]:
                raise BatchMismatch(
                    f"{self._options.input.path} has changed since its first lines were answered"
                )
        if before != content:
            set_meta(self._database, "content", content)
            delete_meta(self._database, "checked", "total")

    @property
    def check_result(self) -> CheckResult | None:
        """The stored check of exactly this input, if there is one."""
        with translate_storage_errors(self.directory):
            return get_meta_as(self._database, "checked", CheckResult)

    def store_check_result(
        self,
        total: int,
        models: Mapping[str, int],
        duplicates: AbstractSet[int],
        *,
        bad: int = 0,
    ) -> None:
        check_result = CheckResult(
            total=total, models=dict(models), duplicates=frozenset(duplicates), bad=bad
        )
        with translate_storage_errors(self.directory), transaction(self._database):
            set_meta(self._database, "checked", check_result)
            set_meta(self._database, "total", total)

    def get_finished(self, first: int, count: int) -> Mapping[int, int]:
        """Return the digests of finished lines by index, for `count` indexes from `first`."""
        with translate_storage_errors(self.directory):
            return self._rows.get_finished(first, count)

    def claim(self, block: int) -> bool:
        """Claim a block of `BLOCK_LINES` lines; return whether this runner may process it.

        The claim lapses when this runner closes the journal, dies, or sends no heartbeat for the
        lease. If two runners finish the same line, the first result stays.
        """
        with translate_storage_errors(self.directory):
            return self._claims.claim(block)

    def record(self, results: Sequence[BatchLineResult]) -> int:
        """Store finished lines durably, all or none; return how many are new.

        A line that is already finished keeps its first result.
        """
        if not results:
            return 0
        with translate_storage_errors(self.directory):
            # The answers are on disk before the rows that refer to them are committed.
            locations = self._segments.append(
                [result.output for result in results if not result.failed]
            )
            return self._rows.record(results, locations, self._wall_clock())

    def heartbeat(self, progress: bytes = b"") -> CancelMode | None:
        """Record that this runner is alive; return the requested cancellation, if any.

        `progress` is JSON, which `read_status` returns.
        """
        with translate_storage_errors(self.directory):
            return self._runner.heartbeat(progress, self._wall_clock())

    def is_complete(self, total: int) -> bool:
        """Whether each of the first `total` lines is finished."""
        with translate_storage_errors(self.directory):
            return self._rows.is_complete(total)

    def forget_failed(self) -> int:
        """Delete failed lines, so that they are sent again; return how many there were."""
        with translate_storage_errors(self.directory), journal_lock(self.directory, LOCK_WAIT_S):
            return self._rows.forget_failed()

    def get_counts(self) -> ResultCounts:
        """Count the finished lines. Takes a second for a million."""
        with translate_storage_errors(self.directory):
            return count_results(self._database)

    def get_statistics(self) -> BatchStatistics:
        """Compute the statistics. Takes seconds for a million lines, and little memory."""
        with translate_storage_errors(self.directory):
            return compute_statistics(self._database)

    def publish(self, total: int) -> PublishedOutput:
        """Write the output and the error file, each whole or not at all, unless they are current.

        All `total` lines of the input must be finished. Raises `BatchInUse` while another runner
        publishes; call it again then.
        """
        with translate_storage_errors(self.directory), journal_lock(self.directory, PUBLISH_WAIT_S):
            if not self._rows.is_complete(total):
                raise BatchStorageFailed("the batch is not complete", hint="Run it again.")
            set_meta(self._database, "total", total)
            return self._publisher.publish()

    def close(self) -> None:
        """Stop being a runner. Unfinished claims become free for others."""
        with translate_storage_errors(self.directory):
            try:
                self._segments.close()
            finally:
                try:
                    self._runner.close(self._wall_clock())
                finally:
                    self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
