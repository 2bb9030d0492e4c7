"""`/v1/batches`: create, list, describe and cancel batches."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Literal

import msgspec

from foundry_api.batch.types import parse_route
from foundry_api.gateway.checks import make_invalid
from foundry_api.gateway.errors import RequestError
from foundry_api.gateway.files.batch_types import (
    OPENAI_PREFIX,
    WINDOW_S,
    BatchList,
    StoredBatch,
    make_batch_object,
)
from foundry_api.gateway.files.store import make_file_id
from foundry_api.gateway.openai.files import (
    ExpiresAfter,
    get_lifetime_s,
    make_file_not_found,
)
from foundry_api.gateway.openai.pages import (
    get_bounds,
    get_visibility,
    make_wrong_cursor,
    read_page_query,
)
from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from aiohttp import web

    from foundry_api.gateway.exchange import Exchange

__all__ = ["BatchBody", "cancel_batch", "create_batch", "get_batch", "list_batches"]

DEFAULT_PAGE, MAX_PAGE = 20, 100
MAX_METADATA, MAX_METADATA_NAME, MAX_METADATA_VALUE = 16, 64, 512


class BatchBody(msgspec.Struct, kw_only=True):
    """The JSON body of `POST /v1/batches`."""

    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"]
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None


async def create_batch(exchange: Exchange) -> web.StreamResponse:
    """Start a batch."""
    context = exchange.context
    body = await exchange.read_json(BatchBody)
    try:
        endpoint = parse_route(body.endpoint)
    except InvalidRequest as error:
        raise make_invalid(
            "endpoint", f"{error.message.replace('url is', 'endpoint is')}."
        ) from error
    _check_metadata(body.metadata)
    lifetime_s = get_lifetime_s("output_expires_after", body.output_expires_after)
    visibility, now = get_visibility(exchange), int(context.wall_clock())
    stored = await context.files.query(
        lambda database: database.files.get(body.input_file_id, visibility)
    )
    if stored is None or stored.expires_at <= now:
        raise make_file_not_found("input_file_id")
    if stored.purpose != "batch":
        raise make_invalid("input_file_id", "This file was not uploaded with purpose=batch.")
    owner = exchange.owner
    context.files.check_space(0, owner)
    batch = StoredBatch(
        id=f"{OPENAI_PREFIX}{secrets.token_hex(12)}",
        owner=owner,
        endpoint=endpoint,
        input_file_id=stored.id,
        output_file_id=make_file_id(),
        error_file_id=make_file_id(),
        output_lifetime_s=lifetime_s,
        created_at=now,
        expires_at=now + WINDOW_S,
        metadata=body.metadata,
    )
    await context.batches.create(batch)
    return exchange.respond_json(make_batch_object(batch))


async def list_batches(exchange: Exchange) -> web.StreamResponse:
    """List the batches that the caller sees, the newest first."""
    query = read_page_query(exchange, default=DEFAULT_PAGE, most=MAX_PAGE)
    visibility = get_visibility(exchange)
    page = await exchange.context.files.query(
        lambda database: database.batches.find_page(
            visibility,
            limit=query.limit,
            after=query.after,
            prefix=OPENAI_PREFIX,
            is_ascending=query.is_ascending,
        )
    )
    if page is None:
        raise make_wrong_cursor()
    batches = exchange.context.batches
    data = [make_batch_object(batch, batches.get_counts(batch.id)) for batch in page.rows]
    return exchange.respond_json(
        BatchList(data=data, has_more=page.has_more, **get_bounds([one.id for one in data]))
    )


async def get_batch(exchange: Exchange) -> web.StreamResponse:
    """Describe a batch."""
    batch = await _find(exchange)
    counts = exchange.context.batches.get_counts(batch.id)
    return exchange.respond_json(make_batch_object(batch, counts))


async def cancel_batch(exchange: Exchange) -> web.StreamResponse:
    """Cancel a batch. No further line starts, and those that run are ended."""
    batches = exchange.context.batches
    batch = await batches.cancel(await _find(exchange))
    return exchange.respond_json(make_batch_object(batch, batches.get_counts(batch.id)))


async def _find(exchange: Exchange) -> StoredBatch:
    visibility, identifier = get_visibility(exchange), exchange.path_id
    batch = await exchange.context.files.query(
        lambda database: database.batches.get(identifier, visibility)
    )
    if batch is None or not identifier.startswith(OPENAI_PREFIX):
        raise RequestError(404, "batch_not_found", "There is no batch with this id.", param="id")
    return batch


def _check_metadata(metadata: dict[str, str] | None) -> None:
    pairs = metadata or {}
    if len(pairs) > MAX_METADATA or any(
        len(name) > MAX_METADATA_NAME or len(value) > MAX_METADATA_VALUE
        for name, value in pairs.items()
    ):
        raise make_invalid(
            "metadata",
            f"metadata has up to {MAX_METADATA} pairs, with names of {MAX_METADATA_NAME} and "
            f"values of {MAX_METADATA_VALUE} characters.",
        )
