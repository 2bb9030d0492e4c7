"""What is answered, and where that lies, so that a batch goes on after whatever happens."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from foundry_api.batch.journal.database import (
    connected,
    forget,
    locked,
    meta,
    meta_of,
    put,
    refuse_unusable,
    storage,
    transaction,
)
from foundry_api.batch.journal.output import OwnFiles, Publisher
from foundry_api.batch.journal.results import Claims, Rows
from foundry_api.batch.journal.runners import Runner
from foundry_api.batch.journal.segments import Shelf
from foundry_api.batch.journal.statistics import counted, figured
from foundry_api.batch.journal.types import Checked, Published
from foundry_api.types.errors import BatchChanged, BatchInUse, BatchStorageFailed

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from foundry_api.batch.journal.types import CancelHow, Counts
    from foundry_api.batch.statistics import Figures
    from foundry_api.batch.types import BatchOptions, Finished

__all__ = ["LEASE_S", "Journal", "keep_content"]


def keep_content(
    database: sqlite3.Connection,
    options: BatchOptions,
    content: tuple[str | None, str],
    *,
    alone: bool,
) -> None:
    """Keep what is to be answered. While nothing is, another input may take its place.

    Args:
        database: The journal.
        options: What the batch is told.
        content: The input's fingerprint, None if it was not read; and that of what makes requests.
        alone: Whether nobody else works on the batch; who does is answering what it was begun with.

    Raises:
        BatchChanged: Lines of another input are answered, or of this one asked otherwise.
    """
    before = meta_of(database, "content", tuple[str | None, str])
    if before is not None and (not alone or _any_finished(database)):
        _compare(options, before, content)
    if before != content:
        put(database, "content", content)
        forget(database, "checked", "total")


def _compare(
    options: BatchOptions, before: tuple[str | None, str], content: tuple[str | None, str]
) -> None:
    if before[1] != content[1]:
        raise BatchChanged(
            "the model, the template or another option that makes the requests is not what"
            f" the journal in {options.directory} was begun with"
        )
    if None not in {content[0], before[0]} and content[0] != before[0]:
        raise BatchChanged(
            f"{options.input.path} is not what it was when its first lines were answered"
        )


def _any_finished(database: sqlite3.Connection) -> bool:
    return database.execute("select 1 from result limit 1").fetchone() is not None


LEASE_S = 60.0
"""A runner that gave no sign for so long is no longer waited for. A dead one never is."""

LOCK_WAIT_S = 10.0
PUBLISH_WAIT_S = 0.5


class Journal:
    """The journal of a batch, as one of its runners. A context manager, which closes it.

    Every method blocks, for up to some milliseconds, `publish` and `figures` for longer. They may
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
        clock: Callable[[], float],
        ticks: Callable[[], float],
        lease_s: float,
    ) -> None:
        self.directory = directory = options.directory
        output = options.output_path
        self._options = options
        self._database = database
        self._runner = runner
        self._clock = clock
        self._rows = Rows(database, runner.number)
        self._claims = Claims(directory, database, runner, ticks=ticks, lease_s=lease_s)
        self._shelf = Shelf(directory, output, database, runner)
        self._files = OwnFiles(database, {"output": output, "errors": options.errors_path})
        self._publisher = Publisher(
            database, options, shelf=self._shelf, files=self._files, clock=clock
        )

    @classmethod
    def open(
        cls,
        options: BatchOptions,
        *,
        fingerprint: str | None,
        asked: str,
        shared: bool = False,
        restart: bool = False,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        lease_s: float = LEASE_S,
    ) -> Self:
        """Begin or go on with a batch, as a runner of it.

        Args:
            options: What the batch is told; kept, for `read_status`.
            fingerprint: Of the content of the input; None if it was not read.
            asked: Of what makes requests of it.
            shared: Whether other processes may work on it at the same time.
            restart: Whether to forget what was answered, and to replace an output that is there.
            clock: Seconds since the epoch.
            ticks: Seconds of a clock that never goes back; no other process needs the same.
            lease_s: Seconds without a sign after which another runner's claims lapse.

        Raises:
            BatchInUse: Another process works on it, and not both share it.
            BatchChanged: The input or what makes requests of it is not what it was, or the output
                is not what was written.
            BatchStorageFailed: The journal cannot be used, or the output is there without having
                been written by this batch.
        """
        directory = options.directory
        with storage(directory):
            directory.mkdir(mode=0o700, exist_ok=True)
            refuse_unusable(directory)
            with locked(directory, LOCK_WAIT_S):
                database = connected(directory)
                try:
                    runner = Runner(directory, database, shared=shared, now=clock())
                    self = cls(options, database, runner, clock=clock, ticks=ticks, lease_s=lease_s)
                    self._begin((fingerprint, asked), restart=restart)
                except BaseException:
                    database.close()
                    raise
                return self

    def _begin(self, content: tuple[str | None, str], *, restart: bool) -> None:
        try:
            with transaction(self._database):
                if restart:
                    self._forget_all()
                keep_content(self._database, self._options, content, alone=not self._runner.others)
                self._files.refuse_foreign()
                self._shelf.refuse_gone()
                put(self._database, "options", self._options.absolute)
                if meta(self._database, "began") is None:
                    put(self._database, "began", self._clock())
            self._shelf.remove_unused()
        except BaseException:
            self._runner.leave(self._clock())
            raise

    def _forget_all(self) -> None:
        if self._runner.others:
            raise BatchInUse("another process works on this batch", hint="Wait for it.")
        self._rows.forget_all()
        self._files.adopt()

    @property
    def check_result(self) -> Checked | None:
        """What a check of this very input found before; None without one."""
        with storage(self.directory):
            return meta_of(self._database, "checked", Checked)

    def checked(
        self,
        total: int,
        models: Mapping[str, int],
        duplicates: AbstractSet[int],
        *,
        bad: int = 0,
    ) -> None:
        """Keep what the check of the whole input found."""
        found = Checked(total=total, models=dict(models), duplicates=frozenset(duplicates), bad=bad)
        with storage(self.directory), transaction(self._database):
            put(self._database, "checked", found)
            put(self._database, "total", total)

    def finished(self, first: int, count: int) -> Mapping[int, int]:
        """The digests of the lines that are finished, by index, from `first` on for `count`."""
        with storage(self.directory):
            return self._rows.finished(first, count)

    def claim(self, block: int) -> bool:
        """Ask for a block of `BLOCK_LINES` lines; whether it is this runner's.

        It is this runner's until it closes the journal or dies, or gives no sign for the time of
        the lease. Then others may take it over; what is recorded by both is still there once.
        """
        with storage(self.directory):
            return self._claims.claim(block)

    def record(self, results: Sequence[Finished]) -> int:
        """Keep what is finished, all or nothing. It survives a loss of power when this returns.

        Returns:
            How many were new. A line that is finished stays as it is.
        """
        if not results:
            return 0
        with storage(self.directory):
            places = self._shelf.append([each.output for each in results if not each.failed])
            return self._rows.record(results, places, self._clock())

    def beat(self, progress: bytes = b"") -> CancelHow | None:
        """Give a sign of life, and hear whether anybody asked for the end.

        Args:
            progress: JSON for `read_status`.
        """
        with storage(self.directory):
            return self._runner.beat(progress, self._clock())

    def complete(self, total: int) -> bool:
        """Whether each of the first `total` lines is finished."""
        with storage(self.directory):
            return self._rows.complete(total)

    def forget_failed(self) -> int:
        """Forget the lines that failed, so that they are asked again; how many there were.

        Raises:
            BatchInUse: Another process is writing the output.
        """
        with storage(self.directory), locked(self.directory, LOCK_WAIT_S):
            return self._rows.forget_failed()

    def counts(self) -> Counts:
        """What is finished. A second for a million lines."""
        with storage(self.directory):
            return counted(self._database)

    def figures(self) -> Figures:
        """The batch in figures. Seconds for a million lines, and little memory."""
        with storage(self.directory):
            return figured(self._database)

    def publish(self, total: int) -> Published:
        """Write the output and the error file, each whole or not at all.

        Nothing happens if they hold everything already.

        Args:
            total: Lines of the input. Each has to be finished.

        Raises:
            BatchChanged: The output is not what was written before.
            BatchInUse: Another process is writing it. Ask again.
        """
        with storage(self.directory), locked(self.directory, PUBLISH_WAIT_S):
            if not self._rows.complete(total):
                raise BatchStorageFailed("the batch is not complete", hint="Run it again.")
            put(self._database, "total", total)
            return self._publisher.publish()

    def close(self) -> None:
        """Leave. What this runner claimed and did not finish is free for others."""
        with storage(self.directory):
            try:
                self._shelf.leave()
            finally:
                try:
                    self._runner.leave(self._clock())
                finally:
                    self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
