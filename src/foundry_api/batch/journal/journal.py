"""What is answered, and where that lies, so that a batch goes on after whatever happens."""

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
from foundry_api.batch.journal.results import Claims, ResultRows
from foundry_api.batch.journal.runners import Runner
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

__all__ = ["LEASE_S", "Journal", "store_fingerprint"]


def store_fingerprint(
    database: sqlite3.Connection,
    options: BatchOptions,
    content: tuple[str | None, str],
    *,
    is_only_runner: bool,
) -> None:
    """Keep what is to be answered. While nothing is, another input may take its place.

    Args:
        database: The journal.
        options: What the batch is told.
        content: The input's fingerprint, None if it was not read; and that of what makes requests.
        is_only_runner: Whether nobody else works on the batch. Another runner answers what it was
            started with.

    Raises:
        BatchMismatch: Lines of another input are answered, or of this one asked otherwise.
    """
    before = get_meta_as(database, "content", tuple[str | None, str])
    if before is not None and (not is_only_runner or _has_results(database)):
        _check_unchanged(options, before, content)
    if before != content:
        set_meta(database, "content", content)
        delete_meta(database, "checked", "total")


def _check_unchanged(
    options: BatchOptions, before: tuple[str | None, str], content: tuple[str | None, str]
) -> None:
    if before[1] != content[1]:
        raise BatchMismatch(
            "the model, the template or another option that makes the requests is not what"
            f" the journal in {options.directory} was begun with"
        )
    if None not in {content[0], before[0]} and content[0] != before[0]:
        raise BatchMismatch(
            f"{options.input.path} is not what it was when its first lines were answered"
        )


def _has_results(database: sqlite3.Connection) -> bool:
    return database.execute("select 1 from result limit 1").fetchone() is not None


LEASE_S = 60.0
"""A runner that gave no sign for so long is no longer waited for. A dead one never is."""

LOCK_WAIT_S = 10.0
PUBLISH_WAIT_S = 0.5


class Journal:
    """The journal of a batch, as one of its runners. A context manager, which closes it.

    Every method blocks for some milliseconds, `publish` and `get_statistics` for longer. They may
    be called from any thread, from one at a time.

    Raises:
        BatchStorageFailed: By every method: the journal or the output cannot be written or read,
            for instance because the disk is full. What was recorded before is kept, and the same
            call may be made again.
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
        """Begin or go on with a batch, as a runner of it.

        Args:
            options: What the batch is told; kept, for `read_status`.
            fingerprint: Of the content of the input; None if it was not read.
            request_digest: Of what makes requests of it.
            shared: Whether other processes may work on it at the same time.
            restart: Whether to forget what was answered, and to replace an output that is there.
            wall_clock: Seconds since the epoch.
            monotonic: Seconds of a clock that never goes back; no other process needs the same.
            lease_s: Seconds without a sign after which another runner's claims lapse.

        Raises:
            BatchInUse: Another process works on it, and not both share it.
            BatchMismatch: The input or what makes requests of it is not what it was, or the output
                is not what was written.
            BatchStorageFailed: The journal cannot be used, or the output is there without having
                been written by this batch.
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
                store_fingerprint(
                    self._database,
                    self._options,
                    content,
                    is_only_runner=not self._runner.live_peers,
                )
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

    @property
    def check_result(self) -> CheckResult | None:
        """What a check of this very input found before; None without one."""
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
        """Keep what the check of the whole input found."""
        check_result = CheckResult(
            total=total, models=dict(models), duplicates=frozenset(duplicates), bad=bad
        )
        with translate_storage_errors(self.directory), transaction(self._database):
            set_meta(self._database, "checked", check_result)
            set_meta(self._database, "total", total)

    def get_finished(self, first: int, count: int) -> Mapping[int, int]:
        """The digests of the lines that are finished, by index, from `first` on for `count`."""
        with translate_storage_errors(self.directory):
            return self._rows.get_finished(first, count)

    def claim(self, block: int) -> bool:
        """Ask for a block of `BLOCK_LINES` lines; whether it is this runner's.

        It is this runner's until it closes the journal or dies, or gives no sign for the time of
        the lease. Then others may take it over; what is recorded by both is still there once.
        """
        with translate_storage_errors(self.directory):
            return self._claims.claim(block)

    def record(self, results: Sequence[BatchLineResult]) -> int:
        """Keep what is finished, all or nothing. It survives a loss of power when this returns.

        Returns:
            How many were new. A line that is finished stays as it is.
        """
        if not results:
            return 0
        with translate_storage_errors(self.directory):
            locations = self._segments.append(
                [result.output for result in results if not result.failed]
            )
            return self._rows.record(results, locations, self._wall_clock())

    def heartbeat(self, progress: bytes = b"") -> CancelMode | None:
        """Give a sign of life, and hear whether anybody asked for the end.

        Args:
            progress: JSON for `read_status`.
        """
        with translate_storage_errors(self.directory):
            return self._runner.heartbeat(progress, self._wall_clock())

    def is_complete(self, total: int) -> bool:
        """Whether each of the first `total` lines is finished."""
        with translate_storage_errors(self.directory):
            return self._rows.is_complete(total)

    def forget_failed(self) -> int:
        """Forget the lines that failed, so that they are asked again; how many there were.

        Raises:
            BatchInUse: Another process is writing the output.
        """
        with translate_storage_errors(self.directory), journal_lock(self.directory, LOCK_WAIT_S):
            return self._rows.forget_failed()

    def get_counts(self) -> ResultCounts:
        """What is finished. A second for a million lines."""
        with translate_storage_errors(self.directory):
            return count_results(self._database)

    def get_statistics(self) -> BatchStatistics:
        """The batch in figures. Seconds for a million lines, and little memory."""
        with translate_storage_errors(self.directory):
            return compute_statistics(self._database)

    def publish(self, total: int) -> PublishedOutput:
        """Write the output and the error file, each whole or not at all.

        Nothing happens if they hold everything already.

        Args:
            total: Lines of the input. Each has to be finished.

        Raises:
            BatchMismatch: The output is not what was written before.
            BatchInUse: Another process is writing it. Ask again.
        """
        with translate_storage_errors(self.directory), journal_lock(self.directory, PUBLISH_WAIT_S):
            if not self._rows.is_complete(total):
                raise BatchStorageFailed("the batch is not complete", hint="Run it again.")
            set_meta(self._database, "total", total)
            return self._publisher.publish()

    def close(self) -> None:
        """Leave. What this runner claimed and did not finish is free for others."""
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
