"""A client that leaves frees the engine: before the first byte, in a stream, and without one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.types.events import AttemptStarted
from gateway.waiting import wait_until_idle

if TYPE_CHECKING:
    import aiohttp

    from foundry_api.gateway.gateway import Gateway


def make_bodies(prompt: str) -> dict[str, dict[str, Any]]:
    messages = [{"role": "user", "content": prompt}]
    return {
        "/v1/chat/completions": {"messages": messages},
        "/v1/completions": {"prompt": prompt, "max_tokens": 2000},
        "/v1/responses": {"input": prompt},
        "/v1/messages": {"messages": messages, "max_tokens": 2000},
    }


PATHS = sorted(make_bodies(""))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("prompt", "streamed"),
    [("say-after-a-while", True), ("say-slowly", True), ("say-slowly", False)],
    ids=["p2_before_the_first_byte", "p3_in_the_stream", "p1_without_a_stream"],
)
async def test_a_client_that_leaves_frees_the_engine(
    gateway: Gateway, http: aiohttp.ClientSession, path: str, prompt: str, *, streamed: bool
) -> None:
    context = gateway.context
    started, received = asyncio.Event(), asyncio.Event()
    context.client.events.subscribe(lambda _: started.set(), AttemptStarted)
    body = {"model": "scripted", **make_bodies(prompt)[path], "stream": streamed}

    async def call() -> None:
        async with http.post(path, json=body) as response:
            await response.content.readany()
            received.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    async with asyncio.timeout(30):
        await (received if streamed and prompt == "say-slowly" else started).wait()
        [exchange] = context.running
        task.cancel()
        await asyncio.shield(exchange.ended)
    await wait_until_idle(context.client)
    assert exchange.outcome == "client_closed"
    assert context.admission.accounts.get(None).running == 0


async def test_p1_a_client_that_leaves_ends_its_embeddings(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    context = gateway.context
    started, attempts = asyncio.Event(), 0

    def count(_: AttemptStarted) -> None:
        nonlocal attempts
        attempts += 1
        started.set()

    context.client.events.subscribe(count, AttemptStarted)
    texts = [f"text {index}" for index in range(2048)]
    task = asyncio.create_task(
        http.post("/v1/embeddings", json={"model": "embedder", "input": texts})
    )
    await asyncio.wait_for(started.wait(), 30)
    [exchange] = context.running
    task.cancel()
    await asyncio.wait_for(asyncio.shield(exchange.ended), 30)
    assert exchange.outcome == "client_closed"
    assert attempts < 2048 // 32  # the other requests of the call are not sent
    await wait_until_idle(context.client)
