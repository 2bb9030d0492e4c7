"""Several engines behind one gateway, some of which fail."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.engine import discovery
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.types import NewKey
from foundry_api.wire.dialects import sdk2
from gateway.fake_openai_server import FakeOpenAIServer, make_flavour
from gateway.helpers import post
from gateway.serving import CHAT, call, make_body, serve
from gateway.several import get_service, get_url, serve_upstreams, start_engine
from gateway.test_metrics import read
from support.scripted_model import script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import aiohttp

    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.engine.supervisor import EngineHost

HELLO = script("say-hello").text


@pytest.fixture
async def host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineHost]:
    """An engine of the test's own, beside the shared one; it alone has the model `rare`."""
    async with start_engine(tmp_path_factory.mktemp("host"), "scripted", "rare") as host:
        yield host


async def list_names(http: aiohttp.ClientSession) -> set[str]:
    async with http.get("/v1/models") as response:
        return {model["id"] for model in (await response.json())["data"]}


async def get_json(http: aiohttp.ClientSession, path: str, status: int = 200) -> Any:
    async with http.get(path) as response:
        assert response.status == status, await response.text()
        return await response.json()


def count(values: dict[tuple[str, ...], float], upstream: str, outcome: str = "answered") -> float:
    name = "foundry_gateway_upstream_attempts_total"
    return values.get((name, f"outcome={outcome}", f"upstream={upstream}"), 0)


async def test_the_models_of_all_upstreams_are_served(
    engine: Endpoint, host: EngineHost, tmp_path: Path
) -> None:
    async with serve_upstreams(
        tmp_path / "gateway",
        {"name": "a", "url": engine.base_url, "aliases": {"fast": "scripted"}},
        {"name": "b", "url": get_url(host)},
    ) as served:
        names = await list_names(served.http)
        assert {"demo", "scripted", "embedder", "rare", "fast"} <= names
        for model in ("rare", "fast", "demo", "scripted"):
            answer = await post(served.http, CHAT, make_body("say-hello", model))
            assert answer["model"] == model
            if model != "demo":
                assert answer["choices"][0]["message"]["content"] == HELLO
        body = {"model": "embedder", "input": "Hello"}
        await post(served.http, "/v1/embeddings", body)
        assert await call(served.http, make_body("x", "missing")) == (404, "model_not_found")
        values = await read(served.http)
        assert count(values, "a") >= 2
        assert count(values, "b") >= 1
        assert values["foundry_gateway_upstream_up", "upstream=a"] == 1
        states = ("foundry_gateway_upstream_state", "state=closed")
        assert values[*states, "upstream=b"] == 1
        labels = {text for sample in values for text in sample if text.startswith("upstream=")}
        assert labels == {"upstream=a", "upstream=b"}
        status = await get_json(served.http, "/api/status")
        assert [one["name"] for one in status["upstreams"]] == ["a", "b"]
        assert {one["state"] for one in status["upstreams"]} == {"up"}
        assert "rare" in status["upstreams"][1]["models"]
        assert (await get_json(served.http, "/status"))["engine"] is None


async def test_an_engine_that_is_killed_under_load_loses_no_call(
    engine: Endpoint, host: EngineHost, tmp_path: Path
) -> None:
    async with serve_upstreams(
        tmp_path / "gateway",
        {"name": "a", "url": engine.base_url, "slots": 3},
        {"name": "b", "url": get_url(host), "slots": 3},
    ) as served:
        await post(served.http, CHAT, make_body("say-hello"))
        b = get_service(served, "b")
        body = make_body("say-after-a-while")
        calls = [asyncio.create_task(call_with_text(served.http, body)) for _ in range(6)]
        await served.wait_until(lambda: b.limiter.load >= 2)
        kill(host)
        texts = await asyncio.gather(*calls)
        assert texts == [script("say-after-a-while").text] * 6
        assert get_service(served, "a").limiter.load == 0
        await served.wait_until(lambda: b.limiter.load == 0)
        assert (await get_json(served.http, "/readyz"))["status"] == "ready"
        values = await read(served.http)
        requests = ("foundry_gateway_requests_total", "key=none", "outcome=ok", f"route={CHAT}")
        assert values[requests] == 7
        assert count(values, "a") + count(values, "b") == 7  # none was answered twice
        assert count(values, "b", "failed") >= 1
        status = await get_json(served.http, "/api/status")
        await served.wait_until(lambda: b.problem != "")
        status = await get_json(served.http, "/api/status")
        assert [one["state"] for one in status["upstreams"]] == ["up", "down"]
        assert status["ready"]


async def test_streams_that_have_begun_end_with_their_engine(
    engine: Endpoint, host: EngineHost, tmp_path: Path
) -> None:
    """Those of the other engine go on; none is begun again."""
    async with (
        serve_upstreams(
            tmp_path / "gateway",
            {"name": "a", "url": engine.base_url, "slots": 4},
            {"name": "b", "url": get_url(host), "slots": 4},
        ) as served,
        AsyncExitStack() as stack,
    ):
        body = make_body("say-slowly", stream=True)
        streams = [
            await stack.enter_async_context(served.http.post(CHAT, json=body)) for _ in range(4)
        ]
        for response in streams:
            assert await response.content.readline()
        a, b = get_service(served, "a"), get_service(served, "b")
        assert (a.limiter.load, b.limiter.load) == (2, 2)
        kill(host)
        await served.wait_until(lambda: b.limiter.load == 0)
        texts = [asyncio.ensure_future(response.text()) for response in streams]
        await served.wait_until(lambda: sum(text.done() for text in texts) == 2)
        ended = {text for text in texts if text.done()}
        for text in ended:
            assert '"code":"upstream_unavailable"' in text.result()
        assert a.limiter.load == 2
        for text in set(texts) - ended:
            text.cancel()
    assert served.gateway.context.upstreams.counts["b", "failed"] == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot stop a process")
async def test_an_engine_that_hangs_gets_no_calls_until_it_responds(
    engine: Endpoint, host: EngineHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdk2, "QUICK_TIMEOUT_S", 2.0)
    monkeypatch.setattr(discovery, "KNOWN_TIMEOUT_S", 2.0)
    async with serve_upstreams(
        tmp_path / "gateway",
        {"name": "a", "url": engine.base_url},
        {"name": "b", "url": get_url(host), "weight": 100},
        upstream_check_s=1,
    ) as served:
        b = get_service(served, "b")
        await post(served.http, CHAT, make_body("say-hello"))
        assert host.pid is not None
        os.kill(host.pid, signal.SIGSTOP)
        try:
            await served.wait_until(lambda: b.problem != "")
            for _ in range(3):
                await post(served.http, CHAT, make_body("say-hello"))
        finally:
            os.kill(host.pid, signal.SIGCONT)
        await served.wait_until(lambda: b.problem == "")
        await post(served.http, CHAT, make_body("say-hello"))
        values = await read(served.http)
        assert (count(values, "a"), count(values, "b")) == (3, 2)


def kill(host: EngineHost) -> None:
    """End an engine as a crash does."""
    assert host.pid is not None
    os.kill(host.pid, signal.SIGKILL if os.name != "nt" else signal.SIGTERM)


async def call_with_text(http: aiohttp.ClientSession, body: dict[str, Any]) -> str:
    answer = await post(http, CHAT, body)
    text: str = answer["choices"][0]["message"]["content"]
    return text


async def test_an_upstream_that_is_gone_is_reported(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with start_engine(tmp_path_factory.mktemp("first"), "scripted") as host:
        url = get_url(host)
        async with serve_upstreams(
            tmp_path / "gateway",
            {"name": "a", "url": url, "models": ["scripted"]},
            client={"max_retries": 0},
            upstream_check_s=1,
        ) as served:
            await get_json(served.http, "/readyz")
            await host.aclose()
            status, code = await call(served.http, make_body("say-hello"))
            assert (status, code) == (503, "upstream_unavailable")
            await served.wait_until(lambda: get_service(served, "a").problem != "")
            await get_json(served.http, "/readyz", 503)
            assert await call(served.http, make_body("x", "other")) == (404, "model_not_found")


async def test_models_are_loaded_at_every_upstream(
    engine: Endpoint, host: EngineHost, tmp_path: Path
) -> None:
    async with (
        FakeOpenAIServer(make_flavour("scripted")) as server,
        serve_upstreams(
            tmp_path / "gateway",
            {"name": "a", "url": engine.base_url, "aliases": {"fast": "scripted"}},
            {"name": "b", "url": get_url(host)},
            {"name": "c", "kind": "openai", "url": server.base_url},
        ) as served,
    ):
        a, b = get_service(served, "a"), get_service(served, "b")
        loaded = await post(served.http, "/api/models/scripted/load", {})
        assert loaded["loaded"]
        for service in (a, b):
            assert service.connection is not None
            assert "scripted:1" in service.connection.loaded
        models = (await get_json(served.http, "/api/models"))["models"]
        # The alias is a model of its own; `scripted` of another server has another id.
        assert {"scripted:1", "scripted", "fast", "rare:1"} <= {one["id"] for one in models}
        await post(served.http, "/api/models/rare/load", {})
        await post(served.http, "/api/models/rare/unload", {})
        assert b.connection is not None
        assert "rare:1" not in await b.connection.dialect.get_loaded_ids()
        await post(served.http, "/api/models/none/load", {}, 404)
        for method, path in (("POST", "scripted/pull"), ("DELETE", "scripted")):
            async with served.http.request(method, f"/api/models/{path}", json={}) as response:
                text = await response.text()
                assert '"code":"unsupported_feature"' in text
                assert "changes no files" in text


async def test_another_gateway_is_an_upstream(
    engine: Endpoint,
    host: EngineHost,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """With a key of it in a file; its limits, models and errors are passed on."""
    keys = (NewKey(name="front", models=frozenset({"scripted", "embedder"})), NewKey(name="next"))
    async with AsyncExitStack() as stack:
        behind = await stack.enter_async_context(serve(tmp_path / "behind", engine.base_url, *keys))
        key_file = tmp_path_factory.mktemp("keys") / "key"
        key_file.write_text(behind.tokens[0], encoding="utf-8")
        front = await stack.enter_async_context(
            serve_upstreams(
                tmp_path / "front",
                {"name": "gateway", "url": behind.gateway.url, "key_file": key_file, "weight": 100},
                {"name": "engine", "url": get_url(host)},
                client={"max_retries": 0},
            )
        )
        assert {"scripted", "embedder", "rare", "demo"} <= await list_names(front.http)
        for _ in range(3):
            answer = await post(front.http, CHAT, make_body("say-hello", user="x"))
            assert answer["choices"][0]["message"]["content"] == HELLO
        values = await read(front.http)
        assert (count(values, "gateway"), count(values, "engine")) == (3, 0)
        # The key behind may not use it, so only the engine gets its calls.
        await post(front.http, CHAT, make_body("say-hello", "demo"))
        await post(front.http, CHAT, make_body("say-hello", "rare"))
        # The key is rotated there, then here.
        await asyncio.to_thread(KeyDatabase(tmp_path / "behind").revoke, "front")
        await behind.gateway.context.keyring.reload()
        await post(front.http, CHAT, make_body("say-hello"))
        values = await read(front.http)
        assert count(values, "engine") == 3
        key_file.write_text(behind.tokens[1], encoding="utf-8")
        await front.gateway.reload()
        await front.wait_until(lambda: get_service(front, "gateway").problem == "")
        await post(front.http, CHAT, make_body("say-hello"))
        assert count(await read(front.http), "gateway") == 4
        # It shuts down: the engine takes the calls.
        await behind.gateway.drain(0)
        for _ in range(3):
            await post(front.http, CHAT, make_body("say-hello"))
        assert count(await read(front.http), "engine") == 6
