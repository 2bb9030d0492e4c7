"""Idempotency keys: a request that is sent again gets the response of the first one."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import msgspec

from foundry_api.gateway.call_headers import read_patience
from foundry_api.gateway.errors import RequestError
from foundry_api.gateway.idempotency_cache import SavedResponse
from foundry_api.gateway.response import Response
from foundry_api.types.errors import FoundryError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from foundry_api.gateway.exchange import Exchange
    from foundry_api.gateway.idempotency_cache import Outcome, SavedRequest

__all__ = ["IDEMPOTENCY_KEY", "make_fingerprint", "respond_once", "respond_once_to_json"]

IDEMPOTENCY_KEY = "Idempotency-Key"
MAX_KEY_LENGTH = 255


async def respond_once_to_json(
    exchange: Exchange, respond: Callable[[Exchange], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Respond to a request with a JSON body, once for each idempotency key.

    A stream is not repeated: what was sent of it is not kept.
    """
    content_type = exchange.request.headers.get("Content-Type", "")
    if not content_type.startswith("application/json"):
        return await respond(exchange)
    body = await exchange.read_body()
    if _is_stream(body):
        return await respond(exchange)
    fingerprint = make_fingerprint(exchange, body)
    return await respond_once(exchange, fingerprint, lambda: respond(exchange))


def make_fingerprint(exchange: Exchange, content: bytes) -> bytes:
    """Return what is the same for the same request: its route, the id in its path, its content."""
    place = msgspec.json.encode([exchange.route, exchange.path_id])
    return hashlib.sha256(place + content).digest()


async def respond_once(
    exchange: Exchange, fingerprint: bytes, respond: Callable[[], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Respond to a request, once for each idempotency key.

    Args:
        exchange: The exchange.
        fingerprint: What is the same for the same request.
        respond: Makes the response.

    Raises:
        RequestError: 409 if the key was used for another request.
    """
    key = exchange.request.headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return await respond()
    if not 0 < len(key) <= MAX_KEY_LENGTH:
        raise RequestError(
            400,
            "invalid_header",
            f"{IDEMPOTENCY_KEY} has 1 to {MAX_KEY_LENGTH} characters.",
            param=IDEMPOTENCY_KEY,
        )
    cache, monotonic = exchange.context.idempotency, exchange.context.monotonic
    name = (exchange.owner, key)
    while (entry := cache.find(name, monotonic())) is not None:
        if entry.fingerprint != fingerprint:
            raise RequestError(
                409,
                "idempotency_error",
                f"This {IDEMPOTENCY_KEY} was used for another request. Use a new key for each "
                "request.",
                param=IDEMPOTENCY_KEY,
            )
        # Without an outcome the first client left: this request takes its place.
        if (outcome := await _wait(exchange, entry)) is not None:
            return _repeat(exchange, outcome)
    entry = cache.start(name, fingerprint)
    try:
        response = await respond()
    except (RequestError, FoundryError) as error:
        cache.remove(name)
        entry.ended.set_result(error)
        raise
    except BaseException:
        cache.remove(name)
        entry.ended.set_result(None)
        raise
    if isinstance(response, Response) and response.body is not None:
        saved = SavedResponse(response.body, response.status, response.head["Content-Type"])
        cache.save(name, saved, monotonic())
    else:
        cache.remove(name)
        entry.ended.set_result(None)
    return response


async def _wait(exchange: Exchange, entry: SavedRequest) -> Outcome:
    """Wait for a request that runs, within the deadline of the caller."""
    deadline_s = read_patience(exchange.request.headers).first_byte_s
    try:
        async with asyncio.timeout(deadline_s):
            return await asyncio.shield(entry.ended)
    except TimeoutError:
        raise RequestError(
            504,
            "deadline_exceeded",
            f"The same request runs already, for longer than the deadline of {deadline_s:g} s.",
        ) from None


def _repeat(exchange: Exchange, outcome: SavedResponse | RequestError | FoundryError) -> Response:
    if not isinstance(outcome, SavedResponse):
        raise outcome
    exchange.headers["Idempotency-Replayed"] = "true"
    return exchange.respond(outcome.body, status=outcome.status, content_type=outcome.content_type)


class _StreamMember(msgspec.Struct):
    stream: bool | None = None


def _is_stream(body: bytes) -> bool:
    try:
        return bool(msgspec.json.decode(body, type=_StreamMember).stream)
    except (msgspec.DecodeError, RecursionError):
        return True  # invalid, as the handler will say; there is nothing to repeat
