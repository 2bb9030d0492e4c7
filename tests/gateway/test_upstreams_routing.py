"""Which upstream gets a call, under which name, and what follows when it fails."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from foundry_api import BreakerSettings
from foundry_api.gateway.keys.types import NewKey
from foundry_api.wire.dialects import openai
from gateway.fake_openai_server import FakeOpenAIServer, make_flavour
from gateway.helpers import post, stream
from gateway.serving import CHAT, call, make_body
from gateway.several import get_service, serve_upstreams

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from gateway.fake_openai_server import Flavour
    from gateway.serving import ServedGateway


@asynccontextmanager
async def serve(
    tmp_path: Path,
    flavours: dict[str, Flavour],
    tables: dict[str, dict[str, Any]] | None = None,
    **options: Any,
) -> AsyncGenerator[ServedGateway]:
    """Serve fakes by these names; `tables` has further settings of some."""
    async with AsyncExitStack() as stack:
        upstreams: list[dict[str, Any]] = []
        for name, flavour in flavours.items():
            server = await stack.enter_async_context(FakeOpenAIServer(flavour))
            table = {"name": name, "kind": "openai", "url": server.base_url}
            upstreams.append({**table, **(tables or {}).get(name, {})})
        yield await stack.enter_async_context(
            serve_upstreams(tmp_path / "gateway", *upstreams, **options)
        )


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        (
            {"heavy": {"weight": 3, "slots": 16}, "light": {"slots": 16}},
            {"heavy": 9, "light": 3},
        ),
        # A call goes where a slot is free, also if the weights say otherwise.
        ({"heavy": {"weight": 100, "slots": 1}, "light": {"slots": 2}}, {"heavy": 1, "light": 2}),
    ],
    ids=["by weight", "by free slots"],
)
async def test_calls_are_shared(
    tmp_path: Path, tables: dict[str, dict[str, Any]], expected: dict[str, int]
) -> None:
    flavours = {name: make_flavour("m") for name in ("heavy", "light")}
    for flavour in flavours.values():
        flavour.gate.clear()
    count = sum(expected.values())
    async with serve(tmp_path, flavours, tables) as served:
        calls = [asyncio.create_task(call(served.http, make_body("x", "m"))) for _ in range(count)]
        await served.wait_until(lambda: sum(len(one.calls) for one in flavours.values()) == count)
        assert {name: len(one.calls) for name, one in flavours.items()} == expected
        for flavour in flavours.values():
            flavour.gate.set()
        assert await asyncio.gather(*calls) == [(200, None)] * count


async def test_a_model_is_called_only_where_it_is(tmp_path: Path) -> None:
    flavours = {"a": make_flavour("both", "only-a"), "b": make_flavour("both", "only-b", "hidden")}
    async with serve(tmp_path, flavours, {"b": {"models": ["both", "only-b"]}}) as served:
        for _ in range(3):
            for model in ("only-a", "only-b"):
                await post(served.http, CHAT, make_body("x", model))
        assert await call(served.http, make_body("x", "hidden")) == (404, "model_not_found")
        async with served.http.get("/v1/models") as response:
            listed = [model["id"] for model in (await response.json())["data"]]
        assert sorted(listed) == ["both", "only-a", "only-b"]
        async with served.http.get("/v1/models/only-b") as response:
            assert response.status == 200
    for name, flavour in flavours.items():
        assert {request.json["model"] for request in flavour.calls} == {f"only-{name}"}


async def test_a_model_that_appears_later_is_found(tmp_path: Path) -> None:
    flavours = {"a": make_flavour("m")}
    async with serve(tmp_path, flavours, upstream_check_s=3600) as served:
        assert (await call(served.http, make_body("x", "new")))[0] == 404
        flavours["a"].models = make_flavour("m", "new").models
        get_service(served, "a")._checked_at = float("-inf")
        await post(served.http, CHAT, make_body("x", "new"))


KEYS = (
    NewKey(name="all"),
    NewKey(name="fast", models=frozenset({"fast"})),
    NewKey(name="big", models=frozenset({"big"})),
    NewKey(name="big-and-small", models=frozenset({"big", "small"})),
)
ALL, FAST, BIG, BIG_AND_SMALL = range(4)


async def test_a_key_for_an_alias_opens_no_model_behind_it(tmp_path: Path) -> None:
    flavours = {"a": make_flavour("big", "small"), "b": make_flavour("other", "fast:7")}
    tables = {"a": {"aliases": {"fast": "small"}}, "b": {"aliases": {"Fast": "other"}}}
    async with serve(tmp_path, flavours, tables, keys=KEYS) as served:
        http = served.open_session(FAST)
        for _ in range(4):
            answer = await post(http, CHAT, make_body("x", "fast"))
            assert answer["model"] == "fast"
        sent = {name: {one.json["model"] for one in each.calls} for name, each in flavours.items()}
        assert sent["a"] | sent["b"] <= {"small", "other"}
        for model in ("small", "other", "big", "fast:7"):
            assert await call(http, make_body("x", model)) == (403, "model_not_allowed"), model
            async with http.get(f"/v1/models/{model}") as response:
                assert response.status == 404
        async with http.get("/v1/models") as response:
            listed = [model["id"] for model in (await response.json())["data"]]
        assert {name.lower() for name in listed} == {"fast"}
        assert await call(served.open_session(BIG), make_body("x", "fast")) == (
            403,
            "model_not_allowed",
        )


async def test_fallbacks_follow_if_a_model_cannot_answer(tmp_path: Path) -> None:
    flavours = {"a": make_flavour("big"), "b": make_flavour("small")}
    options: dict[str, Any] = {
        "keys": KEYS,
        "fallbacks": {"Big": ("gone", "small")},
        "client": {"max_retries": 0},
    }
    async with serve(tmp_path, flavours, **options) as served:
        await post(served.http, CHAT, make_body("x", "big"))
        assert [len(one.calls) for one in flavours.values()] == [1, 0]
        flavours["a"].is_down = True
        answer = await post(served.http, CHAT, make_body("x", "big"))
        assert answer["choices"][0]["message"]["content"] == "Hello there"
        assert flavours["b"].calls[-1].json["model"] == "small"
        events = await stream(served.http, CHAT, make_body("x", "big"))
        assert events[-1] == "[DONE]"
        messages = {"model": "big", "max_tokens": 9, "messages": make_body("x")["messages"]}
        await post(served.http, "/v1/messages", messages)
        assert len(flavours["b"].calls) == 3
        # Vectors of another model could not be compared.
        embed = {"model": "big", "input": "x"}
        async with served.http.post("/v1/embeddings", json=embed) as response:
            assert response.status == 503
        # A key gets the models that it may use.
        status, _ = await call(served.open_session(BIG), make_body("x", "big"))
        assert status == 503
        status, _ = await call(served.open_session(BIG_AND_SMALL), make_body("x", "big"))
        assert status == 200
        assert {one.json["model"] for one in flavours["b"].calls} == {"small"}


async def test_an_upstream_that_hangs_opens_its_breaker(tmp_path: Path) -> None:
    flavours = {"hangs": make_flavour("m"), "works": make_flavour("m")}
    flavours["hangs"].gate.clear()
    breaker = BreakerSettings(minimum_calls=2, window_calls=2, open_s=3600, open_cap_s=3600)
    tables = {"hangs": {"weight": 100}}
    async with serve(
        tmp_path,
        flavours,
        tables,
        client={"breaker": breaker},
        first_token_timeout_s=1,
        upstream_check_s=3600,
    ) as served:
        calls = [call(served.http, make_body("x", "m")) for _ in range(2)]
        assert await asyncio.gather(*calls) == [(200, None)] * 2
        assert [len(one.calls) for one in flavours.values()] == [2, 2]
        assert get_service(served, "hangs").breaker.state == "open"
        assert await call(served.http, make_body("x", "m")) == (200, None)
        assert [len(one.calls) for one in flavours.values()] == [2, 3]
        async with served.http.get("/api/status") as response:
            status = await response.json()
        assert [one["state"] for one in status["upstreams"]] == ["failing", "up"]
        assert status["ready"]


async def test_an_upstream_that_answers_no_check_gets_no_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "QUICK_TIMEOUT_S", 1.0)
    flavours = {"hangs": make_flavour("m"), "works": make_flavour("m")}
    async with serve(tmp_path, flavours, {"hangs": {"weight": 100}}, upstream_check_s=1) as served:
        hangs = get_service(served, "hangs")
        flavours["hangs"].is_hung = True
        await served.wait_until(lambda: bool(hangs.problem))
        assert "no answer to GET" in hangs.problem
        assert await call(served.http, make_body("x", "m")) == (200, None)
        assert not flavours["hangs"].calls
        flavours["hangs"].is_hung = False
        await served.wait_until(lambda: not hangs.problem)
        assert await call(served.http, make_body("x", "m")) == (200, None)
        assert len(flavours["hangs"].calls) == 1


async def test_calls_leave_an_upstream_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before their first token; they need not wait for the time limit."""
    monkeypatch.setattr(openai, "QUICK_TIMEOUT_S", 1.0)
    flavours = {"hangs": make_flavour("m", "only"), "works": make_flavour("m")}
    flavours["hangs"].gate.clear()
    async with serve(tmp_path, flavours, {"hangs": {"weight": 100}}, upstream_check_s=1) as served:
        calls = [asyncio.create_task(call(served.http, make_body("x", "m"))) for _ in range(3)]
        only = asyncio.create_task(call(served.http, make_body("x", "only")))
        await served.wait_until(lambda: len(flavours["hangs"].calls) == 4)
        flavours["hangs"].is_hung = True
        assert await asyncio.gather(*calls) == [(200, None)] * 3
        assert [len(one.calls) for one in flavours.values()] == [4, 3]
        assert not only.done()  # nobody else has its model
        flavours["hangs"].gate.set()
        assert await only == (200, None)


async def test_an_upstream_recovers(tmp_path: Path) -> None:
    flavours = {"a": make_flavour("m"), "b": make_flavour("m")}
    tables = {"a": {"weight": 100}}
    async with serve(tmp_path, flavours, tables, upstream_check_s=1) as served:
        a = get_service(served, "a")
        assert await call(served.http, make_body("x", "m")) == (200, None)
        flavours["a"].is_down = True
        for _ in range(30):
            assert await call(served.http, make_body("x", "m")) == (200, None)
        assert len(flavours["b"].calls) == 30
        # Not every call has to find out.
        assert served.gateway.context.upstreams.counts["a", "failed"] <= 3
        await served.wait_until(lambda: bool(a.problem))
        flavours["a"].is_down = False
        await served.wait_until(lambda: not a.problem)
        before = len(flavours["a"].calls)
        await served.wait_until(lambda: a.breaker.state == "closed" or a.breaker.is_probe_due)
        assert await call(served.http, make_body("x", "m")) == (200, None)
        assert len(flavours["a"].calls) == before + 1
        assert a.breaker.state == "closed"


async def test_a_stream_that_has_begun_is_not_sent_again(tmp_path: Path) -> None:
    flavours = {"a": make_flavour("m"), "b": make_flavour("m")}
    whole = flavours["a"].stream
    for flavour in flavours.values():
        flavour.stream = whole[: whole.index(b" there")]  # it breaks off
    async with serve(tmp_path, flavours) as served:
        status, code = await call(served.http, make_body("x", "m", stream=True))
        assert (status, code) == (200, "upstream_unavailable")
        assert sum(len(one.calls) for one in flavours.values()) == 1


async def test_an_upstream_that_refuses_its_key_gets_no_calls(tmp_path: Path) -> None:
    flavours = {"a": make_flavour("m"), "b": make_flavour("m")}
    flavours["a"].key = "right"
    key_file = tmp_path / "key"
    key_file.write_text("wrong", encoding="utf-8")
    tables = {"a": {"weight": 100, "key_file": key_file}}
    breaker = BreakerSettings(minimum_calls=2, window_calls=2, open_s=3600, open_cap_s=3600)
    async with serve(tmp_path, flavours, tables, client={"breaker": breaker}) as served:
        for _ in range(4):
            assert await call(served.http, make_body("x", "m")) == (200, None)
        assert [len(one.calls) for one in flavours.values()] == [2, 4]
        key_file.write_text("right", encoding="utf-8")
        await served.gateway.reload()
        get_service(served, "a").breaker.reset()
        assert await call(served.http, make_body("x", "m")) == (200, None)
        assert flavours["a"].calls[-1].headers["authorization"] == "Bearer right"
        assert len(flavours["b"].calls) == 4
        assert not any("authorization" in request.headers for request in flavours["b"].calls)


async def test_a_batch_runs_at_all_upstreams(tmp_path: Path) -> None:
    """No line is lost or answered twice when one of them goes."""
    flavours = {"a": make_flavour("m"), "b": make_flavour("m", "rare")}
    lines = [
        {"custom_id": str(index), "method": "POST", "url": CHAT, "body": make_body("x", model)}
        for index, model in enumerate(["m", "rare", "m", "m"] * 10)
    ]
    async with serve(tmp_path, flavours) as served:
        form = aiohttp.FormData({"purpose": "batch"})
        content = "\n".join(map(json.dumps, lines)).encode()
        form.add_field("file", content, filename="in.jsonl", content_type="application/jsonl")
        async with served.http.post("/v1/files", data=form) as response:
            file = await response.json()
        flavours["a"].is_down = True
        body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
        batch = await post(served.http, "/v1/batches", body)
        async with asyncio.timeout(60):
            while batch["status"] not in {"completed", "failed"}:
                await asyncio.sleep(0.05)
                async with served.http.get(f"/v1/batches/{batch['id']}") as response:
                    batch = await response.json()
        assert batch["request_counts"] == {"total": 40, "completed": 40, "failed": 0}
        async with served.http.get(f"/v1/files/{batch['output_file_id']}/content") as response:
            answers = [json.loads(line) for line in (await response.text()).splitlines()]
        assert sorted(int(one["custom_id"]) for one in answers) == list(range(40))
        assert len(flavours["b"].calls) == 40
