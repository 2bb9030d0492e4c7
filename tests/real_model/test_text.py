"""Streams, stop strings, multi-byte text and seeds with a real tokenizer."""

from __future__ import annotations

import asyncio
import unicodedata
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from foundry_api import Chunk, FoundryAPIClient

PROMPTS = {
    "plain": "What is the capital of France?",
    "paragraphs": "Name three fruits and describe each.",
    "chinese": "Translate to Chinese: hello",
    "emoji": "Write three emoji.",
}
MAX_TOKENS = 40

# The numbers of tokens in these texts, counted by Hugging Face's `tokenizers`. SmolLM2 has no
# tokens for most of the characters, so it reads them as two to four tokens each. Text that is
# altered on its way, such as normalised or escaped, has other numbers.
TOKEN_COUNTS = {
    "naïve café": 3,
    unicodedata.normalize("NFD", "naïve café"): 8,
    "日本語のテキスト": 15,
    "안녕하세요": 14,
    "مرحبا بالعالم": 10,
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇨🇭": 33,
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢": 21,  # noqa: RUF001 - letters of four bytes
    "a\tb\n\n  c \\ \" ' \x01 \u2028 \ufeff": 15,
}


async def read(client: FoundryAPIClient, prompt: str, **options: Any) -> list[Chunk]:
    stream = client.stream_complete(prompt, **options)
    return [chunk async for chunk in stream]


def join(chunks: list[Chunk]) -> str:
    return "".join(chunk.content for chunk in chunks)


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1, "seed": 7}])
@pytest.mark.parametrize("name", PROMPTS)
async def test_a_stream_has_the_text_of_the_whole_answer(
    client: FoundryAPIClient, name: str, sampling: dict[str, float]
) -> None:
    options = {"max_tokens": MAX_TOKENS, **sampling}
    answer = await client.complete(PROMPTS[name], **options)
    chunks = await read(client, PROMPTS[name], **options)
    assert join(chunks) == answer.content
    assert (chunks[-1].finish_reason, chunks[-1].usage) == (answer.finish_reason, answer.usage)
    assert len(chunks) > answer.usage.completion_tokens / 4, "the chunks arrive token by token"
    assert all(chunk.content for chunk in chunks[:-1])


@pytest.mark.parametrize("name", PROMPTS)
async def test_a_stop_string_across_tokens_ends_the_answer_before_it(
    client: FoundryAPIClient, name: str
) -> None:
    """Each stop string ends one token and begins the next one."""
    prompt = PROMPTS[name]
    pieces = [
        chunk.content for chunk in await read(client, prompt, max_tokens=MAX_TOKENS, temperature=0)
    ]
    text, stops = "".join(pieces), dict[str, None]()
    for piece, following in pairwise(pieces[:-1]):
        stops[piece[-1:] + following[:2]] = None
    assert len(stops) >= 2
    for stop in list(stops)[:8]:
        options = {"max_tokens": MAX_TOKENS, "temperature": 0, "stop": stop}
        answer = await client.complete(prompt, **options)
        assert answer.content == text[: text.index(stop)], repr(stop)
        assert answer.finish_reason == "stop"
        chunks = await read(client, prompt, **options)
        assert join(chunks) == answer.content, repr(stop)
        assert chunks[-1].finish_reason == "stop"


async def test_the_first_of_several_stop_strings_ends_the_answer(client: FoundryAPIClient) -> None:
    answer = await client.complete(
        PROMPTS["plain"], temperature=0, max_tokens=MAX_TOKENS, stop=["France", "tal of", " is"]
    )
    assert answer.content == "The capi"


@pytest.mark.parametrize("text", TOKEN_COUNTS)
async def test_a_prompt_reaches_the_tokenizer_unchanged(
    client: FoundryAPIClient, text: str
) -> None:
    empty = await client.complete("x", max_tokens=1)
    answer = await client.complete(f"x{text}", max_tokens=1)
    tokens = answer.usage.prompt_tokens - empty.usage.prompt_tokens
    assert tokens == TOKEN_COUNTS[text]


@pytest.mark.parametrize("name", ["chinese", "emoji"])
async def test_characters_of_several_tokens_arrive_complete(
    client: FoundryAPIClient, name: str
) -> None:
    chunks = await read(client, PROMPTS[name], max_tokens=MAX_TOKENS, temperature=0)
    text = join(chunks)
    several = [character for character in text if ord(character) > 0x2FFF]
    assert len(several) > 5
    assert "\ufffd" not in text.removesuffix("\ufffd"), "only max_tokens may cut a character"
    assert all(chunk.content.isprintable() or "\n" in chunk.content for chunk in chunks)


async def test_sampled_bytes_are_valid_text(client: FoundryAPIClient) -> None:
    """At a high temperature, the model writes parts of characters that belong to none."""
    options = {"max_tokens": 60, "temperature": 2, "top_p": 1, "extra": {"top_k": 5000}}
    for seed in range(6):
        chunks = await read(client, PROMPTS["chinese"], seed=seed, **options)
        text = join(chunks)
        assert text.encode("utf-8").decode("utf-8") == text
        answer = await client.complete(PROMPTS["chinese"], seed=seed, **options)
        assert answer.content == text


async def test_a_seed_repeats_its_answer(client: FoundryAPIClient) -> None:
    async def ask(seed: int) -> str:
        options = {"max_tokens": 30, "temperature": 1, "seed": seed}
        return (await client.complete("Write a story.", **options)).content

    first = [await ask(seed) for seed in (1, 2, 3)]
    assert len(set(first)) == 3
    assert await asyncio.gather(*(ask(seed) for seed in (1, 2, 3, 1))) == [*first, first[0]]
