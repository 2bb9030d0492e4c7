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


@pytest.mark.parametrize(("before", "after"), REPLACEMENTS)
async def test_clients_continue_with_the_new_service(
    before: ServiceGeneration, after: ServiceGeneration, tmp_path: Path
) -> None:
    """Three clients have called a service. What each does next is its first contact with another.

    They share the two services, as starting them is most of the work. With homes of their own, they
    do not know of each other.
    """
    port = free_port()
    async with contextlib.AsyncExitStack() as stack:
        with run_real(before, tmp_path / "first", port=port) as service:
            clients = [
                FoundryAPIClient(service.base_url, model=ALIAS, home=tmp_path / name)
                for name in ("asking", "managing", "calling")
            ]
            for client in clients:
                await stack.enter_async_context(client)
                response = await client.complete("say-hello")
                assert (response.content, response.service_generation) == (HELLO, before)
        stack.enter_context(run_real(after, tmp_path / "second", port=port))
        asking, managing, calling = clients

        health = await asking.health_check()
        assert (health.status, health.service_generation) == ("healthy", after)

        await managing.models.load(ALIAS)
        (loaded,) = await managing.models.loaded()
        assert loaded.alias == ALIAS
        assert (await managing.complete("say-hello")).service_generation == after

        await managing.models.unload(ALIAS)  # the next client believes that it is loaded
        with deadline(60):
            response = await calling.complete("say-hello")
        assert (response.content, response.service_generation) == (HELLO, after)
        assert (await calling.capabilities()).service_generation == after
