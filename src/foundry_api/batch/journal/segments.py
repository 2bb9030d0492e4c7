"""Files of answers: each written by one runner, and only ever appended to."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["Segment"]

BINARY = getattr(os, "O_BINARY", 0)


class Segment:
    """A new file of answers.

    One of them becomes the output, so the user's umask says who may read it. Until then the
    directory keeps others away.

    Args:
        path: Where; nothing may be there.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | BINARY
        self._file = os.fdopen(os.open(path, flags, 0o666), "wb", buffering=0)
        self._size = 0

    def append(self, outputs: Iterable[bytes]) -> list[tuple[int, int]]:
        """Write lines, and wait until they are on the disk. Where each lies, and how long it is.

        The same call may be made again after a failure: what that left is written over.
        """
        places: list[tuple[int, int]] = []
        data = bytearray()
        for output in outputs:
            places.append((self._size + len(data), len(output)))
            data += output
            data += b"\n"
        self._file.seek(self._size)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        os.fsync(self._file.fileno())
        self._size += len(data)
        return places

    def close(self) -> None:
        """Close it, without what a failed write left behind the last line."""
        with self._file, suppress(OSError):  # such bytes do no harm: no row names them
            self._file.truncate(self._size)
