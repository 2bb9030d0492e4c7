"""Processor time of the client for each call and for each chunk, beside raw aiohttp by hand.

python3 dev.py bench overhead
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from foundry_api import FoundryAPIClient
from foundry_api.wire.ack import acknowledge
from scripted_model import build

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROUNDS = 10
CALLS = 100
SHORT, LONG = "say-hello", "say-long"


class Delta(msgspec.Struct):
    """What the floor reads of a chunk."""

    content: str | None = None


class Choice(msgspec.Struct):
    """As above."""

    delta: Delta


class Event(msgspec.Struct):
    """As above."""

    choices: list[Choice] = []


async def by_hand(session: aiohttp.ClientSession, url: str, prompt: str) -> str:
    """The floor: the same streamed request with nothing around it."""
    decode = msgspec.json.Decoder(Event).decode
    body: dict[str, Any] = {
        "model": "scripted:1",
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    text: list[str] = []
    rest = b""
    async with session.post(url, json=body) as response:
        # Without this the floor would wait 40 ms for a delayed acknowledgement, and then get all
        # tokens in one piece, which no slower model would send.
        acknowledge(response.connection and response.connection.transport)
        async for block in response.content.iter_any():
            if not text:
                acknowledge(response.connection and response.connection.transport)
            *events, rest = (rest + block).split(b"\n\n")
            for event in events:
                if event.startswith(b"data: {"):
                    text.extend(c.delta.content or "" for c in decode(event[6:]).choices)
    return "".join(text)


async def cpu_s(call: Callable[[], Awaitable[object]]) -> float:
    """Processor seconds of this process for one call, on average."""
    started = time.process_time()
    for _ in range(CALLS):
        await call()
    return (time.process_time() - started) / CALLS


async def measure(client: FoundryAPIClient, session: aiohttp.ClientSession) -> None:
    """Both in turn, for a short answer and for a long one."""
    first = await client.complete(SHORT, model="scripted")
    url = f"{first.service}/catalogs/local/v1/chat/completions"
    took: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for prompt in (SHORT, LONG):
            floor = await cpu_s(lambda p=prompt: by_hand(session, url, p))  # type: ignore[misc]
            ours = await cpu_s(lambda p=prompt: client.complete(p, model="scripted"))  # type: ignore[misc]
            took.setdefault(("floor", prompt), []).append(floor)
            took.setdefault(("ours", prompt), []).append(ours)
    medians = {key: statistics.median(values) for key, values in took.items()}
    tokens = (await client.complete(LONG, model="scripted")).usage.completion_tokens
    short = {name: medians[name, SHORT] for name in ("floor", "ours")}
    chunk = {name: (medians[name, LONG] - short[name]) / tokens for name in ("floor", "ours")}
    for what, seconds in (("short call", short), ("chunk", chunk)):
        ratio = seconds["ours"] / seconds["floor"]
        told = ", ".join(f"{name} {value * 1e6:.1f} µs" for name, value in seconds.items())
        print(f"{what:10} {told}: {ratio:.2f}x")


async def main() -> None:
    """Measure on an engine of its own."""
    with tempfile.TemporaryDirectory(prefix="foundry-api-bench-") as directory:
        model = Path(directory) / "model"
        build(model)
        async with (
            FoundryAPIClient(service="embedded", home=Path(directory) / "home") as client,
            aiohttp.ClientSession() as session,
        ):
            await client.models.register(model, "scripted")
            await measure(client, session)


if __name__ == "__main__":
    asyncio.run(main())
