"""The HTTP transport."""

from __future__ import annotations

import asyncio
import urllib.request
from typing import TYPE_CHECKING

import pytest

from faults.hostile import (
    ScriptedServer,
    answer_all,
    break_off,
    encode_chunk,
    get_unused_url,
    make_head,
    make_response,
    send_forever,
    send_once,
    stay_silent,
)
from foundry_api.types import errors
from foundry_api.wire import loopback
from foundry_api.wire.http import HttpTransport
from foundry_api.wire.http_parser import ResponseParser, make_parser
from foundry_api.wire.session import _get_proxy
from foundry_api.wire.transport import BufferedResponse, Request, fetch, is_loopback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from faults.hostile import Peer


@pytest.fixture(params=[make_parser, ResponseParser], ids=["httptools", "python"])
async def transport(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[HttpTransport]:
    """A transport, with both parsers."""
    monkeypatch.setattr(loopback, "make_parser", request.param)
    transport = HttpTransport()
    yield transport
    await transport.aclose()


def get(base_url: str, path: str = "/status", **headers: str) -> Request:
    return Request("GET", f"{base_url}{path}", headers)


async def test_fetch_returns_the_complete_response(transport: HttpTransport) -> None:
    async with ScriptedServer(send_once(make_response(200, b"body"))) as server:
        reply = await fetch(transport, get(server.base_url), timeout_s=5)
    assert isinstance(reply, BufferedResponse)
    assert (reply.status, reply.body) == (200, b"body")
    assert reply.headers["content-type"] == "application/json"


async def test_first_of_repeated_headers_counts(transport: HttpTransport) -> None:
    doubled = "X-Twice: first\r\nX-Twice: second\r\n"
    async with ScriptedServer(send_once(make_head(200, length=0, more=doubled))) as server:
        reply = await fetch(transport, get(server.base_url), timeout_s=5)
    assert reply.headers["x-twice"] == "first"


async def test_no_headers_are_added_without_need(transport: HttpTransport) -> None:
    """No credential, no cookie, no request for compression."""
    cookie = make_head(200, length=0, more="Set-Cookie: a=b\r\nConnection: close\r\n")
    async with ScriptedServer(send_once(cookie)) as server:
        for _ in range(2):
            await fetch(transport, get(server.base_url, Extra="mine"), timeout_s=5)
    for request in server.requests:
        assert set(request.headers) == {"host", "accept", "accept-encoding", "user-agent", "extra"}
        assert request.headers["accept-encoding"] == "identity"


async def test_colons_in_paths_are_not_encoded(transport: HttpTransport) -> None:
    """SDK 2.x does not decode path variables."""
    async with ScriptedServer(send_once(make_response(200, b""))) as server:
        await fetch(transport, get(server.base_url, "/v1/models/tiny-chat:2"), timeout_s=5)
    assert server.requests[0].path == "/v1/models/tiny-chat:2"


async def test_body_is_sent_with_its_length(transport: HttpTransport) -> None:
    async with ScriptedServer(send_once(make_response(200, b""))) as server:
        request = Request("POST", f"{server.base_url}/x", {"Content-Type": "x/y"}, b"\0body")
        await fetch(transport, request, timeout_s=5)
    received = server.requests[0]
    assert (received.method, received.path, received.body) == ("POST", "/x", b"\0body")
    assert received.headers["content-length"] == "5"
    assert "transfer-encoding" not in received.headers


async def test_fetch_limits_the_size(transport: HttpTransport) -> None:
    async with ScriptedServer(send_forever(make_head(200), encode_chunk(b"a" * 9999))) as server:
        with pytest.raises(errors.ProtocolError, match="larger than 100000 bytes"):
            await fetch(transport, get(server.base_url), timeout_s=5, max_bytes=100_000)
        await server.wait_closed()


async def test_fetch_limits_the_time(transport: HttpTransport) -> None:
    async with ScriptedServer(stay_silent) as server:
        with pytest.raises(errors.ServiceNotRunning, match=r"within 0\.1 s") as caught:
            await fetch(transport, get(server.base_url), timeout_s=0.1)
        await server.wait_closed()
    assert str(caught.value).endswith("restart the service.")


async def test_truncated_response_is_a_crash(transport: HttpTransport) -> None:
    """Unlike with a stream, the caller has received no text."""
    async with ScriptedServer(send_once(make_head(200, length=99), b"half")) as server:
        with pytest.raises(errors.ServiceCrashed, match="before the answer ended") as caught:
            await fetch(transport, get(server.base_url), timeout_s=5)
    assert caught.value.service == server.base_url


async def test_connection_reset_is_a_crash(transport: HttpTransport) -> None:
    async with ScriptedServer(break_off) as server:
        with pytest.raises(errors.ServiceCrashed):
            await fetch(transport, get(server.base_url), timeout_s=5)


async def test_refused_connection_means_not_running(
    transport: HttpTransport,
) -> None:
    base_url = await get_unused_url()
    with pytest.raises(errors.ServiceNotRunning, match="nothing accepts connections") as caught:
        await fetch(transport, get(base_url), timeout_s=5)
    assert caught.value.service == base_url


@pytest.mark.parametrize("url", ["http://", "http://[::1", "nonsense", "ftp://127.0.0.1/"])
async def test_invalid_url_is_a_configuration_error(transport: HttpTransport, url: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        await transport.send(Request("GET", url))
    assert caught.value.hint


@pytest.mark.parametrize("value", ["line\r\nX-Injected: yes", "nul\0"])
async def test_invalid_header_is_a_configuration_error(
    transport: HttpTransport, value: str
) -> None:
    async with ScriptedServer(send_once(make_response(200, b""))) as server:
        with pytest.raises(errors.ConfigurationError, match="cannot be sent"):
            await transport.send(get(server.base_url, Authorization=value))
    assert server.requests == []


async def test_closing_a_response_early_closes_its_connection(
    transport: HttpTransport,
) -> None:
    async with ScriptedServer(
        send_once(make_head(200), encode_chunk(b"half"), stay=True)
    ) as server:
        response = await transport.send(get(server.base_url))
        response.close()
        await server.wait_closed()


async def test_closing_is_idempotent(transport: HttpTransport) -> None:
    async with ScriptedServer(send_once(make_response(200, b""))) as server:
        response = await transport.send(get(server.base_url))
        response.close()
        response.close()
    await transport.aclose()
    await transport.aclose()


async def test_closed_transport_can_be_used_again(transport: HttpTransport) -> None:
    async with ScriptedServer(answer_all("Hi")) as server:
        for _ in range(2):
            assert (await fetch(transport, get(server.base_url), timeout_s=5)).status == 200
            await transport.aclose()
    assert [request.connection for request in server.requests] == [0, 1]


async def test_aclose_closes_pooled_connections(
    transport: HttpTransport,
) -> None:
    async def once(peer: Peer) -> None:
        await peer.request()
        await peer.send(make_response(200, b""))
        await peer.wait_closed()

    async with ScriptedServer(once) as server:
        await fetch(transport, get(server.base_url), timeout_s=5)
        await transport.aclose()
        await server.wait_closed()


async def test_one_transport_serves_many_tasks_at_once(transport: HttpTransport) -> None:
    async with ScriptedServer(answer_all("Hi")) as server:
        request = get(server.base_url)
        replies = await asyncio.gather(
            *(fetch(transport, request, timeout_s=60) for _ in range(200))
        )
    assert [reply.status for reply in replies] == [200] * 200


def test_several_event_loops_leak_no_socket() -> None:
    """The transport is never closed, and warnings about open sockets are errors in tests."""
    transport = HttpTransport()

    async def use_it() -> int:
        async with ScriptedServer(send_once(make_response(200, b""), stay=True)) as server:
            return (await fetch(transport, get(server.base_url), timeout_s=5)).status

    assert [asyncio.run(use_it()) for _ in range(3)] == [200] * 3


def test_abandoned_event_loop_does_not_affect_the_next() -> None:
    """Some programs run their event loops by hand."""
    transport = HttpTransport()

    async def use_it() -> int:
        async with ScriptedServer(send_once(make_response(200, b""), stay=True)) as server:
            return (await fetch(transport, get(server.base_url), timeout_s=5)).status

    left, new = asyncio.new_event_loop(), asyncio.new_event_loop()
    assert left.run_until_complete(use_it()) == 200
    assert new.run_until_complete(use_it()) == 200
    for loop in (left, new):
        loop.run_until_complete(loop.shutdown_asyncgens())
        while left_over := asyncio.all_tasks(loop):
            loop.run_until_complete(asyncio.wait(left_over))
        loop.close()


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:5273/x", True),
        ("http://127.9.9.9", True),
        ("http://[::1]:5273", True),
        ("http://localhost:5273", True),
        ("http://LOCALHOST", True),
        ("http://me.localhost", True),
        ("http://192.168.0.1", False),
        ("http://localhost.example", False),
        ("http://notlocalhost", False),
        ("https://models.example", False),
        ("http://0.0.0.0", False),
        ("http://", False),
        ("nonsense", False),
    ],
)
def test_is_loopback(url: str, *, loopback: bool) -> None:
    assert is_loopback(url) is loopback


def test_proxy_is_for_remote_services_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"http": "http://proxy:3128"})
    monkeypatch.setattr(urllib.request, "proxy_bypass", lambda host: host == "inside.example")
    assert _get_proxy("http://inside.example/x") is None
    assert _get_proxy("http://outside.example/x") == "http://proxy:3128"
    assert _get_proxy("https://outside.example/x") is None


async def test_proxy_of_the_environment_is_not_used_for_loopback(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with ScriptedServer(send_once(make_response(200, b""))) as server:
        assert (await fetch(transport, get(server.base_url), timeout_s=5)).status == 200
