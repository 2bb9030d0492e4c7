"""`POST /v1/chat/completions`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.gateway.errors import make_error_event
from foundry_api.gateway.generation import admit, complete_all
from foundry_api.gateway.openai.chat_request import ChatBody, make_generation
from foundry_api.gateway.openai.choices import (
    UsageCounter,
    make_head,
    stream_choices,
)
from foundry_api.gateway.openai.sampling import get_choices
from foundry_api.gateway.streaming import send_events

if TYPE_CHECKING:
    from aiohttp import web

    from foundry_api.gateway.exchange import Exchange
    from foundry_api.gateway.generation import Answer
    from foundry_api.types.messages import Chunk, ToolCall

__all__ = ["create_chat_completion"]

_encode = msgspec.json.Encoder().encode


async def create_chat_completion(exchange: Exchange) -> web.StreamResponse:
    """Answer a conversation, at once or as a stream."""
    body = await exchange.read_json(ChatBody)
    choices = get_choices(body.n)
    generation = make_generation(body, exchange.require_model(body.model))
    generations = [generation.vary(index) for index in range(choices)]
    is_streamed, includes_usage = body.stream, body.includes_usage
    has_functions = bool(body.functions)
    del body  # the conversation is not kept twice while the call waits
    ticket = admit(exchange, generations, choices)
    counter = UsageCounter(choices)
    if is_streamed:
        events = stream_choices(
            exchange,
            generations,
            ticket,
            id_prefix="chatcmpl",
            kind="chat.completion.chunk",
            encode_choice=_ChoiceEncoder(choices, has_functions=has_functions).encode,
            counter=counter,
            includes_usage=includes_usage,
        )
        return await send_events(exchange, events, make_error_event)
    async with ticket:
        answers = await complete_all(exchange, generations, ticket)
        for index, answer in enumerate(answers):
            counter.add(index, answer.usage)
        ticket.settle(counter.usage)
    return exchange.respond_json(
        {
            **make_head(exchange, "chatcmpl", "chat.completion", generation.model),
            "choices": [
                {
                    "index": index,
                    "message": _make_message(answer, has_functions=has_functions),
                    "finish_reason": _get_reason(answer, has_functions=has_functions),
                    "logprobs": None,
                }
                for index, answer in enumerate(answers)
            ],
            "usage": counter.usage,
        }
    )


def _make_message(answer: Answer, *, has_functions: bool) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer.content or (None if answer.tool_calls else ""),
        "refusal": answer.refusal or None,
        "annotations": [],
    }
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls and has_functions:
        message["function_call"] = _make_function(answer.tool_calls[0])
    elif answer.tool_calls:
        message["tool_calls"] = [_make_tool_call(call) for call in answer.tool_calls]
    return message


def _make_tool_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": _make_function(call)}


def _make_function(call: ToolCall) -> dict[str, Any]:
    return {"name": call.function.name, "arguments": call.function.arguments}


def _get_reason(end: Answer | Chunk, *, has_functions: bool) -> str | None:
    is_call = has_functions and end.finish_reason == "tool_calls"
    return "function_call" if is_call else end.finish_reason


class _ChoiceEncoder:
    """Encodes chunks as choices of an event."""

    __slots__ = ("_calls", "_has_functions", "_started")

    def __init__(self, choices: int, *, has_functions: bool) -> None:
        self._has_functions = has_functions
        self._started = [False] * choices
        self._calls = [0] * choices

    def encode(self, index: int, chunk: Chunk) -> bytes:
        # Text is by far the most frequent, so its event is not built as a dictionary.
        if self._started[index] and chunk.content and chunk.finish_reason is None:
            return b'{"index":%d,"delta":{"content":%b},"logprobs":null,"finish_reason":null}' % (
                index,
                _encode(chunk.content),
            )
        return _encode(
            {
                "index": index,
                "delta": self._make_delta(index, chunk),
                "logprobs": None,
                "finish_reason": _get_reason(chunk, has_functions=self._has_functions),
            }
        )

    def _make_delta(self, index: int, chunk: Chunk) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        if not self._started[index]:
            self._started[index] = True
            delta["role"] = "assistant"
            delta["content"] = ""
        if chunk.content:
            delta["content"] = chunk.content
        if chunk.reasoning:
            delta["reasoning_content"] = chunk.reasoning
        if chunk.refusal:
            delta["refusal"] = chunk.refusal
        if chunk.tool_calls and self._has_functions:
            delta["function_call"] = _make_function(chunk.tool_calls[0])
        elif chunk.tool_calls:
            # Calls may arrive in several chunks, and each has an index of its own.
            first = self._calls[index]
            self._calls[index] += len(chunk.tool_calls)
            delta["tool_calls"] = [
                {"index": position, **_make_tool_call(call)}
                for position, call in enumerate(chunk.tool_calls, first)
            ]
        return delta
