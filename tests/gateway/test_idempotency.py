"""`Idempotency-Key`: a request that is sent again gets the response of the first one."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.gateway.idempotency_cache import IdempotencyCache, SavedResponse
from foundry_api.types.events import AttemptStarted
from gateway.shapes import check_shape

if TYPE_CHECKING:
    import aiohttp

    from foundry_api.gateway.gateway import Gateway

BODIES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "say-hello"}]},
    "/v1/completions": {"prompt": "say-hello"},
    "/v1/responses": {"input": "say-hello"},
    "/v1/messages": {"max_tokens": 9, "messages": [{"role": "user", "content": "say-hello"}]},
}
CHAT = "/v1/chat/completions"


def make_chat(prompt: str, **options: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": [{"role": "user", "content": prompt}], **options}


async def post(
    http: aiohttp.ClientSession, path: str, body: Any, key: str = "k"
) -> tuple[int, bytes, bool]:
    async with http.post(path, json=body, headers={"Idempotency-Key": key}) as response:
        content = await response.read()
        return response.status, content, "Idempotency-Replayed" in response.headers


@pytest.fixture
def attempts(gateway: Gateway) -> list[AttemptStarted]:
    attempts: list[AttemptStarted] = []
    gateway.context.client.events.subscribe(attempts.append, AttemptStarted)
    return attempts


@pytest.mark.parametrize("path", BODIES)
async def test_the_same_request_has_the_same_response(
    http: aiohttp.ClientSession, attempts: list[AttemptStarted], path: str
) -> None:
    body = {"model": "scripted", **BODIES[path]}
    status, content, replayed = await post(http, path, body)
    assert (status, replayed) == (200, False)
    assert await post(http, path, body) == (200, content, True)
    assert len(attempts) == 1
    assert (await post(http, path, body, "another"))[2] is False


async def test_the_same_body_for_another_thing_is_409(http: aiohttp.ClientSession) -> None:
    body = {"model": "scripted", "input": "say-hello", "background": True}
    first, second = [
        json.loads((await post(http, "/v1/responses", body, key))[1])["id"] for key in ("1", "2")
    ]
    assert (await post(http, f"/v1/responses/{first}/cancel", {}))[0] == 200
    assert (await post(http, f"/v1/responses/{second}/cancel", {}))[0] == 409
    deployments = "/openai/deployments/{}/chat/completions"
    assert (await post(http, deployments.format("scripted"), make_chat("say-hello"), "3"))[0] == 200
    assert (await post(http, deployments.format("demo"), make_chat("say-hello"), "3"))[0] == 409


async def test_another_body_is_409(http: aiohttp.ClientSession) -> None:
    await post(http, CHAT, make_chat("say-hello"))
    headers = {"Idempotency-Key": "k"}
    async with http.post(CHAT, json=make_chat("say-stop"), headers=headers) as response:
        answer = await response.json()
    check_shape("error", answer)
    assert (response.status, answer["error"]["code"]) == (409, "idempotency_error")


async def test_another_path_is_another_request(http: aiohttp.ClientSession) -> None:
    ids: list[str] = []
    for number in range(2):
        body = {"model": "scripted", "input": "say-slowly", "background": True}
        async with http.post("/v1/responses", json=body) as response:
            ids.append((await response.json())["id"])
        status = (await post(http, f"/v1/responses/{ids[number]}/cancel", {}))[0]
        assert status == (200, 409)[number]
    async with http.post(f"/v1/responses/{ids[1]}/cancel") as response:
        assert (await response.json())["status"] == "cancelled"


async def test_a_request_that_runs_answers_both(
    http: aiohttp.ClientSession, attempts: list[AttemptStarted]
) -> None:
    body = make_chat("say-slowly", max_tokens=20)
    first, second = await asyncio.gather(post(http, CHAT, body), post(http, CHAT, body))
    assert first[:2] == second[:2]
    assert {first[2], second[2]} == {False, True}
    assert len(attempts) == 1


async def test_an_error_is_shared_but_not_kept(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    body = {**make_chat("say-hello"), "model": "no-such-model"}
    answers = await asyncio.gather(post(http, CHAT, body), post(http, CHAT, body))
    assert [answer[0] for answer in answers] == [404, 404]
    assert len(gateway.context.idempotency) == 0


async def test_a_client_that_leaves_hands_the_request_on(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    started = asyncio.Event()
    gateway.context.client.events.subscribe(lambda _: started.set(), AttemptStarted)
    body = make_chat("say-slowly", max_tokens=20)
    first = asyncio.create_task(post(http, CHAT, body))
    await asyncio.wait_for(started.wait(), 30)
    [exchange] = gateway.context.running
    second = asyncio.create_task(post(http, CHAT, body))
    first.cancel()
    await asyncio.wait_for(asyncio.shield(exchange.ended), 30)
    assert (await second)[0] == 200


async def test_a_stream_is_not_repeated(
    gateway: Gateway, http: aiohttp.ClientSession, attempts: list[AttemptStarted]
) -> None:
    body = make_chat("say-hello", stream=True)
    for _ in range(2):
        assert (await post(http, CHAT, body))[0] == 200
    assert (len(attempts), len(gateway.context.idempotency)) == (2, 0)


async def test_a_key_is_bounded(http: aiohttp.ClientSession) -> None:
    assert (await post(http, CHAT, make_chat("say-hello"), "k" * 256))[0] == 400


async def test_responses_are_kept_for_a_day_and_within_bounds() -> None:
    cache = IdempotencyCache(max_responses=3, max_bytes=100)

    def save(name: str, size: int, now: float) -> None:
        cache.start((None, name), b"")
        cache.save((None, name), SavedResponse(b"x" * size, 200, "text/plain"), now)

    cache.start((None, "running"), b"")
    for index in range(5):
        save(str(index), 10, index)
    assert len(cache) == 4
    assert cache.find((None, "1"), 5) is None
    assert cache.find((None, "2"), 5) is not None
    assert cache.find((None, "2"), 2 + 24 * 3600) is None
    assert len(cache) == 3
    save("large", 95, 6)
    assert cache.find((None, "large"), 7) is not None
    assert cache.find((None, "running"), 10**9) is not None
    assert len(cache) == 2


async def test_a_key_with_many_requests_pushes_out_no_others() -> None:
    cache = IdempotencyCache(max_responses=3, max_bytes=100)
    for owner, count in (("quiet", 1), ("loud", 50)):
        for index in range(count):
            cache.start((owner, str(index)), b"")
            cache.save((owner, str(index)), SavedResponse(b"x", 200, "text/plain"), 0)
    assert cache.find(("quiet", "0"), 1) is not None
    assert [cache.find(("loud", str(index)), 1) is not None for index in (47, 48, 49)] == [
        *(False, True, True)
    ]
    assert len(cache) == 3
