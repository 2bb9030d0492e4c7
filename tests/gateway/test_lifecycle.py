"""Slow clients, reload, and the end of a gateway."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import tracemalloc
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import pytest

from foundry_api import FoundryAPIClient
from foundry_api.gateway import exchange as gateway_exchange
from foundry_api.gateway import server as gateway_server
from foundry_api.gateway.config import GatewayConfig
from foundry_api.gateway.gateway import Gateway
from foundry_api.gateway.health import list_problems
from foundry_api.gateway.management import describe_status
from foundry_api.gateway.server import GatewayServer, TlsConnection, TlsFiles
from foundry_api.gateway.warm_up import WarmUp
from foundry_api.resilience.breaker import BreakerSettings
from foundry_api.testing import FakeService
from foundry_api.types.errors import ConfigurationError
from foundry_api.types.settings import Settings
from gateway.serving import serve
from gateway.shapes import parse_events
from gateway.tls import make_certificate
from service.helpers import wait_until_async
from support.cli_program import make_command, make_environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint

CHAT = "/v1/chat/completions"


def make_body(prompt: str, **options: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": [{"role": "user", "content": prompt}], **options}


async def connect(gateway: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address, _, port = gateway.url.partition("://")[2].rpartition(":")
    return await asyncio.open_connection(address, int(port))


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    """Return what arrives until the gateway ends the connection, in whichever way."""
    try:
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b""


class TestSlowClients:
    """P38."""

    @pytest.fixture
    def config(self) -> GatewayConfig:
        return GatewayConfig(
            port=0, idle_timeout_s=1, write_timeout_s=1, max_connections_per_address=3
        )

    @pytest.mark.parametrize("start", [b"", b"GET /healthz HTTP/1.1\r\nHost: 127"])
    async def test_p38_a_head_that_does_not_end(self, gateway: Gateway, start: bytes) -> None:
        reader, writer = await connect(gateway)
        writer.write(start)
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()

    async def test_p38_a_head_that_is_too_large_in_all(self, gateway: Gateway) -> None:
        reader, writer = await connect(gateway)
        line = b"X-Header: " + b"a" * 8000 + b"\r\n"
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        for _ in range(9):  # each line by itself, as a client that is slow or means no good
            writer.write(line)
            await writer.drain()
            await asyncio.sleep(0)
        answer = await asyncio.wait_for(reader.read(), 20)
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert b'"code":"header_too_large"' in answer
        writer.close()

    async def test_p38_a_client_that_reads_nothing(self, gateway: Gateway) -> None:
        address, _, port = gateway.url.partition("://")[2].rpartition(":")
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((address, int(port)))
        connection.settimeout(0)
        _, writer = await asyncio.open_connection(sock=connection)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        # Long answers fill what the system buffers soonest.
        request = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

        async def send_for_ever() -> None:
            while True:
                writer.write(request * 100)
                await writer.drain()

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(send_for_ever(), 60)

    async def test_too_many_connections_of_an_address(self, gateway: Gateway) -> None:
        writers = [(await connect(gateway))[1] for _ in range(3)]
        reader, writer = await connect(gateway)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 20)
        for one in (*writers, writer):
            one.close()


async def test_connections_leave_files_for_everything_else(
    engine: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(gateway_server, "get_max_open_files", lambda: 4)
    async with (
        FoundryAPIClient(engine.base_url) as client,
        Gateway(GatewayConfig(port=0), client, tmp_path / "gateway") as gateway,
    ):
        assert "may open 4 files: 2 connections are served" in caplog.text
        writers = [(await connect(gateway))[1] for _ in range(2)]
        reader, writer = await connect(gateway)
        assert await read_to_end(reader) == b""
        for one in (*writers, writer):
            one.close()


async def test_bodies_that_arrive_are_bounded_for_each_key(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_exchange, "MAX_RECEIVING_BYTES", 300_000)
    account = gateway.context.admission.accounts.get(None)

    async def send(size: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await connect(gateway)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n" + b"x" * size
        )
        return reader, writer

    # A body alone may have more, and the one that exceeds the limit is refused.
    _, first = await send(400_000)
    await wait_until_async(lambda: account.receiving_bytes == 400_000)
    reader, second = await send(100_000)
    assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 429")
    for one in (first, second):
        one.transport.abort()
    await wait_until_async(lambda: account.receiving_bytes == 0)


async def test_a_client_that_expects_continue_is_asked_for_the_body(gateway: Gateway) -> None:
    reader, writer = await connect(gateway)
    body = b'{"model":"scripted","messages":[]}'
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20) == (
        b"HTTP/1.1 100 Continue\r\n\r\n"
    )
    writer.write(body)
    assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 400")
    writer.close()


async def test_p45_new_calls_are_refused_and_running_ones_finish(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    async with http.post(CHAT, json=make_body("say-slowly", stream=True, max_tokens=40)) as running:
        await running.content.readline()
        drain = asyncio.ensure_future(gateway.drain(60))
        await asyncio.sleep(0)
        async with http.get("/readyz") as ready, http.get("/v1/models") as refused:
            assert (ready.status, refused.status) == (503, 503)
            assert "Retry-After" in refused.headers
        assert parse_events(await running.text())[-1] == "[DONE]"
    await drain


async def test_p45_after_the_bound_a_stream_ends_with_an_error_event(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    async with http.post(CHAT, json=make_body("say-slowly", stream=True)) as running:
        await running.content.readline()
        await gateway.drain(0)
        events = parse_events(await running.text())
    assert events[-1]["error"]["code"] == "shutting_down"


class TestTls:
    @pytest.fixture
    def config(self, tmp_path: Path) -> GatewayConfig:
        certificate, key = make_certificate(tmp_path)
        return GatewayConfig(
            port=0, tls_cert=certificate, tls_key=key, max_connections_per_address=3
        )

    async def test_a_new_certificate_is_used_without_a_cut(
        self, gateway: Gateway, tmp_path: Path
    ) -> None:
        old = await self.get_certificate(gateway)
        reader, writer = await self.connect(gateway)
        make_certificate(tmp_path)
        await gateway.reload()
        assert await self.get_certificate(gateway) != old
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()

    async def test_connections_without_a_handshake_count(
        self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gateway_server, "TLS_HANDSHAKE_S", 3600)
        silent = [await connect(gateway) for _ in range(3)]
        reader, writer = await connect(gateway)
        assert await read_to_end(reader) == b""
        writer.close()
        for _, one in silent:
            one.transport.abort()
        while True:  # the gateway sees the ends in turn
            try:
                assert await self.get_certificate(gateway)
                break
            except ConnectionError:
                await asyncio.sleep(0.01)

    async def test_a_connection_takes_little_memory(self, config: GatewayConfig) -> None:
        assert config.tls_cert is not None
        assert config.tls_key is not None
        context = TlsFiles(config.tls_cert, config.tls_key).context

        async def serve(_: object) -> Any:
            raise NotImplementedError

        server = GatewayServer(serve, config)
        tracemalloc.start()
        try:
            connections = [TlsConnection(server, context) for _ in range(16)]
            size = tracemalloc.get_traced_memory()[0] / len(connections)
        finally:
            tracemalloc.stop()
        for connection in connections:
            connection.connection_lost(None)
        assert size < 100_000  # 300,000 with the buffer of asyncio

    async def test_a_handshake_has_a_time_limit(
        self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gateway_server, "TLS_HANDSHAKE_S", 0.1)
        for start in (b"", bytes.fromhex("1603010200010001fc0303")):
            reader, writer = await connect(gateway)
            writer.write(start)
            assert await read_to_end(reader) == b""
            writer.close()

    async def test_a_client_that_breaks_off_its_handshake(self, gateway: Gateway) -> None:
        for start in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes.fromhex("1603010200010001fc0303")):
            _, writer = await connect(gateway)
            writer.write(start)
            await writer.drain()
            writer.transport.abort()
        assert await self.get_certificate(gateway)

    async def test_files_that_do_not_fit_leave_the_former_ones(
        self, gateway: Gateway, tmp_path: Path
    ) -> None:
        old = await self.get_certificate(gateway)
        (tmp_path / "localhost.key").write_text("no key", encoding="utf-8")
        with pytest.raises(ConfigurationError, match="cannot be used"):
            await gateway.reload()
        assert await self.get_certificate(gateway) == old

    @pytest.mark.parametrize(
        ("certificate", "key", "message"),
        [
            ("none.pem", "localhost.key", "the TLS certificate .*none.pem cannot be read: No such"),
            ("localhost.pem", "none.key", "the TLS key .*none.key cannot be read: No such"),
            ("localhost.pem", "localhost.pem", "localhost.pem cannot be used with the key "),
        ],
    )
    def test_the_file_that_cannot_be_used_is_named(
        self, tmp_path: Path, certificate: str, key: str, message: str
    ) -> None:
        make_certificate(tmp_path)
        with pytest.raises(ConfigurationError, match=message):
            TlsFiles(tmp_path / certificate, tmp_path / key)

    async def connect(self, gateway: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the authorities of the system
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        address, _, port = gateway.url.partition("://")[2].rpartition(":")
        return await asyncio.open_connection(address, int(port), ssl=context)

    async def get_certificate(self, gateway: Gateway) -> bytes:
        _, writer = await self.connect(gateway)
        found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return found


@pytest.fixture
def program(own_home: Path, engine: Endpoint) -> Iterator[subprocess.Popen[str]]:
    """`foundry-api serve` as a process, before its first line."""
    command = make_command("serve", "-m", "demo", "--port", "0", "--drain", "30")
    environment = make_environment(
        own_home, FOUNDRY_GATEWAY_BASE_URL=engine.base_url, PYTHONUNBUFFERED="1"
    )
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        yield process
        process.kill()


async def test_the_configured_model_is_loaded_at_the_start(own_home: Path) -> None:
    async with FoundryAPIClient(home=own_home, service="embedded") as client:
        assert not await client.models.loaded()
        await WarmUp(client, "demo").run()
        assert [model.alias for model in await client.models.loaded()] == ["demo"]


async def test_a_model_that_cannot_be_loaded_is_reported(
    client: FoundryAPIClient, caplog: pytest.LogCaptureFixture
) -> None:
    await WarmUp(client, "no-such-model").run()
    assert "model no-such-model is not available yet: " in caplog.text


@pytest.mark.parametrize("model", [None, "fake"])
async def test_an_engine_that_is_not_there_yet_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, model: str | None
) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]  # nothing accepts connections at it
    problems: list[str] = []
    waits: list[float] = []
    async with (
        FoundryAPIClient(f"http://127.0.0.1:{port}", max_retries=0) as client,
        AsyncExitStack() as stack,
    ):

        async def wait(seconds: float) -> None:
            waits.append(seconds)
            problems.extend(list_problems(gateway.context))
            if len(waits) == 2:
                await stack.enter_async_context(FakeService(port=port))

        warm_up = WarmUp(client, model, sleep=wait)
        gateway = Gateway(GatewayConfig(port=0), client, tmp_path, warm_up=warm_up)
        warm_up.start()
        async with asyncio.timeout(30):
            while warm_up.is_running:  # noqa: ASYNC110 - it sets no event
                await asyncio.sleep(0.01)
        assert list_problems(gateway.context) == []
    assert waits == [1.0, 2.0]
    assert problems == ["the model service is not available; the log says why"] * 2
    assert caplog.text.count("is not available yet") == 1
    assert "the model service is available" in caplog.text


class FakeModels:
    """Loads a model for as long as a test wants."""

    def __init__(self) -> None:
        self.models = self
        self.services = (SimpleNamespace(connection=None),)
        self.settings = Settings()
        self.is_loaded = asyncio.Event()

    async def load(self, _name: str) -> None:
        await self.is_loaded.wait()


async def test_the_gateway_is_ready_once_its_model_is_loaded(
    client: FoundryAPIClient, tmp_path: Path
) -> None:
    fake = FakeModels()
    warm_up = WarmUp(cast("FoundryAPIClient", fake), "demo")
    config = GatewayConfig(port=0)
    async with (
        Gateway(config, client, tmp_path, warm_up=warm_up) as gateway,
        aiohttp.ClientSession(gateway.url) as http,
    ):

        async def get_readiness() -> int:
            async with http.get("/readyz") as response:
                return response.status

        warm_up.start()
        assert await get_readiness() == 503
        assert "the model service is being started" in describe_status(gateway.context)["problems"]
        fake.is_loaded.set()
        while warm_up.is_running:  # noqa: ASYNC110 - a turn of the loop
            await asyncio.sleep(0)
        assert await get_readiness() == 200


async def test_a_warm_up_is_cancelled_with_its_gateway() -> None:
    warm_up = WarmUp(cast("FoundryAPIClient", FakeModels()), "demo")
    warm_up.start()
    await warm_up.cancel()
    assert not warm_up.is_running


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_signals_reload_and_stop_the_program(program: subprocess.Popen[str]) -> None:
    assert program.stdout is not None
    first_line = program.stdout.readline()
    assert first_line.startswith("Serving at http://127.0.0.1:")
    assert "Its page is at http://127.0.0.1:" in first_line
    os.kill(program.pid, signal.SIGHUP)
    assert program.stdout.readline() == "Reloaded keys and TLS files.\n"
    os.kill(program.pid, signal.SIGTERM)
    assert program.stdout.readline().startswith("Stopping")
    assert program.stdout.read() == ""
    assert program.wait(30) == 0


@pytest.mark.parametrize(("open_s", "expected"), [(3600, 503), (0.001, 200)])
async def test_a_gateway_is_ready_again_once_a_call_may_probe_its_service(
    tmp_path: Path, engine: Endpoint, open_s: float, expected: int
) -> None:
    """Only a call probes it, and a load balancer would send none."""
    settings = BreakerSettings(minimum_calls=2, open_s=open_s, open_cap_s=open_s)
    async with serve(tmp_path, engine.base_url, client={"breaker": settings}) as served:
        breaker = served.gateway.context.client.breaker
        while (permit := breaker.try_enter()) is not None and breaker.state == "closed":
            permit.record_failure(0.1)
        await served.wait_until(lambda: breaker.is_probe_due or expected == 503)
        async with served.http.get("/readyz") as response:
            assert response.status == expected
