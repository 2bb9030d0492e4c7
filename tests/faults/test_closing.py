"""When a client is closed during its calls, each of them ends with a typed error."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api import (
    ClientClosed,
    FoundryAPIClient,
    FoundryError,
    MemoryCache,
    Request,
    StreamInterrupted,
)
from foundry_api.testing import FakeService
from foundry_api.wire.http import HttpTransport
from foundry_api.wire.loopback import is_loopback_http

from .hostile import (
    ScriptedServer,
    encode_chunk,
    encode_token,
    make_response,
    make_stream_head,
    on_route,
    send_forever,
    send_once,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from foundry_api.wire.transport import Response

    Way = Callable[[FoundryAPIClient], Awaitable[Any]]

STEPS = 60


def over_a_session(_url: str) -> bool:
    """Use the aiohttp session, as for services on other machines."""
    return False


def client_of(base_url: str, is_direct: Callable[[str], bool], **options: Any) -> FoundryAPIClient:
    client = FoundryAPIClient(base_url, model="fake", **options)
    backend = client._backend
    backend._transport = HttpTransport(use_loopback=is_direct, check=backend._check_sending)
    return client


async def complete(client: FoundryAPIClient) -> Any:
    return await client.complete("Hi")


async def cached(client: FoundryAPIClient) -> Any:
    return await client.complete("Hi", temperature=0)


async def stream(client: FoundryAPIClient) -> Any:
    async with aclosing(client.stream_complete("Hi")) as chunks:
        return [chunk async for chunk in chunks]


async def checked(client: FoundryAPIClient) -> Any:
    return await client.complete("Hi", parser=str)


async def embed(client: FoundryAPIClient) -> Any:
    return await client.embed(["a", "b"], model="fake")


async def respond(client: FoundryAPIClient) -> Any:
    return await client.responses.create("Hi")


async def request(client: FoundryAPIClient) -> Any:
    return await client.request("POST", "/v1/chat/completions", json={})


async def look(client: FoundryAPIClient) -> Any:
    return await client.models.list()


async def load(client: FoundryAPIClient) -> Any:
    return await client.models.load("fake")


async def use_tools(client: FoundryAPIClient) -> Any:
    return await client.run_tools("Hi", [])


WAYS: list[Way] = [
    complete,
    cached,
    stream,
    checked,
    embed,
    respond,
    request,
    look,
    load,
    use_tools,
]


def check(outcomes: list[Any]) -> None:
    for outcome in outcomes:
        assert not isinstance(outcome, BaseException) or isinstance(outcome, FoundryError), outcome


@pytest.mark.parametrize("reach", [is_loopback_http, over_a_session])
@pytest.mark.parametrize("is_warm", [False, True])
async def test_closing_at_any_moment(
    reach: Callable[[str], bool],
    caplog: pytest.LogCaptureFixture,
    *,
    is_warm: bool,
) -> None:
    async with FakeService(*["One two three four five"] * 2000) as service:
        for steps in range(0, STEPS, 2):
            client = client_of(service.base_url, reach, cache=MemoryCache())
            if is_warm:
                await client.complete("Hi")
            calls = [asyncio.ensure_future(way(client)) for way in WAYS]
            for _ in range(steps):
                await asyncio.sleep(0)
            await client.close()
            async with asyncio.timeout(5):
                check(await asyncio.gather(*calls, return_exceptions=True))
            with pytest.raises(ClientClosed):
                await client.complete("Hi")
    assert "never retrieved" not in caplog.text


def healthy(path: str) -> bytes:
    if path.endswith("/loaded"):
        return make_response(200, b'["fake:1"]')
    if path.endswith("/models"):
        return make_response(200, b'{"object":"list","data":[{"id":"fake:1","object":"model"}]}')
    return make_response(200, b'{"modelCachePath":"/nowhere","pid":1}')


ENDLESS = on_route(
    "chat/completions",
    send_forever(make_stream_head(), encode_chunk(encode_token("again ")), pause_s=0.001),
    healthy,
)


@pytest.mark.parametrize("reach", [is_loopback_http, over_a_session])
@pytest.mark.parametrize("way", [complete, stream])
async def test_closing_keeps_the_text_so_far(reach: Callable[[str], bool], way: Way) -> None:
    begun = asyncio.Event()

    def note(_: object) -> None:
        begun.set()

    async with ScriptedServer(ENDLESS) as server:
        from foundry_api.types.events import FirstToken  # noqa: PLC0415

        client = client_of(server.base_url, reach)
        client.events.subscribe(note, FirstToken)
        call = asyncio.ensure_future(way(client))
        async with asyncio.timeout(5):
            await begun.wait()
            await client.close()
            with pytest.raises(ClientClosed, match="closed during the call") as caught:
                await call
    assert caught.value.partial.startswith("again ")


@pytest.mark.parametrize("reach", [is_loopback_http, over_a_session])
async def test_closing_ends_a_stream_with_a_slow_reader(
    reach: Callable[[str], bool],
) -> None:
    async with ScriptedServer(ENDLESS) as server:
        client = client_of(server.base_url, reach)
        chunks = client.stream_complete("Hi")
        assert (await anext(chunks)).content == "again "
        await client.close()
        with pytest.raises(ClientClosed):
            async for _ in chunks:
                pass


@pytest.mark.parametrize("reach", [is_loopback_http, over_a_session])
@pytest.mark.parametrize("steps", range(6))
async def test_reading_while_the_connection_closes(
    reach: Callable[[str], bool], steps: int
) -> None:
    """For a moment, aiohttp considers the connection closed without having notified its reader."""
    transport = HttpTransport(use_loopback=reach)
    async with ScriptedServer(
        send_once(make_stream_head(), encode_chunk(encode_token("Hi")), stay=True)
    ) as server:
        response = await transport.send(Request("POST", f"{server.base_url}/", {}, b"{}"))
        assert await response.read()
        closing = asyncio.ensure_future(transport.aclose())
        for _ in range(steps):
            await asyncio.sleep(0)
        with pytest.raises(StreamInterrupted):
            await response.read()
        response.close()
        await closing


async def read_whole(response: Response) -> None:
    try:
        async with asyncio.timeout(5):
            while await response.read():
                pass
    finally:
        response.close()


@pytest.mark.parametrize("reach", [is_loopback_http, over_a_session])
@pytest.mark.parametrize("steps", range(1, 12))
async def test_sending_while_the_transport_closes(reach: Callable[[str], bool], steps: int) -> None:
    transport = HttpTransport(use_loopback=reach)
    async with ScriptedServer(ENDLESS) as server:
        request = Request("POST", f"{server.base_url}/chat/completions", {}, b"{}")
        sending = asyncio.ensure_future(transport.send(request))
        for _ in range(steps):
            await asyncio.sleep(0)
        await transport.aclose()
        with pytest.raises(FoundryError):
            await read_whole(await sending)
        await transport.aclose()
