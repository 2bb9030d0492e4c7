"""Where a run records its results: in a journal, or on standard output."""

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
    """Records finished lines. All methods block, and are called in one thread."""

    def get_finished(self, first: int, count: int) -> Mapping[int, int]:
        """Return the digests of the finished lines in a range, by their index."""
        ...

    def claim(self, block: int) -> bool:
        """Claim a block of lines for this runner; False if another one has it."""
        ...

    def record(self, results: Sequence[BatchLineResult]) -> int:
        """Store all results or none, and return how many lines were new."""
        ...

    def heartbeat(self, progress: bytes) -> CancelMode | None:
        """Store this runner's progress, and return a request to cancel, if there is one."""
        ...

    def is_complete(self, total: int) -> bool: ...


class StdoutStore:
    """Writes results to a stream, and remembers none of them."""

    def __init__(self, stream: BinaryIO | None = None) -> None:
        self._stream = stream or sys.stdout.buffer
        self._is_terminal = self._stream.isatty()
        self._written = 0

    def get_finished(self, first: int, count: int) -> Mapping[int, int]:  # noqa: ARG002 - stores nothing
        return {}

    def claim(self, block: int) -> bool:  # noqa: ARG002 - stores nothing
        return True

    def record(self, results: Sequence[BatchLineResult]) -> int:
        lines = b"".join(result.output + b"\n" for result in results)
        if self._is_terminal:  # answers may contain control sequences, which it would obey
            lines = escape_json(lines.decode()).encode()
        try:
            self._stream.write(lines)
            self._stream.flush()
        except BrokenPipeError:
            raise  # the command line exits quietly when its reader does
        except OSError as error:
            raise BatchStorageFailed(
                f"standard output cannot be written: {error.strerror or error}",
                hint="Answers on standard output are stored nowhere else. Name a file with -o.",
            ) from error
        self._written += len(results)
        return len(results)

    def heartbeat(self, progress: bytes) -> CancelMode | None:  # noqa: ARG002 - stores nothing
        return None

    def is_complete(self, total: int) -> bool:
        return self._written >= total
