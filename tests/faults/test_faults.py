"""Whatever a service does, the caller gets one typed error with a hint."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from foundry_api.core import attempt
from foundry_api.resilience.deadline import current_deadline, deadline
from foundry_api.types import errors
from foundry_api.types.events import CallEnded, FirstToken
from foundry_api.wire.sse import MAX_EVENT_BYTES

from .hostile import (
    ROLE,
    ScriptedServer,
    answer_all,
    encode_chunk,
    encode_event,
    encode_token,
    get_unused_url,
    make_head,
    make_response,
    make_stream_head,
    send_forever,
    send_once,
)
from .table import NOBODY, RETRIES

if TYPE_CHECKING:
    from .conftest import Caller
    from .hostile import Peer


async def test_closed_port_means_not_running(caller: Caller) -> None:
    base_url = await get_unused_url()
    with pytest.raises(errors.ServiceNotRunning) as caught:
        await caller.make_call(base_url, retries=RETRIES).result()
    assert (caught.value.model, caught.value.service) == ("tiny:1", base_url)
    assert type(caught.value) is NOBODY.error
    assert caught.value.attempts == NOBODY.attempts
    assert str(caught.value).endswith(caught.value.hint)


async def test_endless_answer_is_bounded(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model in a loop streams tokens forever, so no timeout for silence applies."""
    monkeypatch.setattr(attempt, "MAX_ANSWER_BYTES", 2**20)
    async with ScriptedServer(
        send_forever(make_stream_head(), encode_chunk(encode_token("again ")))
    ) as server:
        with pytest.raises(errors.ProtocolError, match=str(2**20)) as caught:
            await caller.make_call(server.base_url).result()
        await server.wait_closed()
    assert caught.value.partial.startswith("again again ")


@pytest.mark.parametrize("is_cancelled", [True, False], ids=["cancelled", "broken"])
async def test_an_answer_that_ends_early_is_reported_with_all_its_text(
    caller: Caller, *, is_cancelled: bool
) -> None:
    """Chunks after the first one wait for the end of the answer, which never comes."""
    has_more = asyncio.Event()

    async def send_two_tokens(peer: Peer) -> None:
        await peer.request()
        await peer.send(make_stream_head(), encode_chunk(encode_token("Hel")))
        # No event reports the chunks that follow, and none may be sent before the first one is
        # read. The client and this server share the event loop.
        while FirstToken not in map(type, caller.events):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        await peer.send(encode_chunk(encode_token("lo")))
        while call._attempt is None or not call._attempt.chunks:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        has_more.set()
        if is_cancelled:
            await peer.wait_closed()

    async with ScriptedServer(send_two_tokens) as server:
        call = caller.make_call(server.base_url)
        running = asyncio.create_task(call.result())
        await has_more.wait()
        if is_cancelled:
            running.cancel()
        with pytest.raises(
            asyncio.CancelledError if is_cancelled else errors.StreamInterrupted
        ) as caught:
            await running
    end = caller.events[-1]
    assert isinstance(end, CallEnded)
    assert (end.content, end.chunks) == ("Hello", 2)
    assert is_cancelled or caught.value.partial == "Hello"  # type: ignore[attr-defined]


async def test_deadline_ends_an_endless_answer(caller: Caller) -> None:
    """The error has the text so far."""
    stream = send_forever(make_stream_head(), encode_chunk(encode_token("again ")), pause_s=0.001)
    async with ScriptedServer(stream) as server:
        with deadline(0.2), pytest.raises(errors.DeadlineExceeded) as caught:
            await caller.make_call(server.base_url, deadline=current_deadline()).result()
        await server.wait_closed()
    assert caught.value.stage == "streaming"
    assert caught.value.partial.startswith("again again ")


async def test_no_request_is_sent_without_tls(caller: Caller) -> None:
    async def plain(peer: Peer) -> None:
        await peer.send(make_response(400, b"plain HTTP only"))
        await peer.wait_closed()

    async with ScriptedServer(plain) as server:
        address = server.base_url.replace("http:", "https:")
        with pytest.raises(errors.ProtocolError, match="TLS") as caught:
            await caller.make_call(address).result()
    assert caught.value.service == address
    assert server.requests == []


async def test_text_in_the_packet_of_an_error_is_returned(
    caller: Caller,
) -> None:
    failure = encode_event(error={"message": "boom", "type": "server_error"})
    async with ScriptedServer(
        send_once(make_stream_head(), encode_chunk(ROLE + encode_token("Hi") + failure))
    ) as server:
        chunks = caller.make_call(server.base_url, retries=3).chunks()
        assert (await anext(chunks)).content == "Hi"
        with pytest.raises(errors.ServerError):
            await anext(chunks)
    assert len(server.requests) == 1


@pytest.mark.parametrize("garbage", [b"zz\r\n", b"-1\r\n", b"5\r\ntoo long\r\n", None])
async def test_stream_that_breaks_keeps_its_text(caller: Caller, garbage: bytes | None) -> None:
    """aiohttp does not report an invalid chunk after the first packet; our connections do."""
    taken = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(make_stream_head(), encode_chunk(encode_token("Hi")))
        await taken.wait()
        if garbage is None:
            peer.reset()
        else:
            await peer.send(garbage)
        await peer.wait_closed()

    async with ScriptedServer(script) as server:
        chunks = caller.make_call(server.base_url, retries=3).chunks()
        assert (await anext(chunks)).content == "Hi"
        taken.set()
        with pytest.raises(errors.StreamInterrupted) as caught:
            await anext(chunks)
        await server.wait_closed()
    assert caught.value.partial == "Hi"
    assert len(server.requests) == 1


async def test_redirects_are_not_followed(caller: Caller) -> None:
    async with ScriptedServer(answer_all("secret")) as elsewhere:
        to = send_once(make_head(307, length=0, more=f"Location: {elsewhere.base_url}/\r\n"))
        async with ScriptedServer(to) as server:
            with pytest.raises(errors.ProtocolError):
                await caller.make_call(server.base_url).result()
    assert elsewhere.requests == []


async def test_error_body_is_bounded(caller: Caller) -> None:
    async with ScriptedServer(send_forever(make_head(500), encode_chunk(b"a" * 9999))) as server:
        with pytest.raises(errors.ServerError) as caught:
            await caller.make_call(server.base_url).result()
        await server.wait_closed()
    assert len(str(caught.value)) < 3000


async def test_oversized_event_is_not_kept(caller: Caller) -> None:
    block = encode_chunk(b"a" * 2**18)
    async with ScriptedServer(
        send_forever(make_stream_head() + encode_chunk(b"data: "), block)
    ) as server:
        with pytest.raises(errors.ProtocolError, match=str(MAX_EVENT_BYTES)):
            await caller.make_call(server.base_url).result()
        await server.wait_closed()
