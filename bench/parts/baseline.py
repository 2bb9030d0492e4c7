"""The baseline of overhead: the same streamed request with only aiohttp and msgspec."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import aiohttp

JSON = {"Content-Type": "application/json"}


class Delta(msgspec.Struct):
    content: str | None = None


class Choice(msgspec.Struct):
    delta: Delta
    finish_reason: str | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class Event(msgspec.Struct):
    choices: list[Choice] = []
    usage: Usage | None = None


decode_event = msgspec.json.Decoder(Event).decode


async def complete(session: aiohttp.ClientSession, base_url: str, prompt: str) -> str:
    return "".join([text async for text in stream(session, base_url, prompt)])


async def stream(session: aiohttp.ClientSession, base_url: str, prompt: str) -> AsyncGenerator[str]:
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
                    for choice in decode_event(event[6:]).choices:
                        yield choice.delta.content or ""
