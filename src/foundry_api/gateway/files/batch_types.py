"""Batches, as they are stored and as the API shows them."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from foundry_api.gateway.files.types import ObjectList
from foundry_api.gateway.usage import InputDetails, OutputDetails, ResponseUsage

__all__ = [
    "ENDED",
    "MESSAGES_PREFIX",
    "MESSAGES_URL",
    "OPENAI_PREFIX",
    "UNFINISHED",
    "WINDOW_S",
    "BatchList",
    "BatchObject",
    "BatchProblem",
    "CheckedRequests",
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
# The endpoint of message batches, and by what the ids of batches tell which API they are of.
MESSAGES_URL = "/v1/messages"
OPENAI_PREFIX, MESSAGES_PREFIX = "batch_", "msgbatch_"
# How long a batch may take.
WINDOW_S = 86_400
ENDED: tuple[Status, ...] = ("failed", "completed", "expired", "cancelled")


class BatchProblem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a file is refused."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class CheckedRequests(NamedTuple):
    """What a message batch consists of.

    Attributes:
        total: The number of its requests.
        model: The model that all of them name; None if they name several.
    """

    total: int
    model: str | None


class _Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored of a batch as the API shows it.

    Times are seconds since the epoch, None before they have come.

    Attributes:
        endpoint: The route that answers its lines.
        input_file_id: The file with its lines.
        status: Where it is.
        model: The model of its lines, as they name it; None before they were checked, and if they
            name several.
    """

    id: str
    endpoint: str
    input_file_id: str
    created_at: int
    expires_at: int
    status: Status = "validating"
    model: str | None = None
    metadata: dict[str, str] | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None


class StoredBatch(_Batch, frozen=True, kw_only=True):
    """A batch of a key; of Anthropic's API if its endpoint is `MESSAGES_URL`.

    Attributes:
        owner: The id of the key that it belongs to, and whose tokens it uses; None without keys.
        output_file_id: The id that the file of its answers gets.
        error_file_id: The id that the file of its failed lines gets.
        output_lifetime_s: Seconds for which these two are kept.
        ending: How it ends; None before that is decided.
        total: Its lines; 0 before they are counted.
        completed: Lines that were answered, once it has ended.
        failed: Lines that failed, once it has ended.
        prompt_tokens: Tokens of the prompts that were answered, once it has ended.
        completion_tokens: Tokens of their answers.
        has_output: Whether there is a file of answers.
        has_errors: Whether there is a file of failed lines.
    """

    owner: str | None
    output_file_id: str
    error_file_id: str
    output_lifetime_s: int
    ending: Ending | None = None
    problems: tuple[BatchProblem, ...] = ()
    total: int = 0
    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    has_output: bool = False
    has_errors: bool = False


class BatchObject(_Batch, frozen=True, kw_only=True):
    """OpenAI's description of a batch."""

    request_counts: dict[str, int]
    errors: dict[str, Any] | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    usage: ResponseUsage | None = None
    completion_window: Literal["24h"] = "24h"
    object: Literal["batch"] = "batch"


def make_batch_object(batch: StoredBatch, counts: tuple[int, int] | None = None) -> BatchObject:
    """Describe a batch to a client; `counts` are the answered and failed lines of a running one."""
    completed, failed = (batch.completed, batch.failed) if counts is None else counts
    errors = None
    if batch.problems:
        errors = {"object": "list", "data": msgspec.to_builtins(batch.problems)}
    shown = {name: getattr(batch, name) for name in _Batch.__struct_fields__}
    return BatchObject(
        **shown,
        request_counts={"total": batch.total, "completed": completed, "failed": failed},
        errors=errors,
        output_file_id=batch.output_file_id if batch.has_output else None,
        error_file_id=batch.error_file_id if batch.has_errors else None,
        usage=_make_usage(batch) if batch.status in ENDED else None,
    )


def _make_usage(batch: StoredBatch) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=batch.prompt_tokens,
        input_tokens_details=InputDetails(cached_tokens=0),
        output_tokens=batch.completion_tokens,
        output_tokens_details=OutputDetails(reasoning_tokens=0),
        total_tokens=batch.prompt_tokens + batch.completion_tokens,
    )


class BatchList(ObjectList, kw_only=True):
    """A page of batches."""

    data: list[BatchObject]
