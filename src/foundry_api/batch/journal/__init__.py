"""The journal of a batch: what is answered, where that lies, who works on it."""

from __future__ import annotations

from foundry_api.batch.journal.journal import Journal
from foundry_api.batch.journal.status import ask_cancel, directory_of, read_status
from foundry_api.batch.journal.told import (
    BatchStatus,
    CancelHow,
    Checked,
    Counts,
    Failures,
    Figures,
    Interval,
    ModelFigures,
    Published,
    RunnerStatus,
    Spread,
)

__all__ = [
    "BLOCK_LINES",
    "BatchStatus",
    "CancelHow",
    "Checked",
    "Counts",
    "Failures",
    "Figures",
    "Interval",
    "Journal",
    "ModelFigures",
    "Published",
    "RunnerStatus",
    "Spread",
    "ask_cancel",
    "directory_of",
    "read_status",
]

BLOCK_LINES = 256
"""Lines of a block that is claimed: block `n` has the indexes from `n * BLOCK_LINES`."""
