"""Who knows which lines are finished: a journal on disk, or nobody, where answers are streamed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, BinaryIO, Protocol

from foundry_api.types.errors import BatchStorageFailed
from foundry_api.types.plain_text import escape_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from foundry_api.batch.journal import CancelMode
    from foundry_api.batch.types import BatchLineResult

__all__ = ["ResultStore", "StdoutStore"]


class ResultStore(Protocol):
    """What a run asks and tells about lines. All calls block, and come from one thread."""

    def get_finished(self, first: int, count: int) -> Mapping[int, int]:
        """The digests of the finished lines among some, by their index."""
        ...

    def claim(self, block: int) -> bool:
        """Take a block of lines for this runner; False if another one has it."""
        ...

    def record(self, results: Sequence[BatchLineResult]) -> int:
        """Make finished lines safe, all or none. How many were not known before.

        Raises:
            BatchStorageFailed: They cannot be written.
        """
        ...

    def heartbeat(self, progress: bytes) -> CancelMode | None:
        """Tell that this runner lives, and how far it is. Whether it was asked to end."""
        ...

    def is_complete(self, total: int) -> bool:
        """Whether all lines are finished."""
        ...


class StdoutStore:
    """Writes answers as they come, and remembers nothing: for standard output.

    A terminal gets the same JSON with what it would obey escaped.

    Args:
        stream: Where to; default standard output.
    """

    def __init__(self, stream: BinaryIO | None = None) -> None:
        self._stream = stream or sys.stdout.buffer
        self._is_terminal = self._stream.isatty()
        self._written = 0

    def get_finished(self, first: int, count: int) -> Mapping[int, int]:  # noqa: ARG002 - a Ledger's
        """None."""
        return {}

    def claim(self, block: int) -> bool:  # noqa: ARG002 - a Ledger's
        """There is nobody else."""
        return True

    def record(self, results: Sequence[BatchLineResult]) -> int:
        """Write lines.

        Raises:
            BatchStorageFailed: Nobody reads them any more, or the disk behind it is full.
        """
        lines = b"".join(result.output + b"\n" for result in results)
        if self._is_terminal:
            lines = escape_json(lines.decode()).encode()
        try:
            self._stream.write(lines)
            self._stream.flush()
        except BrokenPipeError:
            raise  # the command line ends quietly when its reader leaves
        except OSError as error:
            raise BatchStorageFailed(
                f"standard output cannot be written: {error.strerror or error}",
                hint="Answers that go to a stream are kept nowhere else. Name a file with -o.",
            ) from error
        self._written += len(results)
        return len(results)

    def heartbeat(self, progress: bytes) -> CancelMode | None:  # noqa: ARG002 - a Ledger's
        """Nobody looks, and nobody asks."""
        return None

    def is_complete(self, total: int) -> bool:
        """Whether so many lines were written."""
        return self._written >= total
