"""The client of this package through a gateway with keys."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api import (
    AuthenticationFailed,
    DeadlineExceeded,
    FoundryAPIClient,
    ModelNotFound,
    PermissionDenied,
    QuotaExceeded,
    ServiceOverloaded,
    UnsupportedFeature,
)
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.types import Limit, NewKey
from foundry_api.gateway.limits.persistence import BudgetSaver
from foundry_api.types.capabilities import CAPABILITIES
from foundry_api.types.events import AttemptStarted
from gateway.serving import ServedGateway, serve
from gateway.waiting import wait_until_idle
from support.scripted_model import script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.wire.transport import Request

HELLO = script("say-hello").text
KEYS = (
    NewKey(name="caller"),
    NewKey(name="manager", scopes=frozenset({"inference", "manage"})),
    NewKey(name="narrow", models=frozenset({"scripted"})),
    NewKey(name="poor", tokens=(Limit(1, "d"),)),
    NewKey(name="slow", rate=Limit(1, "s")),
)
NAMES = [key.name for key in KEYS]


@pytest.fixture
async def served(engine: Endpoint, tmp_path: Path) -> AsyncIterator[ServedGateway]:
    """A gateway with keys in front of the shared engine."""
    async with serve(tmp_path / "gateway", engine.base_url, *KEYS) as served:
        yield served


def connect(served: ServedGateway, key: str | None = "caller", **options: Any) -> FoundryAPIClient:
    token = None if key is None else served.tokens[NAMES.index(key)]
    return FoundryAPIClient(
        served.gateway.url, api_key=token, **{"model": "scripted", "max_retries": 0, **options}
    )


async def test_a_gateway_is_detected_by_one_request(served: ServedGateway) -> None:
    requests: list[str] = []

    def note(request: Request) -> Request:
        requests.append(request.url.removeprefix(served.gateway.url))
        return request

    async with connect(served, request_hooks=[note]) as client:
        assert await client.capabilities() == CAPABILITIES["gateway"]
        assert set(requests) == {"/status"}
        answer = await client.complete("say-hello")
    assert (answer.content, answer.service_generation) == (HELLO, "gateway")
    assert not any("/load" in path for path in requests)  # the gateway loads it for the call


@pytest.mark.parametrize("key", [None, "wrong"])
async def test_a_key_that_is_missing_or_wrong_is_reported(
    served: ServedGateway, key: str | None
) -> None:
    token = None if key is None else "fk_wrong"
    async with FoundryAPIClient(served.gateway.url, api_key=token) as client:
        with pytest.raises(AuthenticationFailed, match="refuses the credential") as caught:
            await client.complete("say-hello", model="scripted")
    assert (caught.value.status, "FOUNDRY_API_KEY" in caught.value.hint) == (401, True)


async def test_a_key_that_is_revoked_later_is_reported(
    served: ServedGateway, tmp_path: Path
) -> None:
    async with connect(served) as client:
        await client.complete("say-hello")
        await asyncio.to_thread(KeyDatabase(tmp_path / "gateway").revoke, "caller")
        await served.gateway.context.keyring.reload()
        with pytest.raises(AuthenticationFailed):
            await client.complete("say-hello")
        assert client.breaker.state == "closed"


async def test_a_key_for_an_alias_opens_its_id_and_no_other_model(served: ServedGateway) -> None:
    async with connect(served, "narrow") as client:
        answer = await client.complete("say-hello")
        assert answer.model != "scripted"  # the id was sent
        assert [model.alias for model in await client.models.list()] == ["scripted"]
        with pytest.raises(ModelNotFound):
            await client.embed("Hello", model="embedder")


async def test_calls_need_no_key_to_manage(served: ServedGateway) -> None:
    async with connect(served) as client:
        model = (await client.complete("say-hello")).model
        assert model in [one.id for one in await client.models.loaded()]
        for action in (client.models.load, client.models.unload, client.models.remove):
            with pytest.raises(PermissionDenied, match="manage"):
                await action("scripted")


async def test_models_are_managed(served: ServedGateway) -> None:
    async with connect(served, "manager") as client:
        model = await client.models.load("embedder")
        assert model.id in (await client.health_check()).loaded_models
        await client.models.unload("embedder")
        assert model.id not in (await client.health_check()).loaded_models
        with pytest.raises(UnsupportedFeature, match="register models") as caught:
            await client.models.register("/nowhere", "mine")
        assert "machine of the gateway" in caught.value.hint


async def test_health_has_the_memory_of_the_engine(served: ServedGateway, engine: Endpoint) -> None:
    async with connect(served) as client:
        await client.complete("say-hello")
        health = await client.health_check()
    assert (health.status, health.service_generation) == ("healthy", "gateway")
    assert health.loaded_models
    assert health.memory_usage
    assert health.memory_usage > 10 * 2**20
    assert health.uptime
    assert health.version


async def test_a_gateway_that_cannot_serve_is_degraded(
    served: ServedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BudgetSaver, "problem", "the disk is full")
    async with connect(served) as client:
        health = await client.health_check()
    assert health.status == "degraded"
    assert "cannot serve" in health.detail


async def test_a_used_up_quota_is_not_retried(served: ServedGateway) -> None:
    async with connect(served, "poor", max_retries=3) as client:
        await client.complete("say-hello", max_tokens=5)
        with pytest.raises(QuotaExceeded) as caught:
            await client.complete("say-hello", max_tokens=5)
    assert caught.value.attempts == 1
    assert caught.value.retry_after_s


async def test_retry_after_of_the_gateway_is_obeyed(served: ServedGateway) -> None:
    async with connect(served, "slow") as client:
        await client.complete("say-hello")
        with pytest.raises(ServiceOverloaded) as caught:
            await client.complete("say-hello")
    assert caught.value.retry_after_s
    assert 0 < caught.value.retry_after_s <= 1
    async with connect(served, "slow", max_retries=1) as client:
        answer = await client.complete("say-hello")
    assert (answer.content, len(answer.attempts)) == (HELLO, 2)


async def test_a_deadline_is_sent_and_enforced_by_the_gateway(served: ServedGateway) -> None:
    limits: list[float] = []

    def note(request: Request) -> Request:
        if limit := request.headers.get("X-Request-Timeout"):
            limits.append(float(limit))
            # The gateway is to notice it first.
            return request.with_headers({"X-Request-Timeout": "0.3"})
        return request

    async with connect(served, request_hooks=[note]) as client:
        with pytest.raises(DeadlineExceeded) as caught:
            await client.complete("say-slowly", deadline=60)
        await client.complete("say-hello")
    assert "longer than 0.3 s" in caught.value.message
    assert len(limits) == 1
    assert 0 < limits[0] <= 60


@pytest.mark.parametrize("prompt", ["say-slowly", "say-after-a-while"])
async def test_a_cancelled_call_ends_at_the_gateway(served: ServedGateway, prompt: str) -> None:
    upstream = served.gateway.context.client
    started = asyncio.Event()
    upstream.events.subscribe(lambda _: started.set(), AttemptStarted)
    async with connect(served) as client:
        await client.capabilities()
        call = asyncio.create_task(client.complete(prompt))
        async with asyncio.timeout(30):
            await started.wait()
            [exchange] = served.gateway.context.running
            call.cancel()
            await asyncio.shield(exchange.ended)
        assert client.limiter.load == 0  # nothing of it is left here
    assert exchange.outcome == "client_closed"
    await wait_until_idle(upstream)


async def test_a_batch_runs_through_a_gateway(served: ServedGateway) -> None:
    async with connect(served) as client:
        results = [result async for result in client.batch(["say-hello"] * 12)]
    assert {result.unwrap().content for result in results} == {HELLO}


async def test_a_restart_of_the_gateway_is_survived(engine: Endpoint, tmp_path: Path) -> None:
    directory = tmp_path / "gateway"
    async with serve(directory, engine.base_url, KEYS[0]) as first:
        client = connect(first, max_retries=3)
        await client.complete("say-hello")
        port = int(first.gateway.url.rpartition(":")[2])
    async with client, serve(directory, engine.base_url, config={"port": port}):
        assert (await client.complete("say-hello")).content == HELLO
