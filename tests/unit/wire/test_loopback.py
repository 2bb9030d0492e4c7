"""The loopback connection pool."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest

from faults.hostile import (
    ScriptedServer,
    answer_all,
    encode_chunk,
    encode_events,
    make_head,
    make_response,
    make_stream_head,
    send_forever,
    send_once,
    send_slowly,
    stay_silent,
)
from foundry_api import FoundryAPIClient
from foundry_api.types import errors
from foundry_api.wire import loopback
from foundry_api.wire.http import HttpTransport
from foundry_api.wire.http_parser import ResponseParser, make_parser
from foundry_api.wire.loopback import LoopbackConnection, LoopbackResponse, is_loopback_http
from foundry_api.wire.transport import Request, Response, fetch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Generator, Iterator

    from faults.hostile import Peer


@pytest.fixture(params=[make_parser, ResponseParser], ids=["httptools", "python"])
async def transport(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[HttpTransport]:
    """A transport, with both parsers."""
    monkeypatch.setattr(loopback, "make_parser", request.param)
    transport = HttpTransport(connect_timeout_s=0.2)
    yield transport
    await transport.aclose()


async def answer_once(peer: Peer) -> None:
    """Answers once, and waits until the client leaves."""
    await peer.request()
    await peer.send(make_stream_head(), *map(encode_chunk, encode_events("Hello")), b"0\r\n\r\n")
    await peer.wait_closed()


async def drain(response: Response) -> None:
    while await response.read():
        pass


async def read_body(transport: HttpTransport, request: Request) -> bytes:
    return (await fetch(transport, request, timeout_s=5)).body


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:5273/status", True),
        ("http://localhost:5273/status", True),
        ("http://[::1]:5273/status", True),
        ("https://127.0.0.1:5273/status", False),
        ("http://192.168.0.7:5273/status", False),
        ("http://127.0.0.1.example.com/status", False),
    ],
)
def test_only_loopback_http_uses_the_loopback_pool(url: str, *, expected: bool) -> None:
    assert is_loopback_http(url) is expected


@pytest.mark.parametrize(
    "use_loopback", [is_loopback_http, lambda _: False], ids=["direct", "session"]
)
async def test_pool_and_session_send_the_same_request(use_loopback: object) -> None:
    transport = HttpTransport(use_loopback=use_loopback)  # type: ignore[arg-type]
    async with ScriptedServer(send_once(make_response(200, b"body"))) as server:
        headers = {"Content-Type": "application/json", "X-Mine": "mine", "Accept": "text/x"}
        await read_body(transport, Request("POST", f"{server.base_url}/a:1?b=c", headers, b"{}"))
        (request,) = server.requests
    await transport.aclose()
    assert (request.method, request.path, request.body) == ("POST", "/a:1?b=c", b"{}")
    assert request.headers.pop("user-agent").startswith("foundry-api/")
    assert request.headers == {
        "host": server.base_url.removeprefix("http://"),
        "accept": "text/x",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": "2",
        "x-mine": "mine",
    }


@pytest.mark.parametrize("value", ["a\r\nX-Evil: b", "a\nb", "a\0b"])
async def test_header_injection_is_refused(transport: HttpTransport, value: str) -> None:
    async with ScriptedServer(answer_all("Hello")) as server:
        for headers in ({"X-Mine": value}, {value: "x"}):
            with pytest.raises(errors.ConfigurationError, match="cannot be sent") as caught:
                await transport.send(Request("GET", f"{server.base_url}/x", headers))
            assert value not in str(caught.value)
        assert server.peers == []


@pytest.mark.parametrize(
    ("path", "headers", "message"),
    [
        ("/", {"X-Mine": "\udc80"}, "cannot be sent"),
        ("/\udc80", {}, "is not a URL"),
        ("/?\udc80", {}, "is not a URL"),
    ],
)
async def test_a_lone_surrogate_is_a_typed_error(
    transport: HttpTransport, path: str, headers: dict[str, str], message: str
) -> None:
    with pytest.raises(errors.ConfigurationError, match=message):
        await transport.send(Request("GET", f"http://127.0.0.1:1{path}", headers))


async def test_a_host_that_dns_cannot_encode_is_a_typed_error(transport: HttpTransport) -> None:
    with pytest.raises(errors.ConfigurationError, match="is not a URL"):
        await transport.send(Request("GET", f"http://{'a' * 70}.localhost:1/"))


async def test_interim_responses_are_skipped(transport: HttpTransport) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    async with ScriptedServer(send_once(interim, make_response(200, b"body"))) as server:
        assert await read_body(transport, Request("GET", f"{server.base_url}/", {})) == b"body"


async def test_connection_close_is_respected(
    transport: HttpTransport,
) -> None:
    closing = send_once(make_head(200, length=0, more="Connection: close\r\n"), stay=True)
    async with ScriptedServer(closing) as server:
        for _ in range(2):
            await read_body(transport, Request("GET", f"{server.base_url}/", {}))
        assert [request.connection for request in server.requests] == [0, 1]


async def test_unrequested_bytes_end_a_connection(transport: HttpTransport) -> None:
    """Otherwise they would be taken for the response to the next request."""

    async def talkative(peer: Peer) -> None:
        await peer.request()
        await peer.send(make_response(200, b"mine"), make_response(200, b"not mine"))
        await peer.request()
        await peer.send(make_response(200, b"not mine either"))

    async with ScriptedServer(talkative, send_once(make_response(200, b"mine too"))) as server:
        request = Request("GET", f"{server.base_url}/", {})
        assert await read_body(transport, request) == b"mine"
        assert await read_body(transport, request) == b"mine too"


async def test_idle_connection_is_closed_after_a_while(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loopback, "IDLE_CONNECTION_S", 0.05)

    async with ScriptedServer(answer_once) as server:
        await read_body(transport, Request("GET", f"{server.base_url}/", {}))
        await server.wait_closed()


async def test_aclose_closes_busy_and_idle_connections(transport: HttpTransport) -> None:
    endless = send_forever(make_head(200), encode_chunk(b"a"), pause_s=0.001)
    async with ScriptedServer(answer_once, endless) as server:
        request = Request("GET", f"{server.base_url}/", {})
        idle, busy = await transport.send(request), await transport.send(request)
        await drain(idle)
        idle.close()
        await transport.aclose()
        with pytest.raises(errors.StreamInterrupted):
            await drain(busy)
        await server.wait_closed(0)
        await server.wait_closed(1)
        busy.close()


async def test_a_slow_reader_stops_the_service(transport: HttpTransport) -> None:
    body = b"a" * 2**25  # more than the buffers of two sockets hold
    sent = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(make_head(200, length=len(body)), body)
        sent.set()
        await peer.wait_closed()

    async with ScriptedServer(script) as server:
        response = await transport.send(Request("GET", f"{server.base_url}/"))
        assert isinstance(response, LoopbackResponse)
        connection = response._connection
        assert connection is not None
        while not connection._is_paused:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0)
        buffered = sum(map(len, connection._blocks))
        assert buffered <= loopback.MAX_BUFFERED_BYTES + 2**18  # and what one system call returns
        assert not sent.is_set()
        received = bytearray()
        while block := await response.read():
            received += block
        response.close()
        assert received == body
        await sent.wait()


async def test_an_answer_to_half_a_request_ends_its_connection(transport: HttpTransport) -> None:
    """The service may never read the rest, and the next request would wait behind it."""

    async def answer_early(peer: Peer) -> None:
        await peer.request_head()
        await peer.send(make_response(200, b"early"))
        await asyncio.Event().wait()

    body = b"a" * 2**25  # more than the buffers of two sockets hold
    async with ScriptedServer(answer_early, answer_once) as server:
        response = await transport.send(Request("POST", f"{server.base_url}/", body=body))
        assert await response.read() == b"early"
        response.close()
        await read_body(transport, Request("GET", f"{server.base_url}/"))
        assert len(server.peers) == 2


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 413 Too Large\r\n\r\ntoo large"])
async def test_the_end_of_a_stream_is_noticed_while_a_request_is_sent(
    transport: HttpTransport, answer: bytes
) -> None:
    async def shut_down(peer: Peer) -> None:
        await peer.request_head()
        await peer.send(answer)
        peer.send_end()
        await asyncio.Event().wait()

    async with ScriptedServer(shut_down) as server:
        request = Request("POST", f"{server.base_url}/", body=b"a" * 2**25)
        if answer:
            assert await read_body(transport, request) == b"too large"
        else:
            with pytest.raises(errors.ServiceCrashed):
                await read_body(transport, request)


async def test_two_tasks_cannot_read_one_response(transport: HttpTransport) -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(make_head(200, length=5))
        await go_on.wait()
        await peer.send(b"Hello")
        await peer.wait_closed()

    async with ScriptedServer(script) as server:
        response = await transport.send(Request("GET", f"{server.base_url}/"))
        first = asyncio.ensure_future(response.read())
        await asyncio.sleep(0)
        with pytest.raises(errors.StreamInterrupted, match="another task"):
            await response.read()
        # A cancelled one no longer counts, even before it has noticed that.
        first.cancel()
        go_on.set()
        assert await response.read() == b"Hello"
        response.close()


async def test_a_cancelled_request_closes_its_connection(transport: HttpTransport) -> None:
    async with ScriptedServer(stay_silent) as server:
        sending = asyncio.ensure_future(transport.send(Request("GET", f"{server.base_url}/")))
        await server.received_any.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await server.peers[0].client_closed.wait()


def test_one_transport_serves_successive_event_loops() -> None:
    transport = HttpTransport()

    async def program() -> None:
        async with ScriptedServer(answer_all("Hello")) as server:
            await read_body(transport, Request("GET", f"{server.base_url}/", {}))

    asyncio.run(program())
    asyncio.run(program())


@pytest.fixture
def full_backlog() -> Iterator[int]:
    """A listening port whose backlog is full."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.settimeout(0)
            one.connect_ex(("127.0.0.1", port))
        yield port
        for one in waiting:
            one.close()


class Steps:
    """Counts how often a coroutine is resumed."""

    def __init__(self, coroutine: Awaitable[None]) -> None:
        self.count = 0
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, None, None]:
        for future in self._coroutine.__await__():
            self.count += 1
            yield future


async def open_stream(
    transport: HttpTransport, server: ScriptedServer
) -> tuple[LoopbackResponse, list[bytes]]:
    response = await transport.send(Request("GET", f"{server.base_url}/x", {}))
    assert isinstance(response, LoopbackResponse)
    return response, []


async def test_what_arrives_resumes_its_task_before_the_next_iteration_of_the_event_loop(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    receive = LoopbackConnection.data_received

    def receive_and_record(connection: LoopbackConnection, data: bytes) -> None:
        receive(connection, data)
        order.append("received")

    monkeypatch.setattr(LoopbackConnection, "data_received", receive_and_record)
    async with ScriptedServer(send_slowly([make_stream_head(), encode_chunk(b"one")])) as server:
        response, _ = await open_stream(transport, server)
        order.append("head")
        assert await response.read() == b"one"
        order.append("block")
        response.close()
    assert (order[0], order[-1]) == ("head", "received")


async def test_a_cancelled_wait_ends_after_the_task_that_cancels_it(
    transport: HttpTransport,
) -> None:
    async with ScriptedServer(send_once(make_stream_head(), stay=True)) as server:
        response, _ = await open_stream(transport, server)
        reading = asyncio.ensure_future(response.read())
        await asyncio.sleep(0)
        assert reading.cancel()
        assert not reading.done()
        with pytest.raises(asyncio.CancelledError):
            await reading
        server.peers[0]._writer.write(encode_chunk(b"one"))
        assert await response.read() == b"one"
        response.close()


async def test_blocks_are_handed_over_as_they_arrive_without_waking_the_task(
    transport: HttpTransport,
) -> None:
    arrived = asyncio.Event()

    async def send_one_by_one(peer: Peer) -> None:
        await peer.request()
        await peer.send(make_stream_head())
        for number in range(10):
            await peer.send(encode_chunk(b"%d" % number))
            await arrived.wait()
            arrived.clear()
        await peer.send(b"0\r\n\r\n")
        await peer.wait_closed()

    async with ScriptedServer(send_one_by_one) as server:
        response, blocks = await open_stream(transport, server)

        def on_block(block: bytes) -> bool:
            blocks.append(block)
            arrived.set()
            return False

        reading = Steps(response.read_until(on_block))
        await reading
        assert (b"".join(blocks), response.ended) == (b"0123456789", True)
        assert reading.count <= 1
        response.close()


async def test_reading_ends_when_the_reader_has_enough(transport: HttpTransport) -> None:
    head, end = make_stream_head(), b"0\r\n\r\n"
    async with ScriptedServer(send_once(head, encode_chunk(b"one"), stay=True)) as server:
        response, blocks = await open_stream(transport, server)

        def on_block(block: bytes) -> bool:
            blocks.append(block)
            return True

        await response.read_until(on_block)
        assert (blocks, response.ended) == ([b"one"], False)
        server.peers[0]._writer.write(encode_chunk(b"two") + end)
        await drain(response)
        assert (blocks, response.ended) == ([b"one"], True)
        response.close()


async def test_an_error_of_the_reader_is_raised_where_it_reads(transport: HttpTransport) -> None:
    async with ScriptedServer(send_slowly([make_stream_head(), encode_chunk(b"one")])) as server:
        response, _ = await open_stream(transport, server)

        def refuse(block: bytes) -> bool:
            raise ZeroDivisionError(block)

        with pytest.raises(ZeroDivisionError, match="one"):
            await response.read_until(refuse)
        response.close()


async def test_an_interrupted_body_is_handed_over_before_its_error(
    transport: HttpTransport,
) -> None:
    async with ScriptedServer(send_once(make_stream_head(), encode_chunk(b"one"))) as server:
        response, blocks = await open_stream(transport, server)

        def on_block(block: bytes) -> bool:
            blocks.append(block)
            return False

        with pytest.raises(errors.StreamInterrupted):
            await response.read_until(on_block)
        assert blocks == [b"one"]
        response.close()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse, or take any number")
async def test_connect_timeout_is_a_typed_error(
    transport: HttpTransport, full_backlog: int
) -> None:
    with pytest.raises(errors.ConnectTimeout, match=r"within 0\.2 s") as caught:
        await transport.send(Request("GET", f"http://127.0.0.1:{full_backlog}/", {}))
    assert (caught.value.limit_s, caught.value.stage) == (0.2, "connecting")
    assert caught.value.service == f"http://127.0.0.1:{full_backlog}"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse, or take any number")
async def test_connect_timeout_applies_to_detection(full_backlog: int) -> None:
    address = f"http://127.0.0.1:{full_backlog}"
    async with FoundryAPIClient(address, connect_timeout=0.1, max_retries=0) as client:
        with pytest.raises(errors.ConnectTimeout) as caught:
            await client.complete("Hi")
    assert (caught.value.limit_s, caught.value.service) == (0.1, address)


async def test_other_connect_failures_name_their_cause(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def exhausted(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", exhausted)
    with pytest.raises(errors.ServiceNotRunning, match="Too many open files"):
        await transport.send(Request("GET", "http://127.0.0.1:1/", {}))

    # As asyncio reports several addresses of one host, such as ::1 and 127.0.0.1.
    async def failed_twice(*_: object, **__: object) -> None:
        raise OSError("Multiple exceptions: one, another")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", failed_twice)
    with pytest.raises(errors.ServiceNotRunning, match="one, another"):
        await transport.send(Request("GET", "http://localhost:1/", {}))
