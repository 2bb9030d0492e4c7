"""Requests that may have been carried out are repeated only by the retry policy."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.core.call import Call, CallRequest
from foundry_api.core.chat import make_chat_call
from foundry_api.core.embeddings import embed
from foundry_api.core.raw_request import make_raw_call, make_raw_request
from foundry_api.core.responses import build_operation
from foundry_api.core.transcriptions import AudioInput, TranscriptionOperation
from foundry_api.resilience.deadline import NEVER
from foundry_api.types import errors
from foundry_api.wire.loopback import is_loopback_http

from .conftest import REQUEST
from .hostile import (
    LAST_CHUNK,
    ScriptedServer,
    answer_all,
    break_off,
    encode_chunk,
    encode_event,
    encode_events,
    hang_up,
    make_error_json,
    make_response,
    make_stream_head,
    send_once,
    send_stream,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from .conftest import Caller
    from .hostile import Peer, Script

    Way = Callable[[Caller, str, int], Awaitable[Any]]


def over_a_session(_url: str) -> bool:
    """Use the aiohttp session, as for services on other machines."""
    return False


both_ways = pytest.mark.parametrize("caller", [is_loopback_http, over_a_session], indirect=True)


async def chat(caller: Caller, base_url: str, retries: int) -> Any:
    return await caller.make_call(base_url, retries=retries).result()


async def stream(caller: Caller, base_url: str, retries: int) -> Any:
    return [chunk async for chunk in caller.make_call(base_url, retries=retries).chunks()]


async def respond(
    caller: Caller, base_url: str, retries: int, *, store: bool = False, is_stream: bool = False
) -> Any:
    asking = build_operation("Hi", {"store": store})
    order = CallRequest(("tiny",), asking, 5.0, NEVER)
    call = Call(caller.make_context(base_url, retries=retries), order, asking)
    if is_stream:
        return [each async for each in call.chunks()]
    return await call.result()


async def store(caller: Caller, base_url: str, retries: int) -> Any:
    return await respond(caller, base_url, retries, store=True)


async def store_streamed(caller: Caller, base_url: str, retries: int) -> Any:
    return await respond(caller, base_url, retries, store=True, is_stream=True)


async def vectors(caller: Caller, base_url: str, retries: int) -> Any:
    tools = caller.make_context(base_url, retries=retries)
    return await embed(tools, ["a"], model="tiny", timeout_s=5, deadline=NEVER)


async def transcribe(caller: Caller, base_url: str, retries: int) -> Any:
    asking = TranscriptionOperation(AudioInput(__file__), {})
    order = CallRequest(("tiny",), asking, 5.0, NEVER)
    tools = caller.make_context(base_url, retries=retries)
    return await Call(tools, order, asking).result()


async def post(caller: Caller, base_url: str, retries: int) -> Any:
    request, tools = (
        make_raw_request("POST", "/v1/x", json={}),
        caller.make_context(base_url, retries=retries),
    )
    return await make_raw_call(tools, request, 5.0, NEVER).result()


REPEATABLE: list[Way] = [chat, stream, respond, vectors, transcribe]
NOT_REPEATABLE: list[Way] = [store, store_streamed, post]


class Pool:
    """Connections that answer one request each, and fail at the second.

    Args:
        death: What they do at the second request.
        size: Their number.
    """

    def __init__(self, death: Script, size: int) -> None:
        self.scripts = [self._script] * size
        self._death = death
        self._all_begun = asyncio.Event()

    async def warm(self, caller: Caller, base_url: str) -> None:
        """Put all of them in the client's pool."""
        streams = [caller.make_call(base_url).chunks() for _ in self.scripts]
        for chunks in streams:
            await anext(chunks)
        self._all_begun.set()
        for chunks in streams:
            assert [chunk.finish_reason async for chunk in chunks] == ["stop"]

    async def _script(self, peer: Peer) -> None:
        await peer.request()
        first, *others = map(encode_chunk, encode_events("Hello")[1:])
        await peer.send(make_stream_head(), first)
        await self._all_begun.wait()
        await peer.send(*others, LAST_CHUNK)
        await self._death(peer)


@both_ways
@pytest.mark.parametrize("death", [hang_up, break_off])
@pytest.mark.parametrize("pooled", [0, 1, 4])
@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("way", REPEATABLE)
async def test_crashing_service_gets_no_extra_requests(
    caller: Caller, death: Script, pooled: int, retries: int, way: Way
) -> None:
    pool = Pool(death, pooled)
    async with ScriptedServer(*pool.scripts, death) as server:
        await pool.warm(caller, server.base_url)
        before = len(server.requests)
        with pytest.raises(errors.ServiceCrashed) as caught:
            await way(caller, server.base_url, retries)
        assert len(server.requests) - before == 1 + retries
        assert caught.value.attempts == 1 + retries


@both_ways
@pytest.mark.parametrize("death", [hang_up, break_off])
@pytest.mark.parametrize("pooled", [0, 1, 4])
@pytest.mark.parametrize("way", NOT_REPEATABLE)
async def test_request_with_side_effects_is_sent_once(
    caller: Caller, death: Script, pooled: int, way: Way
) -> None:
    pool = Pool(death, pooled)
    async with ScriptedServer(*pool.scripts, death) as server:
        await pool.warm(caller, server.base_url)
        before = len(server.requests)
        with pytest.raises(errors.ServiceCrashed):
            await way(caller, server.base_url, 2)
        assert len(server.requests) - before == 1


CREATED = encode_event(
    type="response.created",
    response={"id": "resp_1", "status": "in_progress", "model": "tiny:1", "output": []},
)


@pytest.mark.parametrize("way", [store, store_streamed])
async def test_interrupted_stored_response_is_not_repeated(caller: Caller, way: Way) -> None:
    async with ScriptedServer(send_stream(CREATED)) as server:
        with pytest.raises(errors.StreamInterrupted):
            await way(caller, server.base_url, 2)
        assert len(server.requests) == 1


async def test_refused_stored_response_is_retried(caller: Caller) -> None:
    async with ScriptedServer(
        send_once(make_response(503, make_error_json("try again later")))
    ) as server:
        with pytest.raises(errors.ServiceOverloaded):
            await store(caller, server.base_url, 2)
        assert len(server.requests) == 3


@both_ways
async def test_idempotent_request_survives_dead_connections(
    caller: Caller,
) -> None:
    async def lists(peer: Peer) -> None:
        await peer.request()
        await peer.send(make_response(200, b"{}"))

    pool = Pool(hang_up, 3)
    async with ScriptedServer(*pool.scripts, lists) as server:
        await pool.warm(caller, server.base_url)
        request = make_raw_request("GET", "/v1/x")
        reply = await make_raw_call(
            caller.make_context(server.base_url), request, 5.0, NEVER
        ).result()
    assert len(reply.attempts) == 1


class IdleCloser:
    """A service in its own thread, which closes each connection after one answer.

    Attributes:
        requests: How many requests it has read.
        closed: Set when it has closed its newest connection.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.closed = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._socket.close()
        # Some systems do not wake up accept() for a close.
        self._thread.join(0.1)

    def _serve(self) -> None:
        body = b"".join([*map(encode_chunk, encode_events("Hello")), LAST_CHUNK])
        try:
            while True:
                peer, _ = self._socket.accept()
                with peer, peer.makefile("rb") as reader:
                    self._read_request(reader)
                    peer.sendall(make_stream_head() + body)
                self.closed.set()
        except OSError:
            return

    def _read_request(self, reader: Any) -> None:
        length = 0
        while (line := reader.readline()) not in {b"\r\n", b""}:
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        reader.read(length)
        self.requests += 1


@pytest.fixture
def closer() -> Iterator[IdleCloser]:
    closer = IdleCloser()
    yield closer
    closer.stop()


@both_ways
async def test_closed_idle_connection_costs_no_attempt(caller: Caller, closer: IdleCloser) -> None:
    """This holds even if the event loop was busy and has not noticed the close yet."""
    tools = caller.make_context(closer.base_url)
    for sent in (1, 2, 3):
        completion = await make_chat_call(
            tools, CallRequest(("tiny",), REQUEST, 5.0, NEVER)
        ).result()
        assert completion.content == "Hello"
        assert closer.requests == sent
        assert closer.closed.wait(5)  # blocks the event loop on purpose
        closer.closed.clear()


@both_ways
async def test_cancelled_call_is_not_sent_again(caller: Caller) -> None:
    async def mute(peer: Peer) -> None:
        await peer.request()
        await peer.wait_closed()

    pool = Pool(mute, 1)
    async with ScriptedServer(*pool.scripts, answer_all("again")) as server:
        await pool.warm(caller, server.base_url)
        server.received_any.clear()
        task = asyncio.create_task(caller.make_call(server.base_url, retries=2).result())
        await server.received_any.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(server.requests) == 2
