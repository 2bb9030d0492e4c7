"""Embeddings of a chat model: what the real services do, and what this client does."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from conformance.conftest import RawClient
from conformance.services import VERSIONS, run_real
from conformance.test_unloading import lives
from foundry_api import FoundryAPIClient, FoundryError
from foundry_api.types.capabilities import CAPABILITIES
from foundry_api.wire.http import HttpTransport
from service.helpers import wait_until_async
from support.loopback_catalog import ALIAS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conformance.services import Service


@pytest.fixture(params=VERSIONS)
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """A service that may crash."""
    with run_real(request.param, tmp_path / "home") as service:
        yield service


async def test_survival_matches_the_table(service: Service) -> None:
    support = CAPABILITIES[service.service_generation].embed_with_chat_model
    async with FoundryAPIClient(service.base_url, max_retries=0) as client:
        await client.models.load(ALIAS)
    async with contextlib.aclosing(HttpTransport()) as transport:
        raw = RawClient(service, transport)
        with contextlib.suppress(FoundryError):
            await raw.send("POST", "/v1/embeddings", model=service.model, input="Hello")
    if support == "unsupported":
        await wait_until_async(lambda: not lives(service))
    else:
        assert lives(service)
