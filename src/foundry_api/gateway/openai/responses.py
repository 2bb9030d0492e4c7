"""`/v1/responses`: create, read, continue, cancel and delete responses.

Responses are generated like chat completions, so they have everything that those have with every
generation of the service. They are stored here, for the key that created them.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.gateway.checks import make_unsupported
from foundry_api.gateway.errors import RequestError, format_defect, translate_error
from foundry_api.gateway.generation import admit, complete, stream
from foundry_api.gateway.openai.pages import get_bounds, make_wrong_cursor, read_page_query
from foundry_api.gateway.openai.response_builder import ResponseBuilder
from foundry_api.gateway.openai.responses_request import (
    ResponseBody,
    encode_items,
    make_messages,
    make_response_generation,
)
from foundry_api.gateway.response_store import StoredResponse
from foundry_api.gateway.streaming import LastEvent, send_events
from foundry_api.types.errors import FoundryError
from foundry_api.types.messages import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from aiohttp import web

    from foundry_api.gateway.exchange import Exchange
    from foundry_api.gateway.generation import Generation
    from foundry_api.gateway.limits.admission import Ticket

__all__ = [
    "cancel_response",
    "count_input_tokens",
    "create_response",
    "delete_response",
    "get_response",
    "list_input_items",
    "list_responses",
]

log = logging.getLogger("foundry_api.gateway")

DEFAULT_PAGE = 20
MAX_PAGE = 100


class _Response:
    """A response that is being created: what its answer becomes."""

    def __init__(
        self, exchange: Exchange, body: ResponseBody, generation: Generation, *, history: int
    ) -> None:
        self.exchange = exchange
        self.generation = generation
        self.builder = ResponseBuilder(_make_head(exchange, body, generation))
        self.stored = StoredResponse(
            self.builder.response["id"],
            exchange.owner,
            b"",
            encode_items(body),
            generation.messages[history:],  # instructions hold for one response
            created_at=exchange.context.wall_clock(),
            is_background=bool(body.background),
        )
        self._is_stored = body.store is not False
        self._conversation = self.stored.messages

    async def complete(self, ticket: Ticket) -> None:
        """Generate the answer at once."""
        async with ticket:
            answer = await complete(self.exchange, self.generation, ticket)
            ticket.settle(answer.usage)
        self.builder.add_answer(answer)
        self.builder.finish(answer.finish_reason, answer.usage, self.exchange.context.wall_clock())

    async def stream(self, ticket: Ticket) -> AsyncGenerator[bytes]:
        """Yield the events of the answer."""
        builder, has_started = self.builder, False
        async with ticket, aclosing(stream(self.exchange, self.generation, ticket)) as blocks:
            async for _, chunks in blocks:
                ticket.add_output(len(chunks))
                # An error before the first chunk becomes an HTTP status.
                events = b"" if has_started else builder.start()
                has_started = True
                events += b"".join([builder.add(chunk) for chunk in chunks])
                last = chunks[-1]
                if last.finish_reason is not None:
                    usage = last.usage or Usage()
                    ticket.settle(usage)
                    events += builder.finish(
                        last.finish_reason, usage, self.exchange.context.wall_clock()
                    )
                    self.save()
                    events = LastEvent(events)
                if events:
                    yield events

    def save(self) -> None:
        """Store the present state, unless the caller wants no storage."""
        if self._is_stored:
            self.stored.response = msgspec.json.encode(self.builder.response)
            self.stored.messages = (*self._conversation, self.builder.message)
            self.exchange.context.responses.put(self.stored)


async def create_response(exchange: Exchange) -> web.StreamResponse:
    """Answer an input: at once, as a stream, or in the background."""
    body = await exchange.read_json(ResponseBody)
    model = exchange.require_model(body.model)
    if body.background and (body.stream or body.store is False):
        raise make_unsupported(
            "background", "A response in the background is stored, and not streamed."
        )
    conversation = (*_get_history(exchange, body), *make_messages(body))
    generation = make_response_generation(body, model, conversation)
    history = len(generation.messages) - len(conversation)
    ticket = admit(exchange, [generation])
    response = _Response(exchange, body, generation, history=history)
    if body.background:
        _BackgroundRun(response, ticket).start()
        return exchange.respond(response.stored.response)
    if body.stream:
        return await send_events(exchange, response.stream(ticket), response.builder.fail)
    await response.complete(ticket)
    response.save()
    return exchange.respond_json(response.builder.response)


async def count_input_tokens(exchange: Exchange) -> web.StreamResponse:
    """Estimate the tokens of an input; the engine counts only what it generates from."""
    body = await exchange.read_json(ResponseBody)
    model = exchange.require_model(body.model)
    exchange.context.model_names.check(exchange.key, model)
    conversation = (*_get_history(exchange, body), *make_messages(body))
    generation = make_response_generation(body, model, conversation)
    return exchange.respond_json(
        {"object": "response.input_tokens", "input_tokens": generation.prompt_tokens}
    )


async def get_response(exchange: Exchange) -> web.StreamResponse:
    """Return a stored response."""
    if exchange.request.query.get("stream", "false").lower() != "false":
        raise make_unsupported("stream", "A stored response is not streamed.")
    return exchange.respond(_find(exchange).response)


async def delete_response(exchange: Exchange) -> web.StreamResponse:
    """Forget a stored response; one that runs is cancelled."""
    stored = _find(exchange)
    if stored.run is not None:
        await stored.run.cancel()
    exchange.context.responses.remove(stored)
    return exchange.respond_json({"id": stored.id, "object": "response", "deleted": True})


async def cancel_response(exchange: Exchange) -> web.StreamResponse:
    """Cancel a response that runs in the background; one that has ended stays as it is."""
    stored = _find(exchange)
    if not stored.is_background:
        raise RequestError(
            400,
            "invalid_request",
            "Only responses in the background can be cancelled. Create it with background: true, "
            "or close the connection.",
            param="id",
        )
    if stored.run is not None:
        await stored.run.cancel()
    return exchange.respond(stored.response)


async def list_input_items(exchange: Exchange) -> web.StreamResponse:
    """List the items of the input of a stored response, the last one first."""
    return _respond_page(exchange, _find(exchange).input_items)


async def list_responses(exchange: Exchange) -> web.StreamResponse:
    """List the stored responses of the key, the last one first. OpenAI has no such route."""
    owner = exchange.owner
    stored = exchange.context.responses.list(owner)
    return _respond_page(exchange, [one.response for one in stored])


def _respond_page(exchange: Exchange, encoded: Sequence[bytes]) -> web.StreamResponse:
    """Return the page of a list, whose oldest item is first, that the query asks for."""
    query = read_page_query(exchange, default=DEFAULT_PAGE, most=MAX_PAGE)
    items = [msgspec.json.decode(item) for item in encoded]
    if not query.is_ascending:
        items.reverse()
    ids = [item["id"] for item in items]
    if query.after is not None:
        if query.after not in ids:
            raise make_wrong_cursor()
        items = items[ids.index(query.after) + 1 :]
    page = items[: query.limit]
    return exchange.respond_json(
        {
            "object": "list",
            "data": page,
            "has_more": len(page) < len(items),
            **get_bounds([item["id"] for item in page]),
        }
    )


class _BackgroundRun:
    """Generates a response after its exchange has ended; see `RunningExchange`.

    Attributes:
        ended: Done when it has ended.
    """

    def __init__(self, response: _Response, ticket: Ticket) -> None:
        exchange = response.exchange
        self.id, self.key, self.model = exchange.id, exchange.key, exchange.model
        self.route, self.started_at = exchange.route, exchange.started_at
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._response = response
        self.ticket = ticket
        self._abort_error: RequestError | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        response = self._response
        response.exchange.ticket = None  # this run closes it
        response.builder.response["status"] = "queued"
        response.stored.run = self
        response.save()
        response.exchange.context.running.add(self)
        self._task = asyncio.create_task(self._run())
        # A task that is cancelled before it runs executes none of its own code.
        self._task.add_done_callback(self._end)

    def abort(self, error: RequestError) -> None:
        if self._task is not None:
            self._abort_error = error
            self._task.cancel()

    async def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        await asyncio.shield(self.ended)

    async def _run(self) -> None:
        response, builder = self._response, self._response.builder
        try:
            builder.response["status"] = "in_progress"
            response.save()
            await response.complete(self.ticket)
        except FoundryError as error:
            self._fail(translate_error(error))
        except RequestError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - a defect must not end the server
            log.error("response %s failed: %s", response.stored.id, format_defect(error))  # noqa: TRY400
            self._fail(RequestError(500, "internal_error", "The gateway failed."))

    def _fail(self, error: RequestError) -> None:
        self._response.exchange.outcome = error.code or "error"
        self._response.builder.fail(error)

    def _end(self, task: asyncio.Task[None]) -> None:
        response = self._response
        context = response.exchange.context
        if task.cancelled():
            if self._abort_error is None:
                response.exchange.outcome = "cancelled"
                response.builder.cancel()
            else:
                self._fail(self._abort_error)
        self.ticket.close()
        response.stored.run = None
        response.save()
        context.running.discard(self)
        context.metrics.record_call(response.exchange, self.ticket, context.monotonic())
        self.ended.set_result(None)


def _get_history(exchange: Exchange, body: ResponseBody) -> tuple[Any, ...]:
    if body.previous_response_id is None:
        return ()
    owner = exchange.owner
    stored = exchange.context.responses.get(body.previous_response_id, owner)
    if stored is None or stored.run is not None:
        problem = "There is no such response here" if stored is None else "It has not ended yet"
        raise RequestError(
            400,
            "previous_response_not_found",
            f"{problem}: the gateway keeps the last ones in memory. Send the complete conversation "
            "in input.",
            param="previous_response_id",
        )
    return stored.messages


def _find(exchange: Exchange) -> StoredResponse:
    owner = exchange.owner
    stored = exchange.context.responses.get(exchange.path_id, owner)
    if stored is None:
        raise RequestError(
            404,
            "response_not_found",
            "There is no response with this id; the gateway keeps the last ones in memory.",
            param="id",
        )
    return stored


def _make_head(exchange: Exchange, body: ResponseBody, generation: Generation) -> dict[str, Any]:
    """Return the members of a response that its request determines."""
    text_format = body.text.format if body.text else None
    return {
        "id": f"resp_{secrets.token_hex(16)}",
        "object": "response",
        "created_at": int(exchange.context.wall_clock()),
        "model": generation.model,
        "instructions": body.instructions,
        "previous_response_id": body.previous_response_id,
        "max_output_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "text": {"format": {"type": "text"} if text_format is None else _describe(text_format)},
        "tools": [_describe(tool) for tool in body.tools or ()],
        "tool_choice": body.tool_choice or "auto",
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "reasoning": body.reasoning,
        "metadata": body.metadata or {},
        "background": bool(body.background),
        "store": body.store is not False,
        "truncation": "disabled",
        "service_tier": "default",
    }


def _describe(value: msgspec.Struct) -> dict[str, Any]:
    members = msgspec.structs.asdict(value)
    return {name: member for name, member in members.items() if member is not None}
