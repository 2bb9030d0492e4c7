"""`/v1/messages/batches`: Anthropic's Message Batches, on the runner of OpenAI's batches."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final

from foundry_api.gateway.anthropic.batch_types import (
    DeletedMessageBatch,
    MessageBatchList,
    make_message_batch,
)
from foundry_api.gateway.checks import make_invalid
from foundry_api.gateway.errors import RequestError
from foundry_api.gateway.file_sending import send_files
from foundry_api.gateway.files.batch_types import (
    ENDED,
    MESSAGES_PREFIX,
    MESSAGES_URL,
    WINDOW_S,
    StoredBatch,
)
from foundry_api.gateway.files.store import make_file_id
from foundry_api.gateway.files.types import StoredFile
from foundry_api.gateway.openai.pages import (
    get_bounds,
    get_visibility,
    make_wrong_cursor,
    read_limit,
)

if TYPE_CHECKING:
    from aiohttp import web

    from foundry_api.gateway.anthropic.batch_types import MessageBatch
    from foundry_api.gateway.exchange import Exchange

__all__ = [
    "DEFAULT_PAGE",
    "MAX_PAGE",
    "RESULTS_TYPE",
    "cancel_message_batch",
    "create_message_batch",
    "delete_message_batch",
    "get_message_batch",
    "get_message_batch_results",
    "list_message_batches",
]

# As Anthropic's.
DEFAULT_PAGE, MAX_PAGE = 20, 1000
RESULTS_LIFETIME_S = 29 * 86_400
RESULTS_TYPE: Final = "application/x-jsonl"


async def create_message_batch(exchange: Exchange) -> web.StreamResponse:
    """Check all requests, and start a batch of them."""
    context = exchange.context
    exchange.require_json()
    most = context.config.max_file_bytes
    declared = exchange.request.content_length
    size = most if declared is None else min(declared, most)
    owner = exchange.owner
    receive = context.files.receive
    # Once as it was sent, and once as lines.
    async with receive(size, owner) as body, receive(size, owner) as lines:
        async for block in exchange.iter_body(most, "max_file_bytes"):
            await asyncio.to_thread(body.file.write, block)
        await asyncio.to_thread(body.file.flush)
        checked = await context.batches.write_requests(body.path, lines.file, exchange.key)
        await asyncio.to_thread(lines.file.flush)
        now = int(context.wall_clock())
        batch = StoredBatch(
            id=f"{MESSAGES_PREFIX}{secrets.token_hex(12)}",
            owner=owner,
            endpoint=MESSAGES_URL,
            input_file_id=lines.id,
            output_file_id=make_file_id(),
            error_file_id=make_file_id(),
            output_lifetime_s=RESULTS_LIFETIME_S,
            created_at=now,
            expires_at=now + WINDOW_S,
            status="in_progress",
            in_progress_at=now,
            total=checked.total,
            model=checked.model,
        )
        stored = StoredFile(
            id=lines.id,
            owner=owner,
            purpose="message_batch",
            filename=f"{batch.id}.jsonl",
            size=lines.path.stat().st_size,
            created_at=now,
            # It is deleted when the batch ends; until then it is in use.
            expires_at=now + RESULTS_LIFETIME_S,
        )
        await context.batches.create(batch, lines, stored)
    return exchange.respond_json(_describe(exchange, batch))


async def list_message_batches(exchange: Exchange) -> web.StreamResponse:
    """List the message batches that the caller sees, the newest first."""
    query, visibility = exchange.request.query, get_visibility(exchange)
    limit = read_limit(exchange, default=DEFAULT_PAGE, most=MAX_PAGE)
    before, after = query.get("before_id"), query.get("after_id")
    if before is not None and after is not None:
        raise make_invalid("before_id", "Send before_id or after_id, not both.")
    page = await exchange.context.files.query(
        lambda database: database.batches.find_page(
            visibility,
            limit=limit,
            after=before or after,
            prefix=MESSAGES_PREFIX,
            is_ascending=before is not None,
        )
    )
    if page is None:
        raise make_wrong_cursor("after_id" if before is None else "before_id")
    rows = page.rows if before is None else page.rows[::-1]
    data = [_describe(exchange, batch) for batch in rows]
    return exchange.respond_json(
        MessageBatchList(data=data, has_more=page.has_more, **get_bounds([one.id for one in data]))
    )


async def get_message_batch(exchange: Exchange) -> web.StreamResponse:
    """Describe a message batch."""
    return exchange.respond_json(_describe(exchange, await _find(exchange)))


async def cancel_message_batch(exchange: Exchange) -> web.StreamResponse:
    """Cancel a message batch. No further request starts, and those that run are ended."""
    batch = await exchange.context.batches.cancel(await _find(exchange))
    return exchange.respond_json(_describe(exchange, batch))


async def delete_message_batch(exchange: Exchange) -> web.StreamResponse:
    """Delete a message batch that has ended, with its results."""
    batch = await _find(exchange)
    if batch.status not in ENDED:
        raise RequestError(
            409,
            "batch_not_ended",
            "The batch has not ended, so it cannot be deleted. Cancel it first.",
            param="id",
            should_retry=False,
        )
    await exchange.context.files.delete(
        [batch.output_file_id, batch.error_file_id],
        lambda database: database.batches.delete(batch.id),
    )
    return exchange.respond_json(DeletedMessageBatch(id=batch.id))


async def get_message_batch_results(exchange: Exchange) -> web.StreamResponse:
    """Send the results of a message batch: the answers, then the other requests."""
    batch, visibility = await _find(exchange), get_visibility(exchange)
    names = [
        name
        for name, exists in (
            (batch.output_file_id, batch.has_output),
            (batch.error_file_id, batch.has_errors),
        )
        if exists
    ]
    stored = await exchange.context.files.query(
        lambda database: [database.files.get(name, visibility) for name in names]
    )
    found = [one for one in stored if one is not None]
    why = "has not ended" if batch.status not in ENDED else "is too old"
    not_found = RequestError(
        404, "file_not_found", f"There are no results of this batch: it {why}.", param="id"
    )
    if not names or len(found) < len(names):
        raise not_found
    return await send_files(exchange, found, RESULTS_TYPE, not_found)


async def _find(exchange: Exchange) -> StoredBatch:
    visibility, identifier = get_visibility(exchange), exchange.path_id
    batch = await exchange.context.files.query(
        lambda database: database.batches.get(identifier, visibility)
    )
    if batch is None or batch.endpoint != MESSAGES_URL:
        raise RequestError(
            404, "batch_not_found", "There is no message batch with this id.", param="id"
        )
    return batch


def _describe(exchange: Exchange, batch: StoredBatch) -> MessageBatch:
    context = exchange.context
    return make_message_batch(
        batch, now=context.wall_clock(), counts=context.batches.get_counts(batch.id)
    )
