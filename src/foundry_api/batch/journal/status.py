"""A batch seen from outside: by who does not work on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foundry_api.batch.journal.told import BatchStatus, CancelHow

__all__ = ["ask_cancel", "directory_of", "read_status"]


def directory_of(output: str | Path) -> Path:
    """Where the journal of the batch with that output lies."""
    path = Path(output)
    return path.with_name(f"{path.name}.batch")


def read_status(directory: Path) -> BatchStatus:
    """How a batch stands. It changes nothing, and may be asked while others work.

    Raises:
        BatchStorageFailed: There is no journal, or it cannot be read.
    """
    raise NotImplementedError


def ask_cancel(directory: Path, how: CancelHow) -> int:
    """Ask everybody who works on a batch to leave.

    Args:
        directory: Where the journal lies.
        how: `drain` finishes what is in flight, `stop` does not.

    Returns:
        How many were asked; 0 if nobody works on it.

    Raises:
        BatchStorageFailed: There is no journal, or it cannot be used.
    """
    raise NotImplementedError
