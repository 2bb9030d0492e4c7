"""Prompts and conversations up to the end of the context, and beyond."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from foundry_api import ContextOverflow, Message
from real_model.models import CONTEXT_LENGTH, copy_with_config
from real_model.processes import get_cpu_s
from service.helpers import list_hosts

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api import FoundryAPIClient

SMALL_CONTEXT = 512
ENDLESS = {"type": "lark_grammar", "lark_grammar": "start: /[0-9]{5000,}/"}


@pytest.fixture
async def small(own_client: FoundryAPIClient, tmp_path: Path) -> FoundryAPIClient:
    """Return a client whose model `small` has a context that a conversation soon fills."""
    variant = copy_with_config(tmp_path / "small", context_length=SMALL_CONTEXT)
    await own_client.models.register(variant, "small")
    return own_client


async def fill(client: FoundryAPIClient, tokens: int, model: str | None = None) -> str:
    """Return a prompt of exactly this number of tokens, with those of the template."""
    template = (await client.complete("a", max_tokens=1, model=model)).usage.prompt_tokens - 1
    return "a" + " a" * (tokens - template - 1)


async def test_answer_and_prompt_may_fill_the_context_exactly(client: FoundryAPIClient) -> None:
    prompt = "Hi"
    size = (await client.complete(prompt, max_tokens=1)).usage.prompt_tokens
    room = CONTEXT_LENGTH - size
    answer = await client.complete(prompt, max_tokens=room, temperature=0, stop="!")
    assert answer.finish_reason == "stop"
    with pytest.raises(ContextOverflow) as caught:
        await client.complete(prompt, max_tokens=room + 1, temperature=0)
    error = caught.value
    assert (error.prompt_tokens, error.max_tokens) == (size, room + 1)
    assert (error.context_length, error.available_tokens) == (CONTEXT_LENGTH, room)
    assert error.field == "max_tokens"


async def test_a_prompt_may_leave_room_for_one_token(client: FoundryAPIClient) -> None:
    """The engine reads 8,191 tokens, which takes about a minute of processor time."""
    prompt = await fill(client, CONTEXT_LENGTH - 1)
    answer = await client.complete(prompt, max_tokens=1, temperature=0)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (CONTEXT_LENGTH - 1, 1)
    assert answer.finish_reason == "length"


@pytest.mark.parametrize("max_tokens", [None, 1])
async def test_a_prompt_that_fills_the_context_is_refused_without_work(
    own_client: FoundryAPIClient, tmp_path: Path, max_tokens: int | None
) -> None:
    prompt = await fill(own_client, CONTEXT_LENGTH)
    (host,) = list_hosts(tmp_path / "own")
    before = get_cpu_s(host)
    with pytest.raises(ContextOverflow) as caught:
        await own_client.complete(prompt, max_tokens=max_tokens)
    assert caught.value.prompt_tokens == CONTEXT_LENGTH
    assert caught.value.available_tokens is None
    assert caught.value.field == ("prompt" if max_tokens is None else "max_tokens")
    assert get_cpu_s(host) - before < 2, "tokenizing takes a fraction of a second, reading a minute"


async def test_without_max_tokens_an_answer_ends_with_the_context(small: FoundryAPIClient) -> None:
    """The grammar allows no end, so that only the context ends the answer."""
    stream = small.stream_complete(
        "Count.", model="small", temperature=0, extra={"response_format": ENDLESS}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage.total_tokens == SMALL_CONTEXT
    assert chunks[-1].finish_reason == "length"


async def test_a_conversation_outgrows_the_context_and_continues_without_its_beginning(
    small: FoundryAPIClient,
) -> None:
    messages: list[Message] = []
    overflows: list[ContextOverflow] = []
    for number in range(16):
        messages.append(Message("user", f"Tell me something about the number {number}."))
        while True:
            try:
                answer = await small.chat(messages, model="small", max_tokens=60, temperature=0)
            except ContextOverflow as error:
                overflows.append(error)
                del messages[:2]
            else:
                break
        assert answer.usage.total_tokens <= SMALL_CONTEXT
        messages.append(Message("assistant", answer.content))
    assert len(overflows) >= 2
    for error in overflows:
        assert error.context_length == SMALL_CONTEXT
        assert error.prompt_tokens + 60 > SMALL_CONTEXT


async def test_a_stored_conversation_survives_an_overflow(small: FoundryAPIClient) -> None:
    """A turn that does not fit is not part of the conversation."""
    async with small.responses.conversation(model="small") as conversation:
        first = await conversation.send("My name is Ada.", max_output_tokens=20)
        with pytest.raises(ContextOverflow):
            await conversation.send("a " * SMALL_CONTEXT, max_output_tokens=20)
        second = await conversation.send("Hello!", max_output_tokens=20)
        assert second.usage.prompt_tokens < first.usage.total_tokens + 30
        assert second.usage.prompt_tokens > first.usage.total_tokens
