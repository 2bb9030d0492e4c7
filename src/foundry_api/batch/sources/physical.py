"""The lines of a file of CSV, some of which are rows, and some of which are pieces of rows."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from foundry_api.batch.sources.reading import MAX_LINE_BYTES, line_pieces, rest_of_line
from foundry_api.batch.sources.written_lines import TOO_LONG

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator

__all__ = ["UNFIT", "PhysicalLines"]

UNFIT = f"{TOO_LONG}, or a quote in it is never closed"


class PhysicalLines:
    """The lines, and what the current row is made of. A row that is too long is not held.

    Of such a row only whether a quote is open is told further, which is how its end is found.

    Args:
        file: What they are read from.

    Attributes:
        is_beyond: Whether the current row is too long.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._pieces: list[bytes] = []
        self._size = 0
        self.is_beyond = False

    def begin(self) -> None:
        """Another row begins."""
        self._pieces.clear()
        self._size = 0
        self.is_beyond = False

    @property
    def content(self) -> bytes:
        """The row's bytes without its end, or a digest of one that is too long."""
        return b"".join(self._pieces).rstrip(b"\r\n")

    def __iter__(self) -> Iterator[str]:
        for piece in line_pieces(self._file):
            self._size += len(piece)
            if self._size > MAX_LINE_BYTES:
                self.is_beyond = True
                yield self._skipped(piece)
            else:
                self._pieces.append(piece)
                yield piece.decode("latin-1")

    def _skipped(self, piece: bytes) -> str:
        digest, quotes = rest_of_line(self._file, piece)
        self._pieces.append(digest)
        self._pieces = [blake2b(b"".join(self._pieces), digest_size=16).digest()]
        return '"' if quotes % 2 else ""
