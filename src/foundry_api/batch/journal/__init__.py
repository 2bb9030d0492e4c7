"""The journal of a batch: what is answered, where that lies, who works on it."""

from __future__ import annotations

from foundry_api.batch.journal.journal import Journal
from foundry_api.batch.journal.results import BLOCK_LINES
from foundry_api.batch.journal.status import ask_cancel, read_figures, read_status
from foundry_api.batch.journal.types import (
    BatchStatus,
    CancelHow,
    Checked,
    Counts,
    Published,
    RunnerStatus,
)

__all__ = [
    "BLOCK_LINES",
    "BatchStatus",
    "CancelHow",
    "Checked",
    "Counts",
    "Journal",
    "Published",
    "RunnerStatus",
    "ask_cancel",
    "read_figures",
    "read_status",
]
