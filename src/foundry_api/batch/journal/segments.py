"""Files of answers: each written by one runner, and only ever appended to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["Segment", "ranges", "synced_directory"]

COPY_BYTES = 1 << 20
BINARY = getattr(os, "O_BINARY", 0)


class Segment:
    """A new file of answers.

    Args:
        path: Where; nothing may be there.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | BINARY
        self._file = os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0)
        self._size = 0

    def append(self, outputs: Iterable[bytes]) -> list[tuple[int, int]]:
        """Write lines, and wait until they are on the disk. Where each lies, and how long it is."""
        places: list[tuple[int, int]] = []
        data = bytearray()
        for output in outputs:
            places.append((self._size + len(data), len(output)))
            data += output
            data += b"\n"
        self._file.seek(self._size)  # what a failed write left is written over
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        os.fsync(self._file.fileno())
        self._size += len(data)
        return places

    def close(self) -> None:
        """Close it."""
        self._file.close()


def ranges(places: Iterable[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """Neighbouring lines of a segment as one range: segment, offset, length with the line ends."""
    current: tuple[int, int, int] | None = None
    for segment, offset, length in places:
        if current is not None and current[0] == segment and sum(current[1:]) == offset:
            current = (segment, current[1], current[2] + length + 1)
            if current[2] < COPY_BYTES:
                continue
            yield current
            current = None
            continue
        if current is not None:
            yield current
        current = (segment, offset, length + 1)
    if current is not None:
        yield current


def synced_directory(directory: Path) -> None:
    """Wait until the names in a directory are on the disk; Windows does that by itself."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
