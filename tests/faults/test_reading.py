"""A service that reads a prompt to its end, though the caller has left: what the client does.

This is what every generation does. `ReadingServer` is a fake whose reading a test ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.core.call import CallRequest
from foundry_api.core.chat import make_chat_call, make_chat_request
from foundry_api.resilience import timeouts
from foundry_api.resilience.deadline import NEVER, Deadline
from foundry_api.resilience.prompt_reading import MIN_SAMPLES, DeadlineTooShort, PromptSize
from foundry_api.types import errors

from .hostile import (
    DONE,
    KEEP_ALIVE,
    LAST_CHUNK,
    ROLE,
    ScriptedServer,
    encode_choice,
    encode_chunk,
    encode_event,
    encode_token,
    make_stream_head,
)

if TYPE_CHECKING:
    from foundry_api.core.call import CallContext
    from foundry_api.core.chat import ChatCall

    from .conftest import Caller
    from .hostile import Peer

SOON_S = 0.1
PROMPT = "word " * 1000
SIZE = PromptSize.of([PROMPT])


class ReadingServer(ScriptedServer):
    """Sends keep-alives until `has_read` is set, and then the answer, which may be endless."""

    def __init__(self, *, is_endless: bool = False) -> None:
        super().__init__(self._serve_peer)
        self.has_read = asyncio.Event()
        self._is_endless = is_endless

    async def _serve_peer(self, peer: Peer) -> None:
        try:
            while True:
                await self._read_and_answer(peer)
        finally:  # the next request, or a keep-alive, finds the connection closed
            peer.client_closed.set()

    async def _read_and_answer(self, peer: Peer) -> None:
        await peer.request()
        await peer.send(make_stream_head())
        while not self.has_read.is_set():
            await peer.send(encode_chunk(KEEP_ALIVE))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.has_read.wait(), 0.01)
        await peer.send(encode_chunk(ROLE), encode_chunk(encode_token("Hi")))
        if not self._is_endless:
            usage = {"prompt_tokens": 1000, "completion_tokens": 1, "total_tokens": 1001}
            last = encode_choice({}, "stop"), encode_event(choices=[], usage=usage), DONE
            await peer.send(*map(encode_chunk, last), LAST_CHUNK)


class Client:
    """The calls of one client to one service."""

    def __init__(self, caller: Caller, server: ReadingServer) -> None:
        self.context: CallContext = caller.make_context(server.base_url, retries=3)
        self.service = caller.services[-1]

    def make_call(self, prompt: str = PROMPT, **options: Any) -> ChatCall:
        options = {"timeout_s": 30.0, "deadline": NEVER, **options}
        request = make_chat_request([{"role": "user", "content": prompt}])
        return make_chat_call(self.context, CallRequest(("tiny",), request, **options))

    async def abandon(self) -> errors.DeadlineExceeded:
        with pytest.raises(errors.DeadlineExceeded) as caught:
            await self.make_call(deadline=Deadline.after(SOON_S)).result()
        return caught.value

    @property
    def abandoned(self) -> int:
        return self.service.limiter.statistics().abandoned

    @property
    def calls_of_the_model(self) -> int:
        assert self.service.connection
        return self.service.connection.models.usages["tiny:1"].calls

    async def wait_until_free(self) -> None:
        """Wait for a call that needs all the slots."""
        async with asyncio.timeout(5):
            while self.service.limiter.load:  # noqa: ASYNC110 - no event shows it
                await asyncio.sleep(0.001)


async def test_call_has_its_slot_and_its_model_until_the_prompt_has_been_read(
    caller: Caller,
) -> None:
    async with ReadingServer(is_endless=True) as server:
        client = Client(caller, server)
        error = await client.abandon()
        assert error.is_still_reading
        assert error.attempts == len(server.requests) == 1
        assert "the engine reads the prompt to its end" in str(error)
        assert "not retried" in error.hint
        assert (client.service.limiter.load, client.abandoned, client.calls_of_the_model) == (
            (1, 1, 1)
        )
        assert not server.peers[0].client_closed.is_set()
        server.has_read.set()
        await server.wait_closed()
        await client.wait_until_free()
        assert (client.abandoned, client.calls_of_the_model) == (0, 0)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_caller_that_leaves_abandons_the_prompt_too(
    caller: Caller, *, is_stream: bool
) -> None:
    async with ReadingServer(is_endless=True) as server:
        client = Client(caller, server)
        call = client.make_call()
        task = asyncio.ensure_future(anext(call.chunks()) if is_stream else call.result())
        await server.received_any.wait()
        await asyncio.sleep(SOON_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.abandoned == 1
        server.has_read.set()
        await server.wait_closed()


async def test_keep_alives_for_too_long_abandon_the_prompt(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "KEEP_ALIVE_CAP", 2)
    async with ReadingServer() as server:
        client = Client(caller, server)
        with pytest.raises(errors.ReadTimeout) as caught:
            await client.make_call(timeout_s=0.1).result()
        assert caught.value.is_still_reading
        assert len(server.requests) == client.abandoned == 1


async def test_calls_that_wait_for_abandoned_prompts_say_so(caller: Caller) -> None:
    async with ReadingServer() as server:
        client = Client(caller, server)
        limit = client.service.limiter.limit
        for _ in range(limit):
            await client.abandon()
        sent = len(server.requests)
        waiting = await client.abandon()
        assert f"still reading {limit} abandoned prompts" in str(waiting)
        assert not waiting.is_still_reading
        assert len(server.requests) == sent
        patient = asyncio.create_task(client.make_call().result())
        server.has_read.set()
        assert (await patient).content == "Hi"
        await client.wait_until_free()


async def test_crash_of_the_service_frees_the_slot(caller: Caller) -> None:
    async with ReadingServer() as server:
        client = Client(caller, server)
        await client.abandon()
    await client.wait_until_free()
    assert client.abandoned == 0


async def test_closing_the_client_closes_the_connection(caller: Caller) -> None:
    async with ReadingServer(is_endless=True) as server:
        client = Client(caller, server)
        await client.abandon()
        await client.service.aclose()
        server.has_read.set()
        await server.wait_closed()


async def test_answers_measure_how_long_reading_takes(caller: Caller) -> None:
    async with ReadingServer() as server:
        server.has_read.set()
        client = Client(caller, server)
        for _ in range(MIN_SAMPLES):
            await client.make_call().result()
        estimate = client.service.readings.for_model("tiny:1").estimate(SIZE)
        assert estimate is not None
        assert estimate.tokens == 1000


async def test_reading_beside_another_call_measures_nothing(caller: Caller) -> None:
    async with ReadingServer() as server:
        server.has_read.set()
        client = Client(caller, server)
        other = client.service.limiter.try_acquire()
        assert other is not None
        await client.make_call().result()
        assert client.service.readings.for_model("tiny:1").is_empty
        other.release()


@pytest.mark.parametrize("is_earlier", [False, True])
async def test_the_last_of_several_calls_measures_nothing(
    caller: Caller, *, is_earlier: bool
) -> None:
    """After a busy phase, its samples would refuse calls that have enough time."""
    async with ReadingServer() as server:
        client = Client(caller, server)
        limiter = client.service.limiter
        other = limiter.try_acquire() if is_earlier else None
        call = asyncio.ensure_future(client.make_call().result())
        await server.received_any.wait()
        other = other or limiter.try_acquire()
        assert other is not None
        other.release()
        server.has_read.set()
        await call
        assert client.service.readings.for_model("tiny:1").is_empty


async def test_prompt_that_outlasts_its_deadline_is_not_sent(caller: Caller) -> None:
    async with ReadingServer() as server:
        server.has_read.set()
        client = Client(caller, server)
        await client.make_call("Hi").result()
        for _ in range(MIN_SAMPLES):
            client.service.readings.for_model("tiny:1").record(SIZE, 1000, 100.0)
        with pytest.raises(DeadlineTooShort) as caught:
            await client.make_call(deadline=Deadline.after(60)).result()
        error = caught.value
        assert (error.estimate_s, error.prompt_tokens, error.tokens_per_second) == (100, 1000, 10)
        assert error.limit_s == 60
        assert "about 1,000 tokens takes at least 100.0 s (10 tokens/s)" in str(error)
        assert (error.model, len(server.requests), client.service.limiter.load) == ("tiny:1", 1, 0)
        # Within the margin, without a deadline, or shorter: sent.
        await client.make_call(deadline=Deadline.after(75)).result()
        await client.make_call().result()
        await client.make_call("Hi", deadline=Deadline.after(5)).result()
        assert len(server.requests) == 4


@pytest.mark.parametrize("has_estimate", [False, True])
async def test_service_that_sends_no_head_while_it_reads(
    caller: Caller, *, has_estimate: bool
) -> None:
    """SDK 1.x: the estimate decides how long the slot stays taken."""
    caller.service_generation = "sdk-1"

    async def stay_silent(peer: Peer) -> None:
        await peer.request()
        await peer.wait_closed()

    async with ScriptedServer(stay_silent) as server:
        context = caller.make_context(server.base_url)
        service = caller.services[-1]
        if has_estimate:
            service.readings.for_model("tiny:1").record(SIZE, 1000, 0.5)
        request = make_chat_request([{"role": "user", "content": PROMPT}])
        options = CallRequest(("tiny",), request, 30.0, Deadline.after(SOON_S))
        with pytest.raises(errors.DeadlineExceeded) as caught:
            await make_chat_call(context, options).result()
        await server.wait_closed()
        assert caught.value.is_still_reading == has_estimate
        assert service.limiter.load == has_estimate
        if has_estimate:
            assert "about 1,000 tokens to its end, for about 0.4 s" in str(caught.value)
            async with asyncio.timeout(5):
                while service.limiter.load:  # noqa: ASYNC110 - no event shows it
                    await asyncio.sleep(0.01)
