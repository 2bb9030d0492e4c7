"""`POST /v1/completions`: text completions, in the older form.

The engine knows chats only, so the prompt is the message of a user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.gateway.checks import check_text, make_invalid
from foundry_api.gateway.errors import make_error_event
from foundry_api.gateway.generation import Generation, admit, complete_all
from foundry_api.gateway.openai.choices import (
    UsageCounter,
    make_head,
    stream_choices,
)
from foundry_api.gateway.openai.sampling import (
    MAX_CHOICES,
    CompletionsBody,
    get_choices,
    make_options,
    refuse_members,
    refuse_unsupported,
)
from foundry_api.gateway.streaming import send_events
from foundry_api.types.messages import Message

if TYPE_CHECKING:
    from aiohttp import web

    from foundry_api.gateway.exchange import Exchange
    from foundry_api.types.messages import Chunk

__all__ = ["create_completion"]

# What OpenAI's API generates without a limit.
DEFAULT_MAX_TOKENS = 16


class CompletionBody(CompletionsBody, kw_only=True):
    """The JSON body of `POST /v1/completions`. Null means the default; 16 for `max_tokens`.

    Attributes:
        prompt: A text, or several. Tokens are refused.
        echo: Whether an answer begins with its prompt.
        best_of: Refused above `n`: the engine cannot rank answers.
        suffix: Refused: the engine cannot fill a gap.
        logprobs: Refused: the engine returns none.
    """

    prompt: str | list[str | int | list[int]]
    echo: bool | None = None
    # What the engine cannot do.
    best_of: int | None = None
    suffix: str | None = None
    logprobs: int | None = None


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
    limit = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    options = make_options(body, model, max_tokens=limit, stop=body.stop)
    generations = [
        Generation(
            model=model,
            messages=(Message("user", prompt),),
            options=options,
            members=_name_members(body, place),
        ).vary(index)
        for place, prompt in enumerate(prompts)
        for index in range(choices)
    ]
    echoes = [prompt if body.echo else "" for prompt in prompts for _ in range(choices)]
    ticket = admit(exchange, generations, choices)
    counter = UsageCounter(choices)
    if body.stream:
        events = stream_choices(
            exchange,
            generations,
            ticket,
            id_prefix="cmpl",
            kind="text_completion",
            encode_choice=_ChoiceEncoder(echoes).encode,
            counter=counter,
            includes_usage=body.includes_usage,
        )
        return await send_events(exchange, events, make_error_event)
    async with ticket:
        answers = await complete_all(exchange, generations, ticket)
        for index, answer in enumerate(answers):
            counter.add(index, answer.usage)
        ticket.settle(counter.usage)
    return exchange.respond_json(
        {
            **make_head(exchange, "cmpl", "text_completion", model),
            "choices": [
                _make_choice(index, echoes[index] + answer.content, answer.finish_reason)
                for index, answer in enumerate(answers)
            ],
            "usage": counter.usage,
        }
    )


def _refuse_unsupported(body: CompletionBody) -> None:
    refuse_unsupported(body)
    refuse_members(
        (
            ("best_of", (body.best_of or 1) > (body.n or 1), "The engine cannot rank answers."),
            ("suffix", body.suffix, "The engine continues a text; it cannot fill a gap."),
            # 0 asks for the log probabilities of the chosen tokens.
            ("logprobs", body.logprobs is not None, "The engine returns no log probabilities."),
        )
    )


def _name_members(body: CompletionBody, index: int) -> dict[str, str]:
    """Return the member that an argument of the client was made of; see `name_member`."""
    prompt = "prompt" if isinstance(body.prompt, str) else f"prompt[{index}]"
    return {"prompt": prompt, "messages": prompt}


def _get_prompts(body: CompletionBody) -> list[str]:
    inputs = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not inputs:
        raise make_invalid("prompt", "prompt is empty.")
    prompts: list[str] = []
    for index, prompt in enumerate(inputs):
        if not isinstance(prompt, str):
            raise make_invalid("prompt", "The engine takes texts, not tokens. Send strings.")
        name = "prompt" if isinstance(body.prompt, str) else f"prompt[{index}]"
        if not prompt.strip():
            raise make_invalid(name, f"{name} is empty.")
        check_text(name, prompt)
        prompts.append(prompt)
    return prompts


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
