"""Unloading a model that is generating: what the real services do, and what this client does."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import psutil
import pytest

from conformance.conftest import RawClient
from conformance.services import VERSIONS, run_real
from foundry_api import FoundryAPIClient, FoundryError, LimiterSettings
from foundry_api.types.capabilities import CAPABILITIES
from foundry_api.wire.http import HttpTransport
from service.helpers import wait_until_async
from support.loopback_catalog import ALIAS
from support.scripted_model import script

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conformance.services import Service

CALLS = 4


@pytest.fixture(params=VERSIONS)
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """A service that may crash."""
    with run_real(request.param, tmp_path / "home") as service:
        yield service


def lives(service: Service) -> bool:
    assert service.process
    return service.process.is_running() and service.process.status() != psutil.STATUS_ZOMBIE


async def test_survival_matches_the_table(service: Service) -> None:
    support = CAPABILITIES[service.service_generation].unload_while_generating
    async with FoundryAPIClient(service.base_url, max_retries=0) as client:
        await client.models.load(ALIAS)
    name = service.model if service.service_generation == "sdk-1" else ALIAS
    async with contextlib.aclosing(HttpTransport()) as transport:
        raw = RawClient(service, transport)
        stream = await transport.send(
            raw.build_chat_request("say-slowly", stream=True, max_tokens=30)
        )
        await stream.read()
        with contextlib.suppress(FoundryError):
            await raw.send("GET", f"/models/unload/{name}")
        with contextlib.suppress(FoundryError):
            while await stream.read():
                continue
        stream.close()
    if support == "unsupported":
        await wait_until_async(lambda: not lives(service))
    else:
        assert lives(service)


async def test_client_unloads_after_its_calls_have_ended(service: Service) -> None:
    all_at_once = LimiterSettings(concurrency=CALLS)
    async with FoundryAPIClient(
        service.base_url, model=ALIAS, max_retries=0, limiter=all_at_once
    ) as client:
        await client.models.load(ALIAS)
        calls = [asyncio.ensure_future(streamed(client)) for _ in range(CALLS)]
        await asyncio.sleep(0.2)  # into the middle of the answers
        await client.models.unload(ALIAS)
        assert [await call for call in calls] == ["tock " * 4] * CALLS
        assert lives(service)
        assert await client.models.loaded() == []
        assert (await client.complete("say-hello")).content == script("say-hello").text


async def streamed(client: FoundryAPIClient) -> str:
    chunks = client.stream_complete("say-slowly", max_tokens=20)
    return "".join([chunk.content async for chunk in chunks])
