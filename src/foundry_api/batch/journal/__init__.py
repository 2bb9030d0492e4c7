"""The journal of a batch: the results so far, where they are stored, and its runners."""

from __future__ import annotations

from foundry_api.batch.journal.journal import Journal
from foundry_api.batch.journal.runners import BLOCK_LINES
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
