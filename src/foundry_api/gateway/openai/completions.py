"""`POST /v1/completions`: text completions, in the older form.

The engine knows chats only, so the prompt is the message of a user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.gateway.checks import check_text, make_invalid, make_unsupported
from foundry_api.gateway.generation import Generation, admit, complete_all
from foundry_api.gateway.openai.chat_request import MAX_CHOICES, StreamOptions, get_choices
from foundry_api.gateway.openai.choices import (
    UsageCounter,
    make_error_event,
    make_head,
    stream_choices,
)
from foundry_api.gateway.streaming import send_events
from foundry_api.types.messages import Message

if TYPE_CHECKING:
    from aiohttp import web

    from foundry_api.core.options import ChatOptions
    from foundry_api.gateway.exchange import Exchange
    from foundry_api.types.messages import Chunk

__all__ = ["create_completion"]

# What OpenAI's API generates without a limit.
DEFAULT_MAX_TOKENS = 16


class CompletionBody(msgspec.Struct, kw_only=True):
    """The JSON body of a request. Null means the default."""

    prompt: str | list[str | int | list[int]]
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    echo: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # What the engine cannot do.
    best_of: int | None = None
    suffix: str | None = None
    logprobs: int | None = None
    logit_bias: dict[str, float] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


async def create_completion(exchange: Exchange) -> web.StreamResponse:
    """Complete one prompt or several, at once or as a stream."""
    body = await exchange.read_json(CompletionBody)
    model = exchange.require_model(body.model)
    _refuse_unsupported(body)
    prompts, choices = _get_prompts(body), get_choices(body.n)
    if len(prompts) * choices > MAX_CHOICES:
        raise make_invalid(
            "prompt",
            f"{len(prompts)} prompts with {choices} choices are more than the {MAX_CHOICES} "
            "answers of one request.",
        )
    options = _make_options(body, model)
    generations = [
        Generation(model=model, messages=(Message("user", prompt),), options=options).vary(index)
        for prompt in prompts
        for index in range(choices)
    ]
    echoes = [prompt if body.echo else "" for prompt in prompts for _ in range(choices)]
    ticket = admit(exchange, generations, choices)
    counter = UsageCounter(choices)
    head = make_head(exchange, "cmpl", "text_completion", model)
    if body.stream:
        events = stream_choices(
            exchange,
            generations,
            ticket,
            head=head,
            encode_choice=_ChoiceEncoder(echoes).encode,
            counter=counter,
            includes_usage=body.stream_options is not None
            and bool(body.stream_options.include_usage),
        )
        return await send_events(exchange, events, make_error_event)
    async with ticket:
        answers = await complete_all(exchange, generations)
        for index, answer in enumerate(answers):
            counter.add(index, answer.usage)
        ticket.settle(counter.usage)
    return exchange.respond_json(
        {
            **head,
            "choices": [
                _make_choice(index, echoes[index] + answer.content, answer.finish_reason)
                for index, answer in enumerate(answers)
            ],
            "usage": counter.usage,
        }
    )


def _refuse_unsupported(body: CompletionBody) -> None:
    for name, value, reason in (
        ("best_of", (body.best_of or 1) > (body.n or 1), "The engine cannot rank answers."),
        ("suffix", body.suffix, "The engine continues a text; it cannot fill a gap."),
        # 0 asks for the log probabilities of the chosen tokens.
        ("logprobs", body.logprobs is not None, "The engine returns no log probabilities."),
        ("logit_bias", body.logit_bias, "The engine cannot bias single tokens."),
        ("presence_penalty", body.presence_penalty, "The engine has no presence penalty."),
        ("frequency_penalty", body.frequency_penalty, "The engine has no frequency penalty."),
    ):
        if value:
            raise make_unsupported(name, reason)


def _get_prompts(body: CompletionBody) -> list[str]:
    inputs = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not inputs:
        raise make_invalid("prompt", "prompt is empty.")
    prompts: list[str] = []
    for index, prompt in enumerate(inputs):
        if not isinstance(prompt, str):
            raise make_invalid("prompt", "The engine takes texts, not tokens. Send strings.")
        name = "prompt" if isinstance(body.prompt, str) else f"prompt[{index}]"
        if not prompt:
            raise make_invalid(name, f"{name} is empty.")
        check_text(name, prompt)
        prompts.append(prompt)
    return prompts


def _make_options(body: CompletionBody, model: str) -> ChatOptions:
    options: ChatOptions = {
        "model": model,
        "max_tokens": DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
    }
    if body.temperature is not None:
        options["temperature"] = body.temperature
    if body.top_p is not None:
        options["top_p"] = body.top_p
    if body.seed is not None:
        options["seed"] = body.seed
    if body.stop:
        options["stop"] = body.stop
    return options


def _make_choice(index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}


class _ChoiceEncoder:
    """Encodes chunks as choices of an event. The first chunk of each begins with its echo."""

    def __init__(self, echoes: list[str]) -> None:
        self._echoes = echoes

    def encode(self, index: int, chunk: Chunk) -> bytes:
        text = chunk.content
        if echo := self._echoes[index]:
            text, self._echoes[index] = echo + text, ""
        return msgspec.json.encode(_make_choice(index, text, chunk.finish_reason))
