"""The journal of a batch: what is answered, where that lies, who works on it."""

from __future__ import annotations

from foundry_api.batch.journal.journal import Journal
from foundry_api.batch.journal.results import BLOCK_LINES
from foundry_api.batch.journal.status import read_statistics, read_status, request_cancel
from foundry_api.batch.journal.types import (
    BatchStatus,
    CancelMode,
    CheckResult,
    PublishedOutput,
    ResultCounts,
    RunnerStatus,
)

__all__ = [
    "BLOCK_LINES",
    "BatchStatus",
    "CancelMode",
    "CheckResult",
    "Journal",
    "PublishedOutput",
    "ResultCounts",
    "RunnerStatus",
    "read_statistics",
    "read_status",
    "request_cancel",
]
