"""`POST /v1/messages` and `POST /v1/messages/count_tokens`: Anthropic's Messages API."""

from __future__ import annotations

import secrets
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.gateway.anthropic.errors import make_anthropic_error_event
from foundry_api.gateway.anthropic.request import (
    CountBody,
    MessagesBody,
    make_generation,
    make_prompt,
)
from foundry_api.gateway.generation import admit, complete, stream
from foundry_api.gateway.streaming import LastEvent, send_events
from foundry_api.gateway.tokens import estimate_prompt_tokens
from foundry_api.types.messages import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aiohttp import web

    from foundry_api.gateway.exchange import Exchange
    from foundry_api.gateway.generation import Answer, Generation
    from foundry_api.gateway.limits.admission import Ticket
    from foundry_api.types.messages import Chunk, FinishReason, ToolCall

__all__ = ["count_tokens", "create_message"]

_STOP_REASONS: dict[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


async def create_message(exchange: Exchange) -> web.StreamResponse:
    """Answer a conversation, at once or as a stream."""
    body = await exchange.read_json(MessagesBody)
    generation = make_generation(body, exchange.require_model(body.model))
    ticket = admit(exchange, [generation])
    if body.stream:
        return await send_events(
            exchange, _stream(exchange, generation, ticket), make_anthropic_error_event
        )
    async with ticket:
        answer = await complete(exchange, generation, ticket)
        ticket.settle(answer.usage)
    message = _make_message(generation.model, answer.usage)
    message["content"] = _make_blocks(answer)
    message["stop_reason"] = _STOP_REASONS[answer.finish_reason]
    return exchange.respond_json(message)


async def count_tokens(exchange: Exchange) -> web.StreamResponse:
    """Estimate the tokens of a conversation; the engine counts only what it generates from."""
    body = await exchange.read_json(CountBody)
    model = exchange.require_model(body.model)
    exchange.context.model_names.check(exchange.key, model)
    prompt = make_prompt(body, model)
    tokens = estimate_prompt_tokens(prompt.messages, prompt.options.get("tools"))
    return exchange.respond_json({"input_tokens": tokens})


async def _stream(
    exchange: Exchange, generation: Generation, ticket: Ticket
) -> AsyncGenerator[bytes]:
    blocks = _BlockEncoder()
    has_started = False
    async with ticket, aclosing(stream(exchange, generation, ticket)) as chunk_lists:
        async for _, chunks in chunk_lists:
            ticket.add_output(len(chunks))
            events = b""
            if not has_started:
                has_started = True
                # The service counts at the end; the last event has its count.
                start = _make_message(generation.model, Usage(ticket.prompt_tokens, 0, 0))
                events = _encode("message_start", message=start)
            events += b"".join([blocks.encode(chunk) for chunk in chunks])
            last = chunks[-1]
            if last.finish_reason is not None:
                usage = last.usage or Usage()
                ticket.settle(usage)
                events += blocks.close() + _encode_end(last.finish_reason, usage)
                events = LastEvent(events)
            if events:
                yield events


def _encode_end(finish_reason: FinishReason, usage: Usage) -> bytes:
    delta = {"stop_reason": _STOP_REASONS[finish_reason], "stop_sequence": None}
    return _encode("message_delta", delta=delta, usage=_make_usage(usage)) + _encode("message_stop")


def _make_message(model: str, usage: Usage) -> dict[str, Any]:
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _make_usage(usage),
    }


def _make_usage(usage: Usage) -> dict[str, int]:
    return {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }


def _make_blocks(answer: Answer) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if answer.reasoning:
        blocks.append({"type": "thinking", "thinking": answer.reasoning, "signature": ""})
    if text := answer.content or answer.refusal:
        blocks.append({"type": "text", "text": text})
    for call in answer.tool_calls:
        arguments = msgspec.json.decode(call.function.arguments or "{}")
        blocks.append({**_make_tool_use(call), "input": arguments})
    return blocks


def _make_tool_use(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.function.name, "input": {}}


def _encode(event: str, **members: Any) -> bytes:
    data = msgspec.json.encode({"type": event, **members})
    return b"event: %b\ndata: %b\n\n" % (event.encode(), data)


class _BlockEncoder:
    """Encodes chunks as the events of content blocks, which follow each other."""

    def __init__(self) -> None:
        self._index = 0
        self._kind = ""  # of the open block

    def encode(self, chunk: Chunk) -> bytes:
        """Return the events of a chunk."""
        events = b""
        if chunk.reasoning:
            events += self._encode_text("thinking", "thinking", chunk.reasoning)
        if text := chunk.content or chunk.refusal:
            events += self._encode_text("text", "text", text)
        for call in chunk.tool_calls:
            events += self.close() + self._open("tool_use", _make_tool_use(call))
            delta = {"type": "input_json_delta", "partial_json": call.function.arguments}
            events += _encode("content_block_delta", index=self._index, delta=delta)
        return events

    def close(self) -> bytes:
        """Return the event that ends the open block, if one is open."""
        if not self._kind:
            return b""
        self._kind = ""
        self._index += 1
        return _encode("content_block_stop", index=self._index - 1)

    def _encode_text(self, kind: str, member: str, text: str) -> bytes:
        events = b""
        if self._kind != kind:
            block = {"type": kind, member: ""}
            if kind == "thinking":
                block["signature"] = ""
            events = self.close() + self._open(kind, block)
        delta = {"type": f"{kind}_delta", member: text}
        return events + _encode("content_block_delta", index=self._index, delta=delta)

    def _open(self, kind: str, block: dict[str, Any]) -> bytes:
        self._kind = kind
        return _encode("content_block_start", index=self._index, content_block=block)
