"""Batches, as they are stored and as the API shows them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = [
    "ENDED",
    "UNFINISHED",
    "BatchList",
    "BatchObject",
    "BatchProblem",
    "Ending",
    "Status",
    "StoredBatch",
    "make_batch_object",
]

Status = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
Ending = Literal["completed", "expired", "cancelled"]
UNFINISHED: tuple[Status, ...] = ("validating", "in_progress", "finalizing", "cancelling")
ENDED: tuple[Status, ...] = ("failed", "completed", "expired", "cancelled")


class BatchProblem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a file is refused."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class StoredBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch of a key. Times are seconds since the epoch, None before they have come.

    Attributes:
        id: The id.
        owner: The id of the key that it belongs to, and whose tokens it uses; None without keys.
        endpoint: The route that answers its lines.
        input_file_id: The file with its lines.
        output_file_id: The id that the file of its answers gets.
        error_file_id: The id that the file of its failed lines gets.
        output_lifetime_s: Seconds for which these two are kept.
        status: Where it is.
        ending: How it ends; None before that is decided.
        total: Its lines; 0 before they are counted.
        completed: Lines that were answered, once it has ended.
        failed: Lines that failed, once it has ended.
        has_output: Whether there is a file of answers.
        has_errors: Whether there is a file of failed lines.
    """

    id: str
    owner: str | None
    endpoint: str
    input_file_id: str
    output_file_id: str
    error_file_id: str
    output_lifetime_s: int
    created_at: int
    expires_at: int
    status: Status = "validating"
    ending: Ending | None = None
    metadata: dict[str, str] | None = None
    problems: tuple[BatchProblem, ...] = ()
    total: int = 0
    completed: int = 0
    failed: int = 0
    has_output: bool = False
    has_errors: bool = False
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None


class BatchObject(msgspec.Struct, kw_only=True):
    """OpenAI's description of a batch."""

    id: str
    endpoint: str
    input_file_id: str
    status: Status
    created_at: int
    expires_at: int
    request_counts: dict[str, int]
    errors: dict[str, Any] | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    metadata: dict[str, str] | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    completion_window: Literal["24h"] = "24h"
    object: Literal["batch"] = "batch"


def make_batch_object(batch: StoredBatch, counts: tuple[int, int] | None = None) -> BatchObject:
    """Describe a batch to a client; `counts` are the answered and failed lines of a running one."""
    completed, failed = (batch.completed, batch.failed) if counts is None else counts
    errors = None
    if batch.problems:
        errors = {"object": "list", "data": msgspec.to_builtins(batch.problems)}
    return BatchObject(
        id=batch.id,
        endpoint=batch.endpoint,
        input_file_id=batch.input_file_id,
        status=batch.status,
        created_at=batch.created_at,
        expires_at=batch.expires_at,
        request_counts={"total": batch.total, "completed": completed, "failed": failed},
        errors=errors,
        output_file_id=batch.output_file_id if batch.has_output else None,
        error_file_id=batch.error_file_id if batch.has_errors else None,
        metadata=batch.metadata,
        in_progress_at=batch.in_progress_at,
        finalizing_at=batch.finalizing_at,
        completed_at=batch.completed_at,
        failed_at=batch.failed_at,
        expired_at=batch.expired_at,
        cancelling_at=batch.cancelling_at,
        cancelled_at=batch.cancelled_at,
    )


class BatchList(msgspec.Struct, kw_only=True):
    """A page of batches."""

    data: list[BatchObject]
    has_more: bool
    first_id: str | None
    last_id: str | None
    object: Literal["list"] = "list"
