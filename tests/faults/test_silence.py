"""Timeouts and cancellation, after which nothing continues in the background."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from foundry_api.core import abandoned_reads
from foundry_api.resilience import timeouts
from foundry_api.types import errors

from .hostile import (
    KEEP_ALIVE,
    ROLE,
    ScriptedServer,
    answer_all,
    encode_chunk,
    encode_token,
    make_head,
    make_stream_head,
    send_forever,
    send_once,
    send_stream,
    stay_silent,
)

if TYPE_CHECKING:
    from .conftest import Caller
    from .hostile import Script

SILENCE_S = 0.1

SILENCES: dict[str, Script] = {
    "no answer": stay_silent,
    "half a head": send_once(b"HTTP/1.1 200 OK\r\nContent-", stay=True),
    "a head without a body": send_once(make_stream_head(), stay=True),
    "a role without a token": send_stream(ROLE, stay=True),
    "an error without its body": send_once(make_head(500, length=99), stay=True),
}
SIGNS_OF_LIFE: dict[str, Script] = {
    "comments": send_forever(make_stream_head(), encode_chunk(KEEP_ALIVE), pause_s=0.005),
    "comments without end": send_forever(
        make_stream_head(), encode_chunk(b": keep-alive\n"), pause_s=0.005
    ),
    "one byte at a time": send_forever(
        make_stream_head() + encode_chunk(b"data: "), encode_chunk(b"a"), pause_s=0.005
    ),
}


@pytest.mark.parametrize("script", SILENCES.values(), ids=SILENCES)
async def test_silence_ends_the_call_and_the_connection(caller: Caller, script: Script) -> None:
    async with ScriptedServer(script, answer_all("Hello")) as server:
        with pytest.raises(errors.ReadTimeout) as caught:
            await caller.make_call(server.base_url, retries=3, timeout_s=SILENCE_S).result()
        await server.wait_closed()
    error = caught.value
    assert (error.limit_s, error.partial, error.attempts) == (SILENCE_S, "", 1)
    assert (error.model, error.service) == ("tiny:1", server.base_url)
    assert len(server.requests) == 1


async def test_stalled_stream_keeps_the_text_so_far(caller: Caller) -> None:
    script = send_stream(ROLE, encode_token("Hel"), encode_token("lo"), stay=True)
    async with ScriptedServer(script) as server:
        with pytest.raises(errors.ReadTimeout) as caught:
            await caller.make_call(server.base_url, timeout_s=0.3).result()
        await server.wait_closed()
    assert caught.value.partial == "Hello"


@pytest.mark.parametrize("script", SIGNS_OF_LIFE.values(), ids=SIGNS_OF_LIFE)
async def test_keep_alives_without_a_token_time_out(
    caller: Caller, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "KEEP_ALIVE_CAP", 2)
    monkeypatch.setattr(abandoned_reads, "MAX_READ_S", 0.1)  # the engine may be reading
    async with ScriptedServer(script) as server:
        with pytest.raises(errors.ReadTimeout, match="keep-alives") as caught:
            await caller.make_call(server.base_url, timeout_s=0.2).result()
        await server.wait_closed()
    assert caught.value.limit_s == pytest.approx(0.4)


async def test_leaving_a_stream_early_closes_the_connection(caller: Caller) -> None:
    async with ScriptedServer(send_stream(ROLE, encode_token("Hi"), stay=True)) as server:
        chunks = caller.make_call(server.base_url).chunks()
        assert (await anext(chunks)).content == "Hi"
        await chunks.aclose()
        await server.wait_closed()


@pytest.mark.parametrize(
    "script",
    [stay_silent, send_stream(ROLE, stay=True), send_stream(ROLE, encode_token("Hi"), stay=True)],
    ids=["before the answer", "before the first token", "between tokens"],
)
async def test_cancelling_a_call_closes_the_connection(caller: Caller, script: Script) -> None:
    async with ScriptedServer(script) as server:
        task = asyncio.create_task(caller.make_call(server.base_url, retries=3).result())
        await server.received_any.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.wait_closed()
    assert len(server.requests) == 1


async def test_timeout_of_the_caller_is_not_replaced(caller: Caller) -> None:
    async with ScriptedServer(stay_silent) as server:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(SILENCE_S):
                await caller.make_call(server.base_url).result()
        await server.wait_closed()
    assert type(caught.value) is TimeoutError


async def test_cancelling_before_a_retry_sends_no_more(caller: Caller) -> None:
    waiting = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    async with ScriptedServer(send_once(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")) as server:
        caller.sleep = sleep
        task = asyncio.create_task(caller.make_call(server.base_url, retries=3).result())
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(server.requests) == 1
