"""What is answered, and where that lies, so that a batch goes on after whatever happens."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from foundry_api.batch.journal.content import keep_content
from foundry_api.batch.journal.database import ROW, connected, row_of, storage, transaction
from foundry_api.batch.journal.figuring import counted, figured
from foundry_api.batch.journal.keeping import identity, locked, meta, put, umask
from foundry_api.batch.journal.publishing import gathered, lines_of, write_errors, write_parquet
from foundry_api.batch.journal.runners import Runner, added_runner, known_runners
from foundry_api.batch.journal.segments import Segment, synced_directory
from foundry_api.batch.journal.told import Checked, Published
from foundry_api.errors import BatchChanged, BatchInUse, BatchStorageFailed
from foundry_api.service.private_file import move_into_place

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from foundry_api.batch.figures import Figures
    from foundry_api.batch.journal.told import CancelHow, Counts
    from foundry_api.batch.lines import Finished
    from foundry_api.batch.options import BatchOptions

__all__ = ["BLOCK_LINES", "LEASE_S", "Journal"]

BLOCK_LINES = 256
"""Lines of a block that is claimed: block `n` has the indexes from `n * BLOCK_LINES`."""

LEASE_S = 60.0
"""A runner that gave no sign for so long is no longer waited for. A dead one never is."""

LOCK_WAIT_S = 10.0
PUBLISH_WAIT_S = 600.0


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
        shared: bool,
        clock: Callable[[], float],
        ticks: Callable[[], float],
        lease_s: float,
    ) -> None:
        self.directory = options.directory
        self._options = options
        self._database = database
        self._runner = runner
        self._shared = shared
        self._clock = clock
        self._ticks = ticks
        self._lease_s = lease_s
        self._segment: tuple[int, Segment] | None = None
        self._models: dict[str, int] = {}
        self._seen: dict[int, tuple[float, float]] = {}

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
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(directory, LOCK_WAIT_S):
                return cls._opened(
                    options,
                    (fingerprint, asked),
                    shared=shared,
                    restart=restart,
                    clock=clock,
                    ticks=ticks,
                    lease_s=lease_s,
                )

    @classmethod
    def _opened(
        cls,
        options: BatchOptions,
        content: tuple[str | None, str],
        *,
        shared: bool,
        restart: bool,
        clock: Callable[[], float],
        ticks: Callable[[], float],
        lease_s: float,
    ) -> Self:
        database = connected(options.directory)
        try:
            runner = Runner(options.directory, database, shared=shared, now=clock())
            self = cls(
                options,
                database,
                runner,
                shared=shared,
                clock=clock,
                ticks=ticks,
                lease_s=lease_s,
            )
            try:
                self._prepare(content, restart=restart)
            except BaseException:
                runner.leave(clock())
                raise
        except BaseException:
            database.close()
            raise
        return self

    def _prepare(self, content: tuple[str | None, str], *, restart: bool) -> None:
        with transaction(self._database):
            if restart:
                self._forget_all()
            keep_content(self._database, self._options, content)
            self._refuse_foreign_output(restart=restart)
            put(self._database, "options", self._options)
            if meta(self._database, "began") is None:
                put(self._database, "began", self._clock())
        self._remove_leftovers()

    def _forget_all(self) -> None:
        others = [each for each in known_runners(self.directory, self._database) if each.alive]
        if any(each.number != self._runner.number for each in others):
            raise BatchInUse("another process works on this batch", hint="Wait for it.")
        for table in ("result", "failure", "segment", "claim", "meta"):
            self._database.execute(f"delete from {table}")  # noqa: S608 - names of our own

    def _refuse_foreign_output(self, *, restart: bool) -> None:
        output = Path(self._options.output)
        if output.is_dir():
            raise BatchStorageFailed(f"{output} is a directory", hint="Name a file.")
        written = meta(self._database, "output")
        whole = meta(self._database, "whole")
        if restart or not output.exists():
            if written is not None and whole is not None and not self._path_of(whole).exists():
                raise BatchChanged(f"{output} is gone, and the answers with it")
            return
        if written is None and whole is None:
            raise BatchStorageFailed(
                f"{output} is there, and was not written by this batch",
                hint="Name another output, or replace it with --restart.",
            )
        if self._died_before_noting(written, whole):
            put(self._database, "output", [whole, *identity(output)])
        elif written is not None and written[1:] != identity(output):
            raise BatchChanged(f"{output} is not as this batch left it")

    def _died_before_noting(self, written: list[Any] | None, whole: int | None) -> bool:
        """Whether a publisher died after the output had its name, and before it could say so."""
        if whole is None or self._name_of(whole).exists():
            return False
        return written is None or written[0] != whole

    def _remove_leftovers(self) -> None:
        """Remove what a runner left that died between two steps; those that live have locks."""
        named = {name for (name,) in self._database.execute("select name from segment")}
        numbers = {
            each.number for each in known_runners(self.directory, self._database) if each.alive
        }
        for path in self.directory.glob("part-*.jsonl"):
            owner = int(path.stem.split("-")[1]) if path.stem.split("-")[1].isdigit() else 0
            if path.name not in named and owner not in numbers:
                path.unlink()

    @property
    def check_result(self) -> Checked | None:
        """What a check of this very input found before; None without one."""
        with storage(self.directory):
            told = meta(self._database, "checked")
        return None if told is None else msgspec.convert(told, Checked)

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
            return dict(
                self._database.execute(
                    "select idx, digest from result where idx >= ? and idx < ?",
                    (first, first + count),
                )
            )

    def claim(self, block: int) -> bool:
        """Ask for a block of `BLOCK_LINES` lines; whether it is this runner's.

        It is this runner's until it closes the journal or dies, or gives no sign for the time of
        the lease. Then others may take it over; what is recorded by both is still there once.
        """
        if not self._shared:
            return True  # without asking the disk: there is nobody else
        with storage(self.directory), transaction(self._database):
            row = self._database.execute(
                "select runner from claim where block = ?", (block,)
            ).fetchone()
            if row is not None and row[0] != self._runner.number and self._is_there(row[0]):
                return False
            self._database.execute(
                "insert or replace into claim values (?, ?)", (block, self._runner.number)
            )
            return True

    def _is_there(self, number: int) -> bool:
        """Whether another runner lives, and gave a sign while this one looked."""
        runner = next(
            (
                each
                for each in known_runners(self.directory, self._database)
                if each.number == number
            ),
            None,
        )
        if runner is None or not runner.alive:
            return False
        now = self._ticks()
        sign, since = self._seen.get(number, (None, now))
        if sign != runner.seen:
            self._seen[number] = (runner.seen, now)
            return True
        return now - since < self._lease_s

    def record(self, results: Sequence[Finished]) -> int:
        """Keep what is finished, all or nothing. It survives a loss of power when this returns.

        Returns:
            How many were new. A line that is finished stays as it is.
        """
        if not results:
            return 0
        with storage(self.directory):
            number, segment = self._own_segment()
            answered = [each for each in results if not each.failed]
            places = iter(segment.append(each.output for each in answered))
            with transaction(self._database):
                new = sum(
                    self._insert(each, (0, 0, 0) if each.failed else (number, *next(places)))
                    for each in results
                )
                self._database.execute(
                    "update runner set lines = lines + ?, seen = ? where number = ?",
                    (new, self._clock(), self._runner.number),
                )
            return new

    def _insert(self, each: Finished, place: tuple[int, int, int]) -> int:
        row = row_of(each, place, self._model(each.model))
        new = self._database.execute(ROW, row).rowcount
        if new and each.failed:
            self._database.execute("insert into failure values (?, ?)", (each.index, each.output))
        return new

    def _model(self, name: str) -> int:
        if name not in self._models:
            self._database.execute("insert or ignore into model (name) values (?)", (name,))
            row = self._database.execute("select number from model where name = ?", (name,))
            self._models[name] = row.fetchone()[0]
        return self._models[name]

    def _own_segment(self) -> tuple[int, Segment]:
        if self._segment is None:
            path = self._name_of(self._runner.number)
            segment = Segment(path)
            synced_directory(self.directory)
            self._segment = self._runner.number, segment
            with transaction(self._database):
                self._database.execute(
                    "insert into segment values (?, ?)", (self._runner.number, path.name)
                )
        return self._segment

    def _name_of(self, segment: int) -> Path:
        return self.directory / f"part-{segment:06}.jsonl"

    def _path_of(self, segment: int) -> Path:
        """Where a segment lies: in the directory until its name became the output's."""
        path = self._name_of(segment)
        return path if path.exists() else Path(self._options.output)

    def beat(self, progress: bytes = b"") -> CancelHow | None:
        """Give a sign of life, and hear whether anybody asked for the end.

        Args:
            progress: JSON for `read_status`.
        """
        with storage(self.directory):
            self._database.execute(
                "update runner set seen = ?, progress = ? where number = ?",
                (self._clock(), progress, self._runner.number),
            )
            row = self._database.execute(
                "select cancel from runner where number = ?", (self._runner.number,)
            ).fetchone()
        how: CancelHow | None = row[0]
        return how

    def complete(self, total: int) -> bool:
        """Whether each of the first `total` lines is finished."""
        with storage(self.directory):
            row = self._database.execute("select count(*) from result where idx < ?", (total,))
            return bool(row.fetchone()[0] == total)

    def forget_failed(self) -> int:
        """Forget the lines that failed, so that they are asked again; how many there were."""
        with storage(self.directory), transaction(self._database):
            self._database.execute("delete from failure")
            forgotten = self._database.execute("delete from result where failed").rowcount
            if forgotten:  # though as many fail again, they may be told another reason
                self._database.execute("delete from meta where name = 'signature'")
            return forgotten

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

        Nothing happens if they hold everything already. Of several runners one does it, and the
        others wait.

        Args:
            total: Lines of the input. Each has to be finished.

        Raises:
            BatchChanged: The output is not what was written before.
            BatchInUse: Another process is writing it, and does not end.
        """
        with storage(self.directory), locked(self.directory, PUBLISH_WAIT_S):
            if not self.complete(total):
                raise BatchStorageFailed("the batch is not complete", hint="Run it again.")
            put(self._database, "total", total)
            told = meta(self._database, "published")
            if told is not None and self._is_published():
                return Published.of(told)
            return self._published()

    def _is_published(self) -> bool:
        output = Path(self._options.output)
        signature = meta(self._database, "signature")
        written = meta(self._database, "output")
        return (
            output.exists() and signature == self._signature() and written[1:] == identity(output)
        )

    def _signature(self) -> list[Any]:
        """Of what is finished: other answers, or failures, have another one."""
        row = self._database.execute(
            "select count(*), sum(failed), max(segment), sum(segment) from result"
        ).fetchone()
        return list(row)

    def _published(self) -> Published:
        output, errors = Path(self._options.output), self._options.errors_path
        output.parent.mkdir(parents=True, exist_ok=True)
        if self._is_parquet():
            lines = lines_of(self._database, self._path_of, ordered=self._options.ordered)
            write_parquet(lines, output)
        else:
            self._move_into_output(output)
        failed = write_errors(self._database, errors)
        counts = counted(self._database)
        published = Published(
            output=output,
            lines=counts.done,
            errors=errors if failed else None,
            failed=failed,
            at=self._clock(),
        )
        with transaction(self._database):
            put(self._database, "output", [meta(self._database, "whole"), *identity(output)])
            put(self._database, "signature", self._signature())
            put(self._database, "published", published)
        self._remove_superseded()
        return published

    def _move_into_output(self, output: Path) -> None:
        """Gather all answers in one segment, and let it become the output."""
        number = self._number()
        whole = self._name_of(number)
        ordered = self._options.ordered
        gathered(self._database, self._path_of, whole, number, ordered=ordered)
        whole.chmod(0o666 & ~umask())
        move_into_place(whole, output)
        synced_directory(output.resolve().parent)

    def _number(self) -> int:
        """A number that no runner and no segment has: that of a runner that did nothing."""
        return added_runner(self._database, shared=True, now=self._clock(), ended=self._clock())

    def _remove_superseded(self) -> None:
        """Remove the segments that no row names any more."""
        used = {each for (each,) in self._database.execute("select distinct segment from result")}
        for number, name in self._database.execute("select number, name from segment").fetchall():
            if number not in used and number != self._runner.number:
                (self.directory / name).unlink(missing_ok=True)
                self._database.execute("delete from segment where number = ?", (number,))
        if self._segment is not None and self._runner.number not in used:
            self._segment[1].close()
            self._name_of(self._runner.number).unlink(missing_ok=True)
            self._database.execute("delete from segment where number = ?", (self._runner.number,))
            self._segment = None

    def _is_parquet(self) -> bool:
        chosen = self._options.output_format
        return chosen == "parquet" or (
            chosen == "auto" and self._options.output.endswith(".parquet")
        )

    def close(self) -> None:
        """Leave. What this runner claimed and did not finish is free for others."""
        if self._segment is not None:
            self._segment[1].close()
            self._segment = None
        with storage(self.directory):
            try:
                self._runner.leave(self._clock())
            finally:
                self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
