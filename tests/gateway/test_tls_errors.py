"""What a client reads that calls a gateway with the wrong scheme, or does not trust it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from foundry_api import FoundryAPIClient, FoundryError
from foundry_api.testing import FakeService
from gateway.raw import Connection, check_error
from gateway.serving import serve
from gateway.tls import make_certificate
from support.cli_program import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gateway.serving import ServedGateway


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return make_certificate(tmp_path)


@pytest.fixture
async def served(tmp_path: Path, certificate: tuple[Path, Path]) -> AsyncIterator[ServedGateway]:
    config = {"tls_cert": certificate[0], "tls_key": certificate[1]}
    async with (
        FakeService() as upstream,
        serve(tmp_path / "gateway", upstream.base_url, config=config) as served,
    ):
        yield served


async def get_error(url: str) -> FoundryError:
    async with FoundryAPIClient(url) as client:
        with pytest.raises(FoundryError) as caught:
            await client.complete("say-hello", model="fake")
    return caught.value


async def test_http_on_the_port_of_https(served: ServedGateway) -> None:
    error = await get_error(served.gateway.url.replace("https:", "http:"))
    assert "speaks HTTPS, not HTTP" in str(error)
    assert error.hint == f"Use {served.gateway.url}."
    _, _, port = served.gateway.url.rpartition(":")
    _, connection = await asyncio.get_running_loop().create_connection(
        Connection, "127.0.0.1", int(port)
    )
    await connection.send(b"GET / HTTP/1.1\r\n\r\n")
    response = await connection.read_response()
    assert response is not None
    assert b"Use an address that begins with https://" in response.body
    check_error(response)
    assert await connection.read_to_end() == []


async def test_https_on_the_port_of_http(tmp_path: Path) -> None:
    async with FakeService() as upstream, serve(tmp_path, upstream.base_url) as served:
        url = served.gateway.url
        error = await get_error(url.replace("http:", "https:"))
    assert "does not speak TLS" in str(error)
    assert error.hint == f"Use {url}, without s."


async def test_a_certificate_that_is_not_trusted(
    served: ServedGateway, certificate: tuple[Path, Path], own_home: Path
) -> None:
    url = served.gateway.url
    error = await get_error(url)
    assert f"the certificate of {url} is not trusted: self-signed" in str(error)
    assert "SSL_CERT_FILE" in (error.hint or "")
    # aiohttp reads the variable when it is imported.
    for address, expected in (
        (url.replace("127.0.0.1", "localhost"), "Hello"),
        (url, "Use an address that the certificate names."),
    ):
        finished = await asyncio.to_thread(
            run,
            "--base-url",
            address,
            "chat",
            "--model",
            "fake",
            "hi",
            home=own_home,
            SSL_CERT_FILE=str(certificate[0]),
        )
        assert expected in finished.stdout + finished.stderr
