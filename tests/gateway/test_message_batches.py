"""`/v1/messages/batches`, Anthropic's Message Batches, on the wire."""

from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from openai import AsyncOpenAI

from foundry_api.gateway.batches import message_requests
from foundry_api.gateway.batches.message_requests import write_requests
from foundry_api.gateway.config import GatewayConfig
from foundry_api.gateway.errors import RequestError
from foundry_api.gateway.keys.types import NewKey
from foundry_api.testing import FakeService
from gateway.helpers import post
from gateway.keys.helpers import FakeClock
from gateway.serving import serve
from service.helpers import wait_until_async
from support.scripted_model import script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import aiohttp

    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.gateway.gateway import Gateway
    from gateway.serving import ServedGateway

PATH = "/v1/messages/batches"
DAY_S = 86_400


def make_request(
    number: int, prompt: str = "say-hello", model: str = "scripted", **params: Any
) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {
        "custom_id": f"line-{number}",
        "params": {"model": model, "max_tokens": 100, "messages": messages, **params},
    }


def make_endless(number: int) -> dict[str, Any]:
    return make_request(number, "say-forever", max_tokens=1_000_000)


async def create(http: aiohttp.ClientSession, *requests: Any) -> Any:
    return await post(http, PATH, {"requests": requests})


async def get(http: aiohttp.ClientSession, path: str, status: int = 200) -> Any:
    async with http.get(path) as response:
        answer = await response.json()
        assert response.status == status, answer
        return answer


async def wait(http: aiohttp.ClientSession, batch: Any) -> Any:
    async with asyncio.timeout(60):
        while batch["processing_status"] != "ended":
            assert batch["results_url"] is batch["ended_at"] is None
            await asyncio.sleep(0.05)
            batch = await get(http, f"{PATH}/{batch['id']}")
    return batch


async def read(http: aiohttp.ClientSession, batch: Any) -> dict[str, Any]:
    """Return the results by the ids of the requests."""
    async with http.get(batch["results_url"]) as response:
        assert response.content_type == "application/x-jsonl"
        lines = [json.loads(line) for line in (await response.text()).splitlines()]
    results = {line["custom_id"]: line["result"] for line in lines}
    assert len(results) == len(lines)
    assert {frozenset(line) for line in lines} == {frozenset({"custom_id", "result"})}
    return results


def list_names(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "files").iterdir())


async def test_a_batch_of_messages(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    requests = [make_request(number) for number in range(3)]
    # A number for which Python has no type, in a member that no route reads.
    body = json.dumps({"requests": [*requests, make_request(3, model="no-such-model")]}, indent=1)
    body = body.replace('"max_tokens": 100', '"max_tokens": 100, "x": 1e999', 1)
    headers = {"Content-Type": "application/json"}
    async with http.post(PATH, data=body, headers=headers) as response:
        batch = await response.json()
        assert response.status == 200, batch
    created_at, expires_at = batch.pop("created_at"), batch.pop("expires_at")
    assert (created_at[10], created_at[-1], created_at[11:]) == ("T", "Z", expires_at[11:])
    assert batch.pop("id").startswith("msgbatch_")
    counts = {"processing": 4, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
    assert batch == {
        "type": "message_batch",
        "processing_status": "in_progress",
        "request_counts": counts,
        "ended_at": None,
        "cancel_initiated_at": None,
        "archived_at": None,
        "results_url": None,
    }
    [batch] = (await get(http, PATH))["data"]
    batch = await wait(http, batch)
    counts |= {"processing": 0, "succeeded": 3, "errored": 1}
    assert batch["request_counts"] == counts
    assert batch["ended_at"] >= created_at
    assert batch["results_url"] == f"{PATH}/{batch['id']}/results"
    results = await read(http, batch)
    for number in range(3):
        result = results[f"line-{number}"]
        assert (result["type"], result["message"]["type"]) == ("succeeded", "message")
        assert result["message"]["content"] == [{"type": "text", "text": script("say-hello").text}]
    error = results["line-3"].pop("error")
    assert results["line-3"] == {"type": "errored"}
    assert error.pop("request_id").startswith("req_")
    assert (error["type"], error["error"]["type"]) == ("error", "not_found_error")
    async with http.delete(f"{PATH}/{batch['id']}") as response:
        assert await response.json() == {"id": batch["id"], "type": "message_batch_deleted"}
    error = await get(http, f"{PATH}/{batch['id']}/results", 404)
    assert error["error"]["type"] == "not_found_error"
    # The journal is deleted just after the batch has ended.
    await wait_until_async(lambda: not list_names(tmp_path / "gateway"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not valid JSON"),
        (b"{}", "requests is missing"),
        (b'{"requests": 5}', "requests: Expected"),
        (b'{"requests": []}', "requests is missing"),
        (b'{"requests": [1}', "requests[0]"),
        (b'{"requests": [{"custom_id": "a", "params": {}', "not valid JSON"),
        ({"custom_id": "a b"}, "requests[1].custom_id has 1 to 64"),
        ({"custom_id": "line-0"}, "requests[1].custom_id is that of an earlier"),
        ({"custom_id": 1}, "requests[1].custom_id: Expected `str`"),
        ({"params": {}}, "requests[1].params.messages"),
        (make_request(1, max_tokens=0), "requests[1].params.max_tokens"),
        (make_request(1, stream=True), "requests[1].params.stream"),
        (make_request(1, temperature=9), "requests[1].params.temperature"),
        (make_request(1, "x" * 3000), "requests[1] is larger than 2000 bytes"),
    ],
    ids=str,
)
class TestRefusals:
    @pytest.fixture
    def config(self) -> GatewayConfig:
        return GatewayConfig(port=0, max_body_bytes=2000)

    async def test_the_whole_batch_is_checked_first(
        self, http: aiohttp.ClientSession, tmp_path: Path, body: Any, message: str
    ) -> None:
        if not isinstance(body, bytes):
            body = json.dumps({"requests": [make_request(0), {**make_request(1), **body}]})
        headers = {"Content-Type": "application/json"}
        async with http.post(PATH, data=body, headers=headers) as response:
            answer = await response.json()
            assert response.status == 400, answer
        assert answer["type"] == "error"
        assert answer["error"]["type"] == "invalid_request_error"
        assert message in answer["error"]["message"]
        assert (await get(http, PATH))["data"] == []
        assert list_names(tmp_path / "gateway") == []


async def test_a_cancel_ends_the_requests_that_run(
    http: aiohttp.ClientSession, gateway: Gateway
) -> None:
    batch = await create(http, make_request(0), *(make_endless(number) for number in range(1, 40)))
    path = f"{PATH}/{batch['id']}"
    async with http.delete(path) as response:
        assert response.status == 409
    await get(http, f"{path}/results", 404)
    async with asyncio.timeout(60):
        while not (await get(http, path))["request_counts"]["succeeded"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert (await post(http, f"{path}/cancel", {}))["processing_status"] in {"canceling", "ended"}
    batch = await wait(http, await get(http, path))
    assert batch["cancel_initiated_at"] <= batch["ended_at"]
    counts = batch["request_counts"]
    kinds = [result["type"] for result in (await read(http, batch)).values()]
    assert counts["processing"] == counts["expired"] == counts["errored"] == 0
    assert kinds.count("succeeded") == counts["succeeded"] > 0
    assert kinds.count("canceled") == counts["canceled"] == 40 - counts["succeeded"]
    assert gateway.context.admission.scheduler.active == 0


async def test_the_window_and_the_results_end(engine: Endpoint, tmp_path: Path) -> None:
    clock = FakeClock()
    async with serve(tmp_path, engine.base_url, wall_clock=clock) as served:
        http = served.http
        batch = await create(http, make_request(0), *map(make_endless, range(1, 40)))
        get_counts = served.gateway.context.batches.get_counts
        await served.wait_until(lambda: (get_counts(batch["id"]) or (0, 0))[0] > 0)
        clock.now += DAY_S
        batch = await wait(http, batch)
        results = list((await read(http, batch)).values())
        counts = batch["request_counts"]
        assert results.count({"type": "expired"}) == counts["expired"] == 40 - counts["succeeded"]
        assert 0 < counts["succeeded"] < 40
        clock.now += 29 * DAY_S
        await served.gateway.context.files.delete_expired()
        batch = await get(http, f"{PATH}/{batch['id']}")
        assert (batch["archived_at"] > batch["ended_at"], batch["results_url"]) == (True, None)
        await get(http, f"{PATH}/{batch['id']}/results", 404)
        await wait_until_async(lambda: not list_names(tmp_path))


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[ServedGateway]:
    keys = [
        NewKey(name="a"),
        NewKey(name="b", models=frozenset({"other"})),
        NewKey(name="manager", scopes=frozenset({"manage"})),
    ]
    async with FakeService() as upstream, serve(tmp_path, upstream.base_url, *keys) as served:
        yield served


async def test_a_key_sees_its_own_and_each_api_its_own(served: ServedGateway) -> None:
    first, second, manager = (served.open_session(number) for number in range(3))
    batches = [await create(first, make_request(0, model="fake")) for _ in range(3)]
    ids = [(await wait(first, batch))["id"] for batch in batches][::-1]
    path = f"{PATH}/{ids[0]}"
    for http, status in ((second, 404), (manager, 200)):
        for method, place in (("GET", path), ("GET", f"{path}/results")):
            async with http.request(method, place) as response:
                assert response.status == status
    async with second.delete(path) as response:
        assert response.status == 404
    assert (await get(second, PATH))["data"] == []
    assert [one["id"] for one in (await get(manager, PATH))["data"]] == ids
    refused = await post(manager, PATH, {"requests": [make_request(0)]}, 403)
    assert refused["error"]["type"] == "permission_error"
    refused = await post(second, PATH, {"requests": [make_request(0, model="fake")]}, 403)
    assert refused["error"]["message"].startswith("requests[0].params.model: This key may not")
    # Neither the batches nor their files are among those of OpenAI's API.
    async with AsyncOpenAI(base_url=f"{served.gateway.url}/v1", api_key=served.tokens[0]) as client:
        assert [one async for one in client.batches.list()] == []
        assert [one async for one in client.files.list()] == []
        file = await client.files.create(file=("x", b'{"custom_id":"a"}\n'), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
        )
    for wrong in (f"/v1/batches/{ids[0]}", f"{PATH}/{batch.id}"):
        await get(first, wrong, 404)
    assert [one["id"] for one in (await get(first, PATH))["data"]] == ids


async def test_pages_go_both_ways(served: ServedGateway) -> None:
    http = served.http
    ids = [(await create(http, make_request(0, model="fake")))["id"] for _ in range(5)][::-1]

    async def list_ids(query: str) -> tuple[list[str], bool]:
        page = await get(http, f"{PATH}?{query}")
        found = [one["id"] for one in page["data"]]
        assert (page["first_id"], page["last_id"]) == (found[0], found[-1])
        return found, page["has_more"]

    assert await list_ids("limit=2") == (ids[:2], True)
    assert await list_ids(f"limit=2&after_id={ids[1]}") == (ids[2:4], True)
    assert await list_ids(f"limit=2&after_id={ids[3]}") == (ids[4:], False)
    assert await list_ids(f"limit=2&before_id={ids[3]}") == (ids[1:3], True)
    assert await list_ids(f"limit=2&before_id={ids[2]}") == (ids[:2], False)
    for query in ("after_id=x", "before_id=x", f"before_id={ids[0]}&after_id={ids[0]}", "limit=0"):
        error = (await get(http, f"{PATH}?{query}", 400))["error"]
        assert error["type"] == "invalid_request_error"


def write(body: bytes, tmp_path: Path) -> list[Any]:
    path, lines = tmp_path / "body", io.BytesIO()
    path.write_bytes(body)
    write_requests(path, lines, allows_model=bool, default_model=None, max_bytes=10_000)
    return [json.loads(line) for line in lines.getvalue().splitlines()]


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1 << 16])
def test_requests_are_found_wherever_blocks_end(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_requests, "BLOCK_BYTES", size)
    requests = [make_request(0, 'a"[]{},\\'), make_request(1, '\n\\\\"]}')]
    others = {"a": [[1, {"requests": [2]}]], "b": '"requests": [', "c": {"requests": []}}
    for indent in (None, 2):
        for body in ({"requests": requests, **others}, {**others, "requests": requests}):
            lines = write(json.dumps(body, indent=indent).encode(), tmp_path)
            expected = [{"custom_id": one["custom_id"], "body": one["params"]} for one in requests]
            assert lines == expected
    for wrong in (
        b'{"requests": [], "requests": []}',
        b'{"\\u0072equests": [1]}',
        b'{"requests": [1]',
        b'{"requests": []} []',
        b'{"requests": [,]}',
        b'[{"requests": []}]',
        b'{"x": "%b", "requests": []}' % (b"x" * 100_000),
    ):
        with pytest.raises(RequestError):
            write(wrong, tmp_path)
