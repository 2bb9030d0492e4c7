"""`/api` and llama.cpp's routes for models."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from foundry_api import FoundryAPIClient
from foundry_api.gateway.config import GatewayConfig
from foundry_api.gateway.gateway import Gateway
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.types import NewKey
from gateway.helpers import post

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.gateway.keys.types import Scope

CHAT = "/v1/chat/completions"


async def get(http: aiohttp.ClientSession, path: str, status: int = 200) -> Any:
    async with http.get(path) as response:
        assert response.status == status, await response.text()
        return await response.json()


async def test_models_are_listed_without_paths_of_the_machine(http: aiohttp.ClientSession) -> None:
    answer = await get(http, "/api/models")
    assert {"scripted", "embedder"} <= {model["alias"] for model in answer["models"]}
    assert all("path" not in model for model in answer["models"])


@pytest.mark.parametrize(
    ("path", "body"),
    [("/api/models/scripted/load", {}), ("/models/load", {"model": "scripted"})],
)
async def test_a_model_is_loaded(http: aiohttp.ClientSession, path: str, body: Any) -> None:
    await post(http, path, body)
    states = {
        model["id"]: model["status"]["value"] for model in (await get(http, "/models"))["data"]
    }
    assert states["scripted"] == "loaded"


@pytest.mark.parametrize("action", ["load", "unload"])
async def test_an_unknown_model_is_404(http: aiohttp.ClientSession, action: str) -> None:
    assert (await post(http, f"/api/models/junk/{action}", {}, 404))["error"]["code"] == (
        "model_not_found"
    )
    await post(http, f"/models/{action}", {"model": "junk"}, 404)


async def test_events_report_that_a_model_is_loaded_and_unloaded(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    await post(http, "/models/load", {"model": "embedder"})
    async with http.get("/models/sse") as response:
        assert response.content_type == "text/event-stream"
        await response.content.readuntil(b"\n\n")  # the comment that opens the stream
        await post(http, "/models/unload", {"model": "embedder"})
        await post(http, "/models/load", {"model": "embedder"})
        statuses: list[str] = []
        async with asyncio.timeout(30):
            while len(statuses) < 3:
                event = json.loads((await response.content.readuntil(b"\n\n"))[len(b"data: ") :])
                assert (event["model"], event["event"]) == ("embedder", "model_status")
                statuses.append(event["data"]["status"])
        assert statuses == ["unloaded", "loading", "loaded"]
        await gateway.drain(30)  # does not wait for subscribers
        assert await response.content.read() == b""


@pytest.mark.parametrize("path", ["/api/models/scripted/load", "/models/load"])
async def test_p30_a_model_that_is_being_loaded_is_listed_so(
    gateway: Gateway, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    models, asked, gate = gateway.context.client.models, asyncio.Event(), asyncio.Event()
    load = models.load

    async def load_late(name: str) -> Any:
        asked.set()
        await gate.wait()
        return await load(name)

    async def get_status() -> str:
        listed = (await get(http, "/models"))["data"]
        return next(one["status"]["value"] for one in listed if one["id"] == "scripted")

    await load("scripted")  # a model that was loaded before is reported too
    monkeypatch.setattr(models, "load", load_late)
    async with http.get("/models/sse") as response:
        await response.content.readuntil(b"\n\n")  # the comment that opens the stream
        loading = asyncio.ensure_future(post(http, path, {"model": "scripted"}))
        await asyncio.wait_for(asked.wait(), 30)
        assert await get_status() == "loading"
        gate.set()
        await loading
        assert await get_status() == "loaded"
        for status in ("loading", "loaded"):
            line = await asyncio.wait_for(response.content.readuntil(b"\n\n"), 30)
            assert json.loads(line.removeprefix(b"data: "))["data"]["status"] == status


async def test_a_model_that_cannot_be_loaded_is_no_longer_loading(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    async with http.get("/models/sse") as response:
        await response.content.readuntil(b"\n\n")  # the comment that opens the stream
        await post(http, "/models/load", {"model": "junk"}, 404)
        for status in ("loading", "unloaded"):
            line = await asyncio.wait_for(response.content.readuntil(b"\n\n"), 30)
            assert json.loads(line.removeprefix(b"data: "))["data"]["status"] == status
    assert not gateway.context.model_events.loading


async def test_a_model_that_is_here_is_not_downloaded(http: aiohttp.ClientSession) -> None:
    error = (await post(http, "/models", {"model": "scripted"}, 400))["error"]
    assert "already exists" in error["message"]


@pytest.mark.parametrize(("query", "status"), [("", 400), ("?model=junk", 404)])
async def test_only_a_known_model_is_deleted(
    http: aiohttp.ClientSession, query: str, status: int
) -> None:
    async with http.delete(f"/models{query}") as response:
        assert response.status == status


async def test_p44_status_reports_the_queue_of_each_key(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    body = {"model": "scripted", "messages": [{"role": "user", "content": "say-slowly"}]}
    async with http.post(CHAT, json={**body, "stream": True}) as response:
        await response.content.readany()
        status = await get(http, "/api/status")
    assert status["ready"]
    assert status["problems"] == []
    assert status["in_flight"] == 1
    [key] = status["keys"]
    assert (key["key"], key["running"], key["waiting"]) == ("anonymous", 1, 0)
    await asyncio.gather(*[one.ended for one in gateway.context.running])


async def test_p42_a_service_that_is_down_is_a_reason_not_a_failure(tmp_path: Path) -> None:
    async with (
        FoundryAPIClient("http://127.0.0.1:9") as client,
        Gateway(GatewayConfig(port=0), client, tmp_path / "gateway") as gateway,
        aiohttp.ClientSession(gateway.url) as http,
    ):
        await get(http, "/healthz")
        gateway.context.draining = True
        assert (await get(http, "/readyz", 503)) == {"status": "unavailable"}


async def test_an_error_names_no_address_of_the_service(
    engine: Endpoint, http: aiohttp.ClientSession
) -> None:
    error = (await post(http, "/api/models/scripted/pull", {}, 400))["error"]
    assert error["code"] == "unsupported_feature"
    assert engine.base_url.partition("//")[2] not in error["message"]


async def test_an_error_names_the_member_of_the_request(http: aiohttp.ClientSession) -> None:
    error = (await post(http, "/models/load", {"model": "a\x95"}, 400))["error"]
    assert error["param"] == "model"


async def test_a_key_sees_only_its_own_downloads(
    gateway: Gateway, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    scopes: frozenset[Scope] = frozenset({"manage"})
    database = KeyDatabase(gateway.context.files.directory.parent)
    new = NewKey(name="limited", scopes=scopes, models=frozenset({"scripted"}))
    _, token = await asyncio.to_thread(database.create, new)
    await gateway.context.keyring.reload()

    async def wait_for_ever(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(gateway.context.client.models, "download", wait_for_ever)
    gateway.context.model_events.start_download("secret-model")
    headers = {"Authorization": f"Bearer {token}"}
    async with http.get("/models", headers=headers) as response:
        assert [one["id"] for one in (await response.json())["data"]] == ["scripted"]
    assert await gateway.context.model_events.cancel_download("secret-model")


async def test_reload(http: aiohttp.ClientSession) -> None:
    assert await post(http, "/api/reload", {}) == {"status": "reloaded"}
