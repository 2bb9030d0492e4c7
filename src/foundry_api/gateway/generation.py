"""Generate answers of chat models: what several routes have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import structs

from foundry_api.client.chat import complete_messages, stream_blocks
from foundry_api.core.options import ChatOptions
from foundry_api.gateway.errors import name_member
from foundry_api.gateway.limits.admission import Work
from foundry_api.gateway.limits.broken_calls import BrokenCallCharge
from foundry_api.gateway.tokens import estimate_prompt_tokens, estimate_text_tokens
from foundry_api.structured.errors import ValidationFailed
from foundry_api.types.errors import (
    ContextOverflow,
    InvalidRequest,
    StructuredOutputError,
    ToolCallError,
    UnsupportedFeature,
)
from foundry_api.types.messages import Chunk, FinishReason, Message, ToolCall, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from foundry_api.gateway.exchange import Exchange
    from foundry_api.gateway.limits.admission import Ticket

    # Nothing decodes a `Generation`, so that this type is not needed when it runs.
    from foundry_api.structured.output_spec import OutputSpec  # noqa: TC004
    from foundry_api.types.messages import Completion

__all__ = [
    "Answer",
    "Generation",
    "admit",
    "complete",
    "complete_all",
    "stream",
    "stream_all",
]

# Tries until a model calls its tools correctly; each costs a complete answer.
MAX_TRIES = 3
# A model that is sampled at temperature 0 would make the same call again.
RETRY_TEMPERATURE = 1.0
# Between the seeds of several answers to one request, and of several tries.
SEED_STEP = 7919
SEEDS = 2**31
_NO_MEMBERS: Mapping[str, str] = MappingProxyType({})


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One answer to generate.

    Attributes:
        model: The name of the model as requested.
        messages: The conversation.
        options: The options of the client's call, with the model.
        schema: JSON schema of the answer; None for any text.
        choice: The texts of which the answer is one; empty for any text.
        grammar: Lark grammar of the answer; None for any text.
        strict_tools: The form of the arguments of tools that were requested to be strict.
        max_calls: Maximum number of tool calls in the answer; None for no limit. Models have no
            such option, so further calls are dropped.
        members: See `name_member`.
    """

    model: str
    messages: tuple[Message, ...]
    options: ChatOptions
    schema: dict[str, Any] | None = None
    choice: tuple[str, ...] = ()
    grammar: str | None = None
    strict_tools: Mapping[str, OutputSpec] = msgspec.field(default_factory=dict[str, "OutputSpec"])
    max_calls: int | None = None
    members: Mapping[str, str] = _NO_MEMBERS

    @property
    def prompt_tokens(self) -> int:
        """An estimate of the tokens of the prompt."""
        return estimate_prompt_tokens(self.messages, self.options.get("tools"))

    @property
    def is_free(self) -> bool:
        """Whether the answer may be any text."""
        return self.schema is None and not self.choice and self.grammar is None

    @property
    def format(self) -> dict[str, Any]:
        """What the answer has to be, as arguments of the client's methods."""
        return {
            "response_model": self.schema,
            "choice": self.choice or None,
            "grammar": self.grammar,
        }

    def vary(self, index: int) -> Generation:
        """Return the generation with a seed of its own, if the caller gave a seed."""
        seed = self.options.get("seed")
        if seed is None or not index:
            return self
        return structs.replace(self, options={**self.options, "seed": _move_seed(seed, index)})


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A complete answer."""

    content: str
    finish_reason: FinishReason
    usage: Usage
    reasoning: str = ""
    refusal: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


def admit(exchange: Exchange, generations: Sequence[Generation], choices: int = 1) -> Ticket:
    """Admit the call of an exchange that generates answers, as many for each prompt as choices."""
    limits = [one.options.get("max_tokens") for one in generations]
    prompt_tokens = sum([one.prompt_tokens for one in generations[::choices]])
    return exchange.admit(
        Work(
            model=generations[0].model,
            prompt_tokens=prompt_tokens,
            max_tokens=None if None in limits else sum(limit or 0 for limit in limits),
            answers=len(generations) if None in limits else 1,
            body_bytes=exchange.request.content_length or 0,
        )
    )


async def complete(exchange: Exchange, generation: Generation, ticket: Ticket) -> Answer:
    """Generate an answer. The ticket is charged for what is not a part of it.

    Raises:
        FoundryError: As `FoundryAPIClient.chat`.
    """
    tries = _Tries(generation)
    while True:
        try:
            with BrokenCallCharge(ticket):
                client = exchange.context.client
                options = _add_exchange_options(exchange, generation, tries.options)
                completion: Completion[Any]
                if generation.is_free:
                    completion = await complete_messages(client, generation.messages, options)
                else:
                    completion = await client.chat(
                        generation.messages, **generation.format, **options
                    )
            calls = completion.tool_calls[: generation.max_calls]
            if generation.strict_tools:
                try:
                    await _check_calls(generation, calls)
                except ToolCallError:
                    ticket.add_lost(0, completion.usage.completion_tokens)
                    raise
        except ContextOverflow as error:
            name_member(error, generation.members)
            tries.adapt(error)
        except (InvalidRequest, UnsupportedFeature) as error:
            name_member(error, generation.members)
            raise
        except ToolCallError as error:
            tries.adapt(error)
            ticket.add_lost(generation.prompt_tokens, 0)  # the next try reads it again
        except StructuredOutputError as error:
            if error.finish_reason != "length":
                ticket.settle(_get_usage(error))
                raise
            return Answer(content=error.partial, finish_reason="length", usage=_get_usage(error))
        else:
            if not completion.usage.total_tokens:  # of a service that does not count
                text = completion.content + completion.reasoning
                ticket.add_output(estimate_text_tokens(text))
            return _make_answer(generation, completion, calls)


async def stream(
    exchange: Exchange, generation: Generation, ticket: Ticket, index: int = 0
) -> AsyncGenerator[tuple[int, list[Chunk]]]:
    """Stream an answer, in lists of chunks that arrived together, each with the answer's index.

    It is tried again only before its first chunk.
    """
    tries = _Tries(generation)
    has_started = False
    checks_calls = bool(generation.strict_tools) or generation.max_calls is not None
    while True:
        calls = _StreamedCalls(generation)
        try:
            blocks = stream_blocks(
                exchange.context.client,
                generation.messages,
                **generation.format,
                **_add_exchange_options(exchange, generation, tries.options),
            )
            async with aclosing(blocks):
                async for chunks in blocks:
                    if checks_calls:
                        chunks = await calls.check(chunks)  # noqa: PLW2901
                    has_started = True
                    yield index, chunks
        except ContextOverflow as error:
            name_member(error, generation.members)
            if has_started:
                raise
            tries.adapt(error)
        except (InvalidRequest, UnsupportedFeature) as error:
            name_member(error, generation.members)
            raise
        except ToolCallError as error:
            ticket.add_lost(0, estimate_text_tokens(error.text))
            if has_started:
                raise
            tries.adapt(error)
            ticket.add_lost(generation.prompt_tokens, 0)
        except StructuredOutputError as error:
            if error.finish_reason != "length":
                ticket.settle(_get_usage(error))
                raise
            model, usage = error.model or generation.model, _get_usage(error)
            yield index, [Chunk("", model, finish_reason="length", usage=usage)]
            return
        else:
            return


async def complete_all(
    exchange: Exchange, generations: Sequence[Generation], ticket: Ticket
) -> list[Answer]:
    """Generate several answers at the same time; the first failure ends them all."""
    if len(generations) == 1:
        return [await complete(exchange, generations[0], ticket)]
    tasks = [asyncio.ensure_future(complete(exchange, one, ticket)) for one in generations]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _cancel(tasks)


def stream_all(
    exchange: Exchange, generations: Sequence[Generation], ticket: Ticket
) -> AsyncGenerator[tuple[int, list[Chunk]]]:
    """Yield the chunks of several answers as they arrive, with the index of their answer."""
    if len(generations) == 1:
        return stream(exchange, generations[0], ticket)
    return _merge_streams(exchange, generations, ticket)


async def _merge_streams(
    exchange: Exchange, generations: Sequence[Generation], ticket: Ticket
) -> AsyncGenerator[tuple[int, list[Chunk]]]:
    arrived: asyncio.Queue[tuple[int, list[Chunk]] | Exception | None]
    arrived = asyncio.Queue(maxsize=len(generations))

    async def collect(index: int, generation: Generation) -> None:
        try:
            async with aclosing(stream(exchange, generation, ticket, index)) as blocks:
                async for block in blocks:
                    await arrived.put(block)
        except Exception as error:  # noqa: BLE001 - the reader raises it
            await arrived.put(error)
        else:
            await arrived.put(None)

    tasks = [asyncio.ensure_future(collect(*item)) for item in enumerate(generations)]
    remaining = len(tasks)
    try:
        while remaining:
            item = await arrived.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                remaining -= 1
            else:
                yield item
    finally:
        await _cancel(tasks)


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks that still run, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _Tries:
    """The options of the tries of one answer.

    Attributes:
        options: Those of the next try.
    """

    def __init__(self, generation: Generation) -> None:
        self.options: ChatOptions = generation.options
        self._wrong_calls = 0

    def adapt(self, error: ContextOverflow | ToolCallError) -> None:
        """Change the options after an error; raise it if another try would not help."""
        if isinstance(error, ContextOverflow):
            self._clamp_max_tokens(error)
        else:
            self._resample(error)

    def _clamp_max_tokens(self, error: ContextOverflow) -> None:
        # Many clients send a constant max_tokens that is larger than the context of a small model.
        limit, available = self.options.get("max_tokens"), error.available_tokens
        if limit is None or available is None or available >= limit:
            raise error
        self.options = {**self.options, "max_tokens": available}

    def _resample(self, error: ToolCallError) -> None:
        self._wrong_calls += 1
        # A call that max_tokens cut would be cut again.
        if self._wrong_calls == MAX_TRIES or error.finish_reason == "length":
            raise error
        self.options = {
            **self.options,
            "temperature": max(self.options.get("temperature") or 0.0, RETRY_TEMPERATURE),
            "seed": _move_seed(self.options.get("seed") or 0, self._wrong_calls),
        }


def _move_seed(seed: int, steps: int) -> int:
    return (seed + steps * SEED_STEP) % SEEDS


def _add_exchange_options(
    exchange: Exchange, generation: Generation, options: ChatOptions
) -> ChatOptions:
    """Add the time limits of the call, and the models that may answer in place of its own."""
    options = {**options, **exchange.time_options}
    context, key = exchange.context, exchange.key
    if context.config.fallbacks:
        options["model"] = context.upstreams.get_chain(
            generation.model, lambda name: key is None or context.model_names.is_allowed(key, name)
        )
    return options


class _StreamedCalls:
    """Checks the tool calls in a stream, and drops those above the maximum."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._remaining = generation.max_calls

    async def check(self, chunks: list[Chunk]) -> list[Chunk]:
        """Return the chunks without the calls above the maximum.

        Raises:
            ToolCallError: The arguments of a strict tool are invalid.
        """
        checked: list[Chunk] = []
        for chunk in chunks:
            if calls := chunk.tool_calls:
                if self._remaining is not None:
                    calls = calls[: self._remaining]
                    self._remaining -= len(calls)
                    chunk = structs.replace(chunk, tool_calls=calls)  # noqa: PLW2901
                await _check_calls(self._generation, calls)
            checked.append(chunk)
        return checked


async def _check_calls(generation: Generation, calls: Sequence[ToolCall]) -> None:
    """Raise ToolCallError if the arguments of a strict tool are invalid."""
    for call in calls:
        spec = generation.strict_tools.get(call.function.name)
        if spec is None:
            continue
        try:
            await spec.validate_async(call.function.arguments or "{}")
        except ValidationFailed as error:
            raise ToolCallError(
                f"the model called {call.function.name} with invalid arguments: {error}",
                text=call.function.arguments,
            ) from error


def _make_answer(
    generation: Generation, completion: Completion[Any], calls: tuple[ToolCall, ...]
) -> Answer:
    content = completion.content
    if generation.schema is not None and not calls and not _is_json(content):
        # A model of a service that does not enforce schemas may write prose around the JSON.
        content = msgspec.json.encode(completion.parsed).decode()
    return Answer(
        content=content,
        reasoning=completion.reasoning,
        refusal=completion.refusal,
        tool_calls=calls,
        finish_reason=completion.finish_reason,
        usage=completion.usage,
    )


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _get_usage(error: StructuredOutputError) -> Usage:
    prompt, output = error.prompt_tokens, error.completion_tokens
    return Usage(prompt, output, prompt + output)
