"""A gateway in front of the shared engine, and clients of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import aiohttp
import pytest

from foundry_api import FoundryAPIClient
from foundry_api.gateway.config import GatewayConfig
from foundry_api.gateway.gateway import Gateway
from foundry_api.gateway.management import describe_status
from gateway.canary import CanaryHandler, find_in_files, find_secrets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint


@pytest.fixture(autouse=True)
def canary(
    request: pytest.FixtureRequest, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Fail a test of which a key or a prompt is in a log, a file, a metric or the status."""
    handler = CanaryHandler()
    directories = [own_home]
    if "tmp_path" in request.fixturenames:
        directories.append(request.getfixturevalue("tmp_path"))
    found: list[str] = []
    close = Gateway.aclose

    async def look_and_close(gateway: Gateway) -> None:
        context = gateway.context
        metrics = context.metrics.format(
            context.admission.scheduler, draining=False, breaker_state="closed"
        )
        for name, page in (("metrics", metrics), ("status", repr(describe_status(context)))):
            if secrets := find_secrets(page):
                found.append(f"{name} has {sorted(secrets)}")
        await close(gateway)

    monkeypatch.setattr(Gateway, "aclose", look_and_close)
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)
    found += handler.found
    for directory in directories:
        found += find_in_files(directory)
    assert not found, "\n".join(found)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport]:
    """Fail a test whose output has a key or a prompt."""
    report = yield
    if report.when == "teardown" and report.passed:
        found = find_secrets("".join(text for _, text in report.sections))
        if found:
            report.outcome = "failed"
            report.longrepr = f"the output of {item.nodeid} has {sorted(found)}"
    return report


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
