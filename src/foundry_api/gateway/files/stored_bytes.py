"""How many bytes the files of each key take up."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MIN_FILE_BYTES", "StoredBytes", "measure_directory"]

# A smaller file counts as this much: it takes a block of the disk and a row. Else a client could
# store any number.
MIN_FILE_BYTES = 16 * 1024


class StoredBytes:
    """A running count of the bytes of files and journals.

    To look at the directory would take longer with each file that is in it. Only the thread of the
    files changes it.

    Attributes:
        total: Those of all keys.
    """

    def __init__(self) -> None:
        self.total = 0
        self._by_owner: Counter[str | None] = Counter()
        self._journals: dict[str, int] = {}

    def get(self, owner: str | None) -> int:
        """Return the bytes of a key; None for what was stored without keys."""
        return self._by_owner[owner]

    def add(self, owner: str | None, size: int) -> None:
        """Count a file."""
        self._change(owner, max(MIN_FILE_BYTES, size))

    def remove(self, owner: str | None, size: int) -> None:
        """Count a file no longer."""
        self._change(owner, -max(MIN_FILE_BYTES, size))

    def set_journal(self, name: str, owner: str | None, size: int) -> None:
        """Count the journal of a batch with its present size; 0 if it is deleted."""
        before = self._journals.pop(name, 0)
        if size:
            self._journals[name] = size
        self._change(owner, size - before)

    def _change(self, owner: str | None, change: int) -> None:
        self.total += change
        self._by_owner[owner] += change
        if not self._by_owner[owner]:
            del self._by_owner[owner]


def measure_directory(directory: Path) -> int:
    """Return the bytes of the files in a directory; 0 if there is none. Blocks."""
    total = 0
    # A batch may delete the directory, or files in it, meanwhile.
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                total += (
                    measure_directory(directory / entry.name)
                    if entry.is_dir(follow_symlinks=False)
                    else max(MIN_FILE_BYTES, entry.stat(follow_symlinks=False).st_size)
                )
    return total
