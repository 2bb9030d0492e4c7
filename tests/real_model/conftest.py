"""Tests with a real model, SmolLM2-135M-Instruct: `python3 dev.py test --real-model`.

Other runs don't collect this directory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from foundry_api import FoundryAPIClient
from foundry_api.engine import shared
from foundry_api.engine.handshake import ModelSource
from foundry_api.engine.process import HostOptions
from foundry_api.storage.paths import Paths
from real_model.models import CHAT, CHAT_MODEL, TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from foundry_api.engine.endpoint import Endpoint

HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    if not CHAT_MODEL.is_dir():
        raise pytest.UsageError("The real model is not built. Run: python3 dev.py real-model")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests the time that a real model needs on a busy machine."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="session")
def engine() -> Endpoint:
    """Return the shared engine with the real model, for all workers of the run."""
    paths = Paths.from_home(Path(os.environ["FOUNDRY_TEST_HOME"]))
    options = HostOptions(paths=paths, models=(ModelSource(path=str(CHAT_MODEL), alias=CHAT),))
    endpoint, _ = shared.start(paths, idle_timeout_s=600, options=options)
    return endpoint


@pytest.fixture
async def client(engine: Endpoint) -> AsyncIterator[FoundryAPIClient]:
    async with FoundryAPIClient(
        engine.base_url, model=CHAT, max_retries=0, timeout=TIMEOUT_S
    ) as client:
        yield client


@pytest.fixture
async def own_client(tmp_path: Path) -> AsyncIterator[FoundryAPIClient]:
    """Return a client with its own engine, whose work can be measured and stopped."""
    async with FoundryAPIClient(
        service="embedded", home=tmp_path / "own", model=CHAT, timeout=TIMEOUT_S
    ) as client:
        await client.models.register(CHAT_MODEL, CHAT)
        yield client
