"""The proxy through which gateways on other nodes reach an engine, and the lease of its actor."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, cast

import aiohttp
import pytest

from foundry_api import FoundryAPIClient
from foundry_api.batch.cluster import engine_proxy
from foundry_api.batch.cluster.engine_lease import EngineLease
from foundry_api.batch.cluster.engine_proxy import EngineProxy
from foundry_api.types import errors
from foundry_api.types.services import ServiceOptions
from foundry_api.types.settings import Settings
from service.helpers import list_hosts
from support.scripted_model import script

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from foundry_api.core.connection import Connection
    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.wire.transport import Request, Response, Transport

HOST = "127.0.0.1"


class RecordedResponse:
    def __init__(self, response: Response, on_close: Callable[[], None]) -> None:
        self._response = response
        self._on_close = on_close
        self.status, self.headers = response.status, response.headers

    @property
    def ended(self) -> bool:
        return self._response.ended

    async def read(self) -> bytes:
        return await self._response.read()

    def close(self) -> None:
        self._on_close()
        self._response.close()


class Recorder:
    """A transport that counts the answers that are open."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.open = 0
        self.requests: list[Request] = []

    async def send(self, request: Request) -> Response:
        response = await self._transport.send(request)
        self.requests.append(request)
        self.open += 1
        return RecordedResponse(response, self._count_closed)

    def _count_closed(self) -> None:
        self.open -= 1

    async def aclose(self) -> None:
        await self._transport.aclose()


@asynccontextmanager
async def serve_engine(url: str) -> AsyncGenerator[tuple[EngineProxy, str, Connection]]:
    async with FoundryAPIClient(url) as client:
        service = client.services[0]
        connection = await service.connect()
        proxy = EngineProxy(service)
        address = await proxy.listen(HOST, 0)
        try:
            yield proxy, address, connection
        finally:
            await proxy.aclose()


@asynccontextmanager
async def call_through(proxy: EngineProxy, url: str) -> AsyncGenerator[FoundryAPIClient]:
    """Call a proxy as a gateway does."""
    options = ServiceOptions(name="node", base_url=url, get_api_key=lambda: proxy.token)
    async with FoundryAPIClient(settings=Settings(services=(), max_retries=0)) as client:
        await client.add_service(options)
        yield client


async def test_calls_and_streams_pass_and_one_that_leaves_stops_the_engine(
    engine: Endpoint,
) -> None:
    async with (
        serve_engine(engine.base_url) as (proxy, url, connection),
        call_through(proxy, url) as client,
    ):
        recorder = connection.transport = Recorder(connection.transport)
        answer = await client.complete("say-hello", model="scripted")
        assert answer.content == script("say-hello").text
        assert recorder.requests[-1].headers.get("Authorization") is None
        assert await client.embed("Hello", model="embedder")
        with pytest.raises(errors.ModelNotFound):
            await client.complete("x", model="missing")
        async with aclosing(client.stream_complete("say-slowly", model="scripted")) as stream:
            await anext(stream)
            assert recorder.open == 1
        async with asyncio.timeout(10):
            while recorder.open:  # noqa: ASYNC110 - the transport has no event for it
                await asyncio.sleep(0.01)


async def test_requests_without_the_token_reach_nothing(
    engine: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_proxy, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(engine_proxy, "MAX_BODY_BYTES", 1000)
    async with (
        serve_engine(engine.base_url) as (proxy, url, connection),
        aiohttp.ClientSession(url) as http,
    ):
        recorder = connection.transport = Recorder(connection.transport)
        right = {"Authorization": f"Bearer {proxy.token}"}
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": proxy.token}):
            async with http.post("/v1/chat/completions", headers=headers, data=b"x") as response:
                assert response.status == 401
                assert proxy.token not in await response.text()
        async with http.post("/v1/chat/completions", headers=right, data=b"x" * 2000) as response:
            assert response.status == 413
        assert not recorder.requests
        async with http.get("/status", headers=right) as response:
            assert response.status == 200
        port = int(url.rpartition(":")[2])
        monkeypatch.setattr(engine_proxy, "TOKEN_TIMEOUT_S", 0.2)
        silent = [await asyncio.open_connection(HOST, port) for _ in range(2)]
        reader, writer = await asyncio.open_connection(HOST, port)  # one too many
        assert not await reader.read()
        writer.close()
        for reader, writer in silent:
            async with asyncio.timeout(10):
                assert not await reader.read()
            writer.close()
        async with http.get("/status", headers=right) as response:  # its connection was kept
            assert response.status == 200


async def test_an_engine_that_dies_ends_the_connection_and_is_started_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()
    settings = Settings(home=home, service="embedded")
    lease = EngineLease(lambda: FoundryAPIClient(settings=settings), ended.set, lease_s=3600)
    address = await lease.renew(HOST, 0)
    assert address.token not in repr(address)
    with pytest.raises(errors.ConfigurationError, match="cannot be used"):
        await EngineProxy(cast("FoundryAPIClient", lease._client).services[0]).listen(
            HOST, int(address.url.rpartition(":")[2])
        )
    options = ServiceOptions(name="n", base_url=address.url, get_api_key=lambda: address.token)
    async with FoundryAPIClient(settings=Settings(services=(), max_retries=0)) as client:
        await client.add_service(options)
        assert (await client.complete("What is 2 plus 3?", model="demo")).content
        (host,) = list_hosts(home)
        host.kill()
        host.wait()
        with pytest.raises((errors.ServiceCrashed, errors.ServiceNotRunning)):
            await client.complete("What is 2 plus 3?", model="demo")
        assert await lease.renew(HOST, 0) == address  # the proxy is the same
        assert (await client.complete("What is 2 plus 3?", model="demo")).content
    monkeypatch.setattr(lease, "_lease_s", 0)
    await lease.renew(HOST, 0)
    await lease.wait_and_end()
    assert ended.is_set()
    assert not list_hosts(home)
