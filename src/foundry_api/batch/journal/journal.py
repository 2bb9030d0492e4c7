"""What is answered, and where that lies, so that a batch goes on after whatever happens."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from foundry_api.batch.journal.told import CancelHow, Checked, Counts, Figures, Published
    from foundry_api.batch.lines import Finished
    from foundry_api.batch.options import BatchOptions

__all__ = ["LEASE_S", "Journal"]

LEASE_S = 60.0
"""A runner that gave no sign for so long is no longer waited for. A dead one never is."""


class Journal:
    """The journal of a batch, as one of its runners. A context manager, which closes it.

    Every method blocks, for up to some milliseconds, `publish` and `figures` for longer. They may
    be called from any thread, from one at a time.

    Raises:
        BatchStorageFailed: By every method: the journal or the output cannot be written or read,
            for instance because the disk is full. What was recorded before is kept, and the same
            call may be made again.
    """

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
        raise NotImplementedError

    @property
    def directory(self) -> Path:
        """Where it lies."""
        raise NotImplementedError

    @property
    def check_result(self) -> Checked | None:
        """What a check of this very input found before; None without one."""
        raise NotImplementedError

    def checked(
        self,
        total: int,
        models: Mapping[str, int],
        duplicates: AbstractSet[int],
        *,
        bad: int = 0,
    ) -> None:
        """Keep what the check of the whole input found."""
        raise NotImplementedError

    def finished(self, first: int, count: int) -> Mapping[int, int]:
        """The digests of the lines that are finished, by index, from `first` on for `count`."""
        raise NotImplementedError

    def claim(self, block: int) -> bool:
        """Ask for a block of `BLOCK_LINES` lines; whether it is this runner's.

        Of a journal that is not shared, every block is. Else it is this runner's until it closes
        the journal, or gives no sign for the time of the lease. Then others may take it over; what
        is recorded by both is still there once.
        """
        raise NotImplementedError

    def record(self, results: Sequence[Finished]) -> int:
        """Keep what is finished, all or nothing. It survives a loss of power when this returns.

        Returns:
            How many were new. A line that is finished stays as it is.
        """
        raise NotImplementedError

    def beat(self, progress: bytes = b"") -> CancelHow | None:
        """Give a sign of life, and hear whether anybody asked for the end.

        Args:
            progress: JSON for `read_status`.
        """
        raise NotImplementedError

    def complete(self, total: int) -> bool:
        """Whether each of the first `total` lines is finished."""
        raise NotImplementedError

    def forget_failed(self) -> int:
        """Forget the lines that failed, so that they are asked again; how many there were."""
        raise NotImplementedError

    def counts(self) -> Counts:
        """What is finished. A second for a million lines."""
        raise NotImplementedError

    def figures(self) -> Figures:
        """The batch in figures. Seconds for a million lines, and little memory."""
        raise NotImplementedError

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
        raise NotImplementedError

    def close(self) -> None:
        """Leave. What this runner claimed and did not finish is free for others."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
