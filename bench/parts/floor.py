"""The floor: the same streamed request by hand on raw aiohttp with msgspec, and nothing around."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import aiohttp

JSON = {"Content-Type": "application/json"}


class Delta(msgspec.Struct):
    """What is read of a chunk."""

    content: str | None = None


class Choice(msgspec.Struct):
    """As above."""

    delta: Delta
    finish_reason: str | None = None


class Usage(msgspec.Struct):
    """As above."""

    prompt_tokens: int
    completion_tokens: int


class Event(msgspec.Struct):
    """As above."""

    choices: list[Choice] = []
    usage: Usage | None = None


_DECODE = msgspec.json.Decoder(Event).decode


async def by_hand(session: aiohttp.ClientSession, base_url: str, prompt: str) -> str:
    """A whole answer."""
    return "".join([text async for text in pieces(session, base_url, prompt)])


async def pieces(session: aiohttp.ClientSession, base_url: str, prompt: str) -> AsyncGenerator[str]:
    """An answer, piece by piece."""
    body = {
        "model": "tiny:1",
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    url = f"{base_url}/catalogs/local/v1/chat/completions"
    rest = b""
    async with session.post(url, data=msgspec.json.encode(body), headers=JSON) as response:
        async for block in response.content.iter_any():
            *events, rest = (rest + block).split(b"\n\n")
            for event in events:
                if event.startswith(b"data: {"):
                    for choice in _DECODE(event[6:]).choices:
                        yield choice.delta.content or ""
