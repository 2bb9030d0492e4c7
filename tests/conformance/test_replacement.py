"""Another service starts at the same address: it is detected, and calls continue."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from conformance.services import run_real
from foundry_api import FoundryAPIClient, deadline
from service.fakes import free_port
from support.loopback_catalog import ALIAS
from support.scripted_model import script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from foundry_api.types.messages import ServiceGeneration

REPLACEMENTS: list[tuple[ServiceGeneration, ServiceGeneration]] = [
    ("sdk-1", "sdk-2.1"),
    ("sdk-2.0", "sdk-2.1"),
    ("sdk-2.1", "sdk-1"),
    ("sdk-2.1", "sdk-2.0"),
    ("sdk-2.1", "sdk-2.1"),
]
HELLO = script("say-hello").text


@pytest.fixture(params=REPLACEMENTS, ids=lambda pair: f"{pair[0]} by {pair[1]}")
async def replaced(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[FoundryAPIClient, ServiceGeneration]]:
    """A client that has called one service, and the generation of the one that replaced it."""
    before, after = request.param
    port = free_port()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.ExitStack())
        service = first.enter_context(run_real(before, tmp_path / "first", port=port))
        async with FoundryAPIClient(service.base_url, model=ALIAS) as client:
            response = await client.complete("say-hello")
            assert (response.content, response.service_generation) == (HELLO, before)
            first.close()
            stack.enter_context(run_real(after, tmp_path / "second", port=port))
            yield client, after


async def test_next_call_is_answered(
    replaced: tuple[FoundryAPIClient, ServiceGeneration],
) -> None:
    client, generation = replaced
    with deadline(60):
        response = await client.complete("say-hello")
    assert (response.content, response.service_generation) == (HELLO, generation)
    assert (await client.capabilities()).service_generation == generation


async def test_next_status_is_of_the_new_service(
    replaced: tuple[FoundryAPIClient, ServiceGeneration],
) -> None:
    client, generation = replaced
    health = await client.health_check()
    assert (health.status, health.service_generation) == ("healthy", generation)


async def test_models_are_those_of_the_new_service(
    replaced: tuple[FoundryAPIClient, ServiceGeneration],
) -> None:
    client, generation = replaced
    await client.models.load(ALIAS)
    (loaded,) = await client.models.loaded()
    assert loaded.alias == ALIAS
    assert (await client.complete("say-hello")).service_generation == generation
