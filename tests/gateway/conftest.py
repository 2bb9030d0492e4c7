"""A gateway in front of the shared engine, and clients of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest

from foundry_api import FoundryAPIClient
from foundry_api.gateway.config import GatewayConfig
from foundry_api.gateway.gateway import Gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint


@pytest.fixture
def config() -> GatewayConfig:
    """Override it to test other settings."""
    return GatewayConfig(port=0)


@pytest.fixture
async def gateway(
    engine: Endpoint, config: GatewayConfig, tmp_path: Path
) -> AsyncIterator[Gateway]:
    """A gateway without keys in front of the shared engine."""
    async with (
        FoundryAPIClient(engine.base_url) as client,
        Gateway(config, client, tmp_path / "gateway") as gateway,
    ):
        yield gateway


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client for the gateway."""
    async with aiohttp.ClientSession(gateway.url) as session:
        yield session
