"""Whatever a service does, the caller gets one typed error that tells what to do next."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING

import pytest

from foundry_api import errors
from foundry_api.wire.sse import MAX_EVENT_BYTES

from .hostile import (
    DONE,
    LAST_CHUNK,
    ROLE,
    STOP,
    USAGE,
    HostileServer,
    answer,
    break_off,
    choice,
    error_json,
    event,
    events,
    hang_up,
    head,
    piece,
    refused,
    say,
    say_for_ever,
    say_slowly,
    say_stream,
    stream_head,
    token,
    whole,
)

if TYPE_CHECKING:
    from .conftest import Caller
    from .hostile import Peer, Script

NO_SUCH_ROUTE = (
    b"server=oatpp/1.3.0\ncode=404\ndescription=Not Found\n"
    b"message=No mapping for HTTP-method: 'POST', URL: '/catalogs/local/v1/chat/completions'"
)
BUFFER_LIMIT = b'{"error":{"message":"SSE stream buffer limit exceeded","type":"server_error"}}'
HTML = b"<html>\n<head><title>502 Bad Gateway</title></head>\n</html>"
DEEP = b"[" * 100_000

BEFORE_THE_ANSWER: dict[str, tuple[Script, type[errors.FoundryError]]] = {
    "closed instead of answered": (hang_up, errors.ServiceCrashed),
    "reset instead of answered": (break_off, errors.ServiceCrashed),
    "closed within the head": (say(b"HTTP/1.1 200 OK\r\nContent-"), errors.ServiceCrashed),
    "garbage": (say(b"\x16\x03\x01\x02\x00\x01\x00" * 99, stay=True), errors.ProtocolError),
    "another protocol": (say(b"SSH-2.0-OpenSSH_9.9\r\n", stay=True), errors.ProtocolError),
    "no status": (say(b"HTTP/1.1 fine OK\r\n\r\n", stay=True), errors.ProtocolError),
    "endless headers": (
        say_for_ever(b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n"),
        errors.ProtocolError,
    ),
    "an oversized header": (
        say(b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 10_000 + b"\r\n\r\n", stay=True),
        errors.ProtocolError,
    ),
    "a header that never ends": (
        say_for_ever(b"HTTP/1.1 200 OK\r\nX-Long: ", b"a" * 1000),
        errors.ProtocolError,
    ),
    "a NUL in a header": (
        say(b"HTTP/1.1 200 OK\r\nX-Nul: a\0b\r\n\r\n", stay=True),
        errors.ProtocolError,
    ),
    "a negative length": (
        say(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", stay=True),
        errors.ProtocolError,
    ),
    "two different lengths": (
        say(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", stay=True),
        errors.ProtocolError,
    ),
    "a length and chunks": (
        say(head(more="Content-Length: 5\r\n"), LAST_CHUNK, stay=True),
        errors.ProtocolError,
    ),
}

OTHER_ANSWERS: dict[str, tuple[Script, type[errors.FoundryError]]] = {
    "400 of the caller": (say(whole(400, error_json("Invalid request: x"))), errors.InvalidRequest),
    "400 without a body": (say(whole(400, b"")), errors.InvalidRequest),
    "401 of a proxy": (say(whole(401, b"Unauthorized", content_type=None)), errors.InvalidRequest),
    "404 of the router": (say(whole(404, NO_SUCH_ROUTE, content_type=None)), errors.RouteMissing),
    "404 of the catalog": (
        say(whole(404, error_json("Model not found: No model matching 'tiny:1'"))),
        errors.ModelNotFound,
    ),
    "405 without a body": (say(whole(405, b"")), errors.RouteMissing),
    "500 of the context": (
        say(whole(500, error_json("input_ids size (6007) exceeds max length (4096)"))),
        errors.ContextOverflow,
    ),
    "500 of the engine": (say(whole(500, error_json("Inference failed: x"))), errors.ServerError),
    "500 in plain text": (
        say(whole(500, b"server=oatpp/1.3.0\ncode=500\nmessage=bad cast", content_type=None)),
        errors.ServerError,
    ),
    "500 with an endless body": (say_for_ever(head(500), piece(b"a" * 9999)), errors.ServerError),
    "500 with a broken body": (say(head(500, length=999), b'{"error":'), errors.ServerError),
    "500 with nested JSON": (say(whole(500, b'{"x":' + DEEP)), errors.ServerError),
    "500 that is not UTF-8": (say(whole(500, b'{"error":{"message":"\xff"}}')), errors.ServerError),
    "502 of a proxy": (say(whole(502, HTML, content_type="text/html")), errors.ServerError),
    "302 redirect": (
        say(head(302, length=0, more="Location: /elsewhere\r\n"), stay=True),
        errors.ProtocolError,
    ),
    "307 redirect": (
        say(head(307, length=0, more="Location: http://127.0.0.1:1/\r\n"), stay=True),
        errors.ProtocolError,
    ),
    "101 to another protocol": (
        say(b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n", stay=True),
        errors.ProtocolError,
    ),
    "200 with an error": (
        say(whole(200, error_json("Model 'tiny:1' is not loaded."))),
        errors.ModelNotLoaded,
    ),
    "200 with a page": (say(whole(200, HTML, content_type="text/html")), errors.ProtocolError),
    "200 with a whole answer": (
        say(whole(200, b'{"choices":[{"message":{"content":"Hi"}}]}')),
        errors.ProtocolError,
    ),
    "204 without a body": (say(b"HTTP/1.1 204 No Content\r\n\r\n"), errors.ProtocolError),
}

BROKEN_STREAMS: dict[str, tuple[Script, type[errors.FoundryError]]] = {
    "cut before any event": (say_stream(), errors.StreamInterrupted),
    "cut in an event": (say_stream(ROLE, token("Hi")[:-9]), errors.StreamInterrupted),
    "cut between events": (say_stream(ROLE, token("Hi")), errors.StreamInterrupted),
    "cut between finish reason and end": (
        say_stream(ROLE, token("Hi"), STOP),
        errors.StreamInterrupted,
    ),
    "ended without a finish reason": (
        say(stream_head(), piece(ROLE + token("Hi")), LAST_CHUNK),
        errors.StreamInterrupted,
    ),
    "[DONE] without a finish reason": (say_stream(ROLE, DONE, stay=True), errors.StreamInterrupted),
    "longer than its length": (
        say(head(content_type="text/event-stream", length=len(ROLE)), ROLE, token("Hi")),
        errors.ProtocolError,
    ),
    "shorter than its length": (
        say(head(content_type="text/event-stream", length=9999), ROLE, token("Hi")),
        errors.StreamInterrupted,
    ),
    "compressed": (
        say(
            head(content_type="text/event-stream", length=None, more="Content-Encoding: gzip\r\n"),
            piece(gzip.compress(b"".join(events("Hi")))),
            LAST_CHUNK,
        ),
        errors.StreamInterrupted,
    ),
    "chunk sizes that are no numbers": (
        say(stream_head(), b"zz\r\n", ROLE, b"\r\n", stay=True),
        errors.ProtocolError,
    ),
    "chunks longer than told": (
        say(stream_head(), b"5\r\n", ROLE, b"\r\n", stay=True),
        errors.ProtocolError,
    ),
    "an error of the engine": (
        say_stream(ROLE, event(error={"message": "boom", "type": "server_error"})),
        errors.ServerError,
    ),
    "an error of the caller": (
        say_stream(ROLE, event(error={"message": "no", "type": "invalid_request_error"})),
        errors.InvalidRequest,
    ),
    "an error after text": (
        say_stream(ROLE, token("Hi"), event(error={"message": "boom", "type": "server_error"})),
        errors.ServerError,
    ),
    "an event named error": (
        say_stream(b"event: error\ndata: " + BUFFER_LIMIT + b"\n\n"),
        errors.ServerError,
    ),
    "an event without data": (say_stream(b"data:\n\n", stay=True), errors.ProtocolError),
    "an event that is no JSON": (say_stream(b"data: Hi\n\n", stay=True), errors.ProtocolError),
    "an event of another shape": (
        say_stream(b'data: {"choices":{}}\n\n', stay=True),
        errors.ProtocolError,
    ),
    "an event that is not UTF-8": (
        say_stream(token("Hi").replace(b"Hi", b"\xff"), stay=True),
        errors.ProtocolError,
    ),
    "an event of nested JSON": (
        say_stream(b'data: {"x":' + DEEP + b"\n\n", stay=True),
        errors.ProtocolError,
    ),
    "an unknown finish reason": (
        say_stream(choice({}, "tired"), stay=True),
        errors.ProtocolError,
    ),
    "an event that never ends": (
        say_for_ever(stream_head() + piece(b"data: "), piece(b"a" * 2**18)),
        errors.ProtocolError,
    ),
    "an event of endless lines": (
        say_for_ever(stream_head(), piece(b"data: a\n" * 2**16)),
        errors.ProtocolError,
    ),
    "events without text for ever": (
        say_for_ever(stream_head(), piece(event(choices=[], padding="a" * 2**16))),
        errors.ProtocolError,
    ),
}

FAULTS = BEFORE_THE_ANSWER | OTHER_ANSWERS | BROKEN_STREAMS


@pytest.mark.parametrize(("script", "expected"), FAULTS.values(), ids=FAULTS)
async def test_a_fault_becomes_exactly_one_typed_error(
    caller: Caller, script: Script, expected: type[errors.FoundryError]
) -> None:
    async with HostileServer(script) as server:
        with pytest.raises(errors.FoundryError) as caught:
            await caller.call(server.base_url).completion()
    error = caught.value
    assert type(error) is expected
    assert type(error).__name__ in errors.__all__
    assert error.hint
    assert str(error).endswith(error.hint)
    assert (error.model, error.service, error.attempts) == ("tiny:1", server.base_url, 1)
    assert len(server.requests) == 1


async def test_nobody_listening_means_that_the_service_is_not_running(caller: Caller) -> None:
    base_url = await refused()
    with pytest.raises(errors.ServiceNotRunning) as caught:
        await caller.call(base_url).completion()
    assert (caught.value.model, caught.value.service) == ("tiny:1", base_url)
    assert str(caught.value).endswith(caught.value.hint)


async def test_an_address_that_does_not_speak_tls_gets_no_request(caller: Caller) -> None:
    async def plain(peer: Peer) -> None:
        await peer.send(whole(400, b"plain HTTP only"))
        await peer.gone()

    async with HostileServer(plain) as server:
        address = server.base_url.replace("http:", "https:")
        with pytest.raises(errors.ProtocolError, match="certificate") as caught:
            await caller.call(address).completion()
    assert caught.value.service == address
    assert server.requests == []


@pytest.mark.parametrize("text", ["Hi", "Hi there"])
async def test_the_text_before_a_cut_is_kept(caller: Caller, text: str) -> None:
    async with HostileServer(say_stream(ROLE, *map(token, text))) as server:
        with pytest.raises(errors.StreamInterrupted) as caught:
            await caller.call(server.base_url).completion()
    assert caught.value.partial == text


async def test_text_in_the_same_packet_as_an_error_still_reaches_the_caller(
    caller: Caller,
) -> None:
    failure = event(error={"message": "boom", "type": "server_error"})
    async with HostileServer(say(stream_head(), piece(ROLE + token("Hi") + failure))) as server:
        chunks = caller.call(server.base_url, retries=3).chunks()
        assert (await anext(chunks)).content == "Hi"
        with pytest.raises(errors.ServerError):
            await anext(chunks)
    assert len(server.requests) == 1


@pytest.mark.parametrize("garbage", [b"zz\r\n", b"-1\r\n", b"5\r\ntoo long\r\n", None])
async def test_a_stream_that_breaks_after_its_text_keeps_the_text(
    caller: Caller, garbage: bytes | None
) -> None:
    """aiohttp tells nobody of a wrong chunk behind the first packet: then the silence does."""
    taken = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(stream_head(), piece(token("Hi")))
        await taken.wait()
        if garbage is None:
            peer.reset()
        else:
            await peer.send(garbage)
        await peer.gone()

    async with HostileServer(script) as server:
        chunks = caller.call(server.base_url, retries=3, timeout_s=0.2).chunks()
        assert (await anext(chunks)).content == "Hi"
        taken.set()
        with pytest.raises((errors.StreamInterrupted, errors.SilenceTimeout)) as caught:
            await anext(chunks)
        await server.left()
    assert caught.value.partial == "Hi"
    assert len(server.requests) == 1


async def test_redirects_are_not_followed(caller: Caller) -> None:
    async with HostileServer(answer("secret")) as elsewhere:
        to = say(head(307, length=0, more=f"Location: {elsewhere.base_url}/\r\n"))
        async with HostileServer(to) as server:
            with pytest.raises(errors.ProtocolError):
                await caller.call(server.base_url).completion()
    assert elsewhere.requests == []


async def test_an_error_body_is_read_no_further_than_its_bound(caller: Caller) -> None:
    async with HostileServer(say_for_ever(head(500), piece(b"a" * 9999))) as server:
        with pytest.raises(errors.ServerError) as caught:
            await caller.call(server.base_url).completion()
        await server.left()
    assert len(str(caught.value)) < 3000


async def test_an_oversized_event_is_not_kept(caller: Caller) -> None:
    block = piece(b"a" * 2**18)
    async with HostileServer(say_for_ever(stream_head() + piece(b"data: "), block)) as server:
        with pytest.raises(errors.ProtocolError, match=str(MAX_EVENT_BYTES)):
            await caller.call(server.base_url).completion()
        await server.left()


HARMLESS: dict[str, Script] = {
    "as SDK 2.2.1 sends it": say(stream_head(), *map(piece, events("Hel", "lo")), LAST_CHUNK),
    "in one packet": say(stream_head(), piece(b"".join(events("Hel", "lo"))), LAST_CHUNK),
    "one byte at a time": say_slowly(
        bytes([byte]) for byte in stream_head() + b"".join(map(piece, events("Hel", "lo")))
    ),
    "with keep-alive comments": say(
        stream_head(), *(piece(b": keep-alive\n\n" + each) for each in events("Hel", "lo"))
    ),
    "with its connection kept open": say_stream(*events("Hel", "lo"), stay=True),
    "without [DONE]": say(
        stream_head(), *map(piece, (ROLE, token("Hello"), STOP, USAGE)), LAST_CHUNK
    ),
    "with more after [DONE]": say_stream(*events("Hello"), token(" again"), stay=True),
    "until the connection closes": say(
        b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", *events("Hello")
    ),
    "claiming to be compressed": say(
        head(content_type="text/event-stream; charset=utf-8", more="Content-Encoding: gzip\r\n"),
        *map(piece, events("Hello")),
        LAST_CHUNK,
    ),
    "without a content type": say(head(), *map(piece, events("Hello")), LAST_CHUNK),
}


@pytest.mark.parametrize("script", HARMLESS.values(), ids=HARMLESS)
async def test_an_odd_but_whole_answer_is_an_answer(caller: Caller, script: Script) -> None:
    async with HostileServer(script) as server:
        completion = await caller.call(server.base_url).completion()
    assert completion.content == "Hello"
    assert completion.finish_reason == "stop"
    assert completion.usage.total_tokens == 5
    assert [attempt.error for attempt in completion.attempts] == [None]
