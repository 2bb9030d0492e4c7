"""Message batches, as Anthropic's API shows them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec

from foundry_api.gateway.anthropic.request import MessagesBody
from foundry_api.gateway.files.batch_types import ENDED, StoredBatch

__all__ = [
    "DeletedMessageBatch",
    "MessageBatch",
    "MessageBatchBody",
    "MessageBatchList",
    "RequestCounts",
    "make_message_batch",
]


class BatchedMessage(msgspec.Struct, kw_only=True):
    """A request of a message batch.

    Attributes:
        custom_id: An id of its own within the batch: letters, digits, hyphens and underscores.
        params: The body of `POST /v1/messages`, without `stream`.
    """

    custom_id: str
    params: MessagesBody


class MessageBatchBody(msgspec.Struct, kw_only=True):
    """The JSON body of `POST /v1/messages/batches`."""

    requests: list[BatchedMessage]


class RequestCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many requests of a message batch are in each state; their sum is all of them."""

    processing: int
    succeeded: int
    errored: int
    canceled: int
    expired: int


class MessageBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Anthropic's description of a message batch.

    Times are in RFC 3339, None before they have come.

    Attributes:
        archived_at: When its results were deleted.
        results_url: Where its results are, once it has ended.
    """

    id: str
    processing_status: Literal["in_progress", "canceling", "ended"]
    request_counts: RequestCounts
    created_at: str
    expires_at: str
    ended_at: str | None
    cancel_initiated_at: str | None
    archived_at: str | None
    results_url: str | None
    type: Literal["message_batch"] = "message_batch"


class MessageBatchList(msgspec.Struct, kw_only=True):
    """A page of message batches."""

    data: list[MessageBatch]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeletedMessageBatch(msgspec.Struct, kw_only=True):
    """The response to `DELETE /v1/messages/batches/{id}`."""

    id: str
    type: Literal["message_batch_deleted"] = "message_batch_deleted"


def make_message_batch(
    batch: StoredBatch, *, now: float, counts: tuple[int, int] | None = None
) -> MessageBatch:
    """Describe a batch to a client; `counts` are the answered and failed lines of a running one."""
    ended_at = batch.completed_at or batch.expired_at or batch.cancelled_at
    archived_at = None
    if ended_at is not None and ended_at + batch.output_lifetime_s <= now:
        archived_at = ended_at + batch.output_lifetime_s
    is_ended = batch.status in ENDED
    return MessageBatch(
        id=batch.id,
        processing_status=(
            "ended" if is_ended else "canceling" if batch.status == "cancelling" else "in_progress"
        ),
        request_counts=_count_requests(batch, counts),
        created_at=_format_time(batch.created_at),
        expires_at=_format_time(batch.expires_at),
        ended_at=None if ended_at is None else _format_time(ended_at),
        cancel_initiated_at=(
            None if batch.cancelling_at is None else _format_time(batch.cancelling_at)
        ),
        archived_at=None if archived_at is None else _format_time(archived_at),
        # Without the address of the gateway, which clients add: they send the key there, and the
        # gateway does not know by which address they reach it, such as that of a proxy with TLS.
        results_url=(
            f"/v1/messages/batches/{batch.id}/results" if is_ended and archived_at is None else None
        ),
    )


def _count_requests(batch: StoredBatch, counts: tuple[int, int] | None) -> RequestCounts:
    is_ended = batch.status in ENDED
    succeeded, errored = (batch.completed, batch.failed) if counts is None else counts
    others = batch.total - succeeded - errored
    return RequestCounts(
        processing=0 if is_ended else others,
        succeeded=succeeded,
        errored=errored,
        canceled=others if batch.status == "cancelled" else 0,
        expired=others if batch.status == "expired" else 0,
    )


def _format_time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
