"""`POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.gateway.errors import RequestError, make_error_body
from foundry_api.gateway.limits.admission import Work
from foundry_api.gateway.openai.chat_request import ChatBody, make_call_arguments
from foundry_api.gateway.openai.tokens import estimate_prompt_tokens
from foundry_api.gateway.streaming import send_events
from foundry_api.types.errors import ContextOverflow

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aiohttp import web

    from foundry_api.core.options import ChatOptions
    from foundry_api.gateway.exchange import Exchange
    from foundry_api.gateway.limits.admission import Ticket
    from foundry_api.gateway.openai.chat_request import ChatCallArguments
    from foundry_api.types.messages import Chunk, Completion, ToolCall

__all__ = ["create_chat_completion", "make_error_event"]

END_OF_STREAM = b"data: [DONE]\n\n"
# Between the seeds of several answers to one request.
SEED_STEP = 7919


async def create_chat_completion(exchange: Exchange) -> web.StreamResponse:
    """Answer a conversation, at once or as a stream."""
    body = await exchange.read_json(ChatBody)
    arguments = make_call_arguments(body, exchange.require_model(body.model))
    max_tokens = arguments.options.get("max_tokens")
    ticket = exchange.admit(
        Work(
            model=arguments.model,
            prompt_tokens=estimate_prompt_tokens(arguments.messages),
            max_tokens=None if max_tokens is None else max_tokens * arguments.choices,
            body_bytes=exchange.request.content_length or 0,
        )
    )
    if arguments.streamed:
        return await send_events(exchange, _stream(exchange, arguments, ticket), make_error_event)
    async with ticket:
        completions = await _complete_all(exchange, arguments)
        for completion in completions:
            ticket.settle(completion.usage)
    return exchange.respond_json(_make_completion(arguments, completions, exchange))


def make_error_event(error: RequestError) -> bytes:
    """Encode an error as the last event of a stream."""
    return b"data: %b\n\n" % make_error_body(error)


async def _complete_all(exchange: Exchange, arguments: ChatCallArguments) -> list[Completion[Any]]:
    if arguments.choices == 1:
        return [await _complete(exchange, arguments, arguments.options)]
    tasks = [
        asyncio.ensure_future(_complete(exchange, arguments, _vary_seed(arguments, index)))
        for index in range(arguments.choices)
    ]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _cancel(tasks)


async def _complete(
    exchange: Exchange, arguments: ChatCallArguments, options: ChatOptions
) -> Completion[Any]:
    async def complete(options: ChatOptions) -> Completion[Any]:
        return await exchange.context.client.chat(
            arguments.messages,
            response_model=arguments.schema,
            **_limit_time(exchange, options),
        )

    try:
        return await complete(options)
    except ContextOverflow as error:
        return await complete(_clamp_max_tokens(options, error))


def _limit_time(exchange: Exchange, options: ChatOptions) -> ChatOptions:
    return {**options, "deadline": exchange.remaining_s}


def _clamp_max_tokens(options: ChatOptions, error: ContextOverflow) -> ChatOptions:
    """Return options with the tokens that the context has room for; raise if it has none.

    Many clients send a constant max_tokens that is larger than the context of a small model.
    """
    if "max_tokens" not in options or error.available_tokens is None:
        raise error
    return {**options, "max_tokens": error.available_tokens}


def _vary_seed(arguments: ChatCallArguments, index: int) -> ChatOptions:
    """Return options with a seed of its own for each answer, if the caller gave a seed."""
    seed = arguments.options.get("seed")
    if seed is None:
        return arguments.options
    return {**arguments.options, "seed": (seed + index * SEED_STEP) % 2**31}


def _make_completion(
    arguments: ChatCallArguments, completions: list[Completion[Any]], exchange: Exchange
) -> dict[str, Any]:
    prompt_tokens = completions[0].usage.prompt_tokens
    completion_tokens = sum(one.usage.completion_tokens for one in completions)
    return {
        "id": _make_id(),
        "object": "chat.completion",
        "created": int(exchange.context.wall_clock()),
        "model": arguments.model,
        "choices": [
            {
                "index": index,
                "message": _make_message(completion),
                "finish_reason": completion.finish_reason,
                "logprobs": None,
            }
            for index, completion in enumerate(completions)
        ],
        "usage": _make_usage(prompt_tokens, completion_tokens),
        "system_fingerprint": None,
    }


def _make_message(completion: Completion[Any]) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": completion.content or (None if completion.tool_calls else ""),
        "refusal": completion.refusal or None,
        "annotations": [],
    }
    if completion.reasoning:
        message["reasoning_content"] = completion.reasoning
    if completion.tool_calls:
        message["tool_calls"] = [_make_tool_call(call) for call in completion.tool_calls]
    return message


def _make_tool_call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": call.function.arguments},
    }


def _make_usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _make_id() -> str:
    return f"chatcmpl-{secrets.token_hex(12)}"


async def _stream(
    exchange: Exchange, arguments: ChatCallArguments, ticket: Ticket
) -> AsyncGenerator[bytes]:
    """Yield the events of a stream."""
    encoder = _ChunkEncoder(exchange, arguments)
    prompt_tokens = completion_tokens = 0
    async with ticket:
        chunks = (
            _stream_choice(exchange, arguments, 0)
            if arguments.choices == 1
            else _merge_choices(exchange, arguments)
        )
        async with aclosing(chunks):
            async for index, chunk in chunks:
                ticket.add_output(1)
                if chunk.usage is not None:
                    prompt_tokens = chunk.usage.prompt_tokens
                    completion_tokens += chunk.usage.completion_tokens
                    ticket.settle(chunk.usage)
                yield encoder.encode(index, chunk)
    if arguments.includes_usage:
        yield encoder.encode_usage(_make_usage(prompt_tokens, completion_tokens))
    yield END_OF_STREAM


async def _stream_choice(
    exchange: Exchange, arguments: ChatCallArguments, index: int
) -> AsyncGenerator[tuple[int, Chunk]]:
    """Yield the chunks of one answer, with its index."""
    options = _vary_seed(arguments, index)
    for is_last_attempt in (False, True):
        chunks = exchange.context.client.stream_chat(
            arguments.messages,
            response_model=arguments.schema,
            **_limit_time(exchange, options),
        )
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield index, chunk
        except ContextOverflow as error:  # before the first chunk
            if is_last_attempt:
                raise
            options = _clamp_max_tokens(options, error)
        else:
            return


async def _merge_choices(
    exchange: Exchange, arguments: ChatCallArguments
) -> AsyncGenerator[tuple[int, Chunk]]:
    """Yield the chunks of several answers as they arrive."""
    arrived: asyncio.Queue[tuple[int, Chunk] | BaseException | None]
    arrived = asyncio.Queue(maxsize=arguments.choices)

    async def collect(index: int) -> None:
        try:
            async with aclosing(_stream_choice(exchange, arguments, index)) as chunks:
                async for item in chunks:
                    await arrived.put(item)
        except Exception as error:  # noqa: BLE001 - the reader raises it
            await arrived.put(error)
        else:
            await arrived.put(None)

    tasks = [asyncio.ensure_future(collect(index)) for index in range(arguments.choices)]
    remaining = len(tasks)
    try:
        while remaining:
            item = await arrived.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                remaining -= 1
            else:
                yield item
    finally:
        await _cancel(tasks)


async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    """Cancel tasks that still run, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _ChunkEncoder:
    """Encodes chunks as events. What all chunks of a stream share is encoded once."""

    def __init__(self, exchange: Exchange, arguments: ChatCallArguments) -> None:
        shared = msgspec.json.encode(
            {
                "id": _make_id(),
                "object": "chat.completion.chunk",
                "created": int(exchange.context.wall_clock()),
                "model": arguments.model,
                "system_fingerprint": None,
            }
        )
        self._head = b"data: %b" % shared[:-1]  # without the closing brace
        # With `include_usage` every chunk has the member, and only the last one has counts.
        self._end = b',"usage":null}\n\n' if arguments.includes_usage else b"}\n\n"
        self._started = [False] * arguments.choices

    def encode(self, index: int, chunk: Chunk) -> bytes:
        """Encode a chunk of an answer."""
        # Text is by far the most frequent, so its event is not built as a dictionary.
        if chunk.content and self._started[index]:
            delta = b'{"content":%b}' % msgspec.json.encode(chunk.content)
        else:
            delta = msgspec.json.encode(self._make_delta(index, chunk))
        finish = b"null" if chunk.finish_reason is None else b'"%b"' % chunk.finish_reason.encode()
        return b'%b,"choices":[{"index":%d,"delta":%b,"logprobs":null,"finish_reason":%b}]%b' % (
            self._head,
            index,
            delta,
            finish,
            self._end,
        )

    def encode_usage(self, usage: dict[str, int]) -> bytes:
        """Encode the last chunk, which has the token counts."""
        return b'%b,"choices":[],"usage":%b}\n\n' % (self._head, msgspec.json.encode(usage))

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
        if chunk.tool_calls:
            delta["tool_calls"] = [
                {"index": position, **_make_tool_call(call)}
                for position, call in enumerate(chunk.tool_calls)
            ]
        return delta
