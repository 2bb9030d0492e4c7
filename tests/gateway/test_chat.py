"""`POST /v1/chat/completions` on the wire."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gateway.shapes import check_shape, parse_events
from support.scripted_model import prompt_tokens, script

if TYPE_CHECKING:
    import aiohttp

    from foundry_api.gateway.gateway import Gateway

PATH = "/v1/chat/completions"


def make_body(prompt: str, **options: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": [{"role": "user", "content": prompt}], **options}


async def post(http: aiohttp.ClientSession, body: Any, status: int = 200) -> Any:
    async with http.post(PATH, json=body) as response:
        answer = await response.json()
        assert response.status == status, answer
        return answer


async def stream(http: aiohttp.ClientSession, body: dict[str, Any]) -> list[Any]:
    async with http.post(PATH, json={**body, "stream": True}) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["X-Accel-Buffering"] == "no"
        return parse_events(await response.text())


async def test_an_answer_has_openai_shape(http: aiohttp.ClientSession) -> None:
    body = make_body("say-hello")
    answer = await post(http, body)
    check_shape("chat.completion", answer)
    assert answer["choices"][0]["message"]["content"] == script("say-hello").text
    assert answer["usage"]["prompt_tokens"] == prompt_tokens(body["messages"])
    assert answer["model"] == "scripted"


async def test_a_stream_has_openai_shape_and_one_end(http: aiohttp.ClientSession) -> None:
    *chunks, end = await stream(http, make_body("say-hello"))
    assert end == "[DONE]"
    assert "[DONE]" not in chunks
    for chunk in chunks:
        check_shape("chat.completion.chunk", chunk)
        assert "usage" not in chunk
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"]["role"] == "assistant"
    assert all("role" not in choice["delta"] for choice in choices[1:])
    assert "".join(c["delta"].get("content", "") for c in choices) == script("say-hello").text
    assert [c["finish_reason"] for c in choices if c["finish_reason"]] == ["stop"]


async def test_usage_is_in_the_last_chunk_only_on_request(http: aiohttp.ClientSession) -> None:
    body = make_body("say-hello", stream_options={"include_usage": True})
    *chunks, last, end = await stream(http, body)
    assert end == "[DONE]"
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == prompt_tokens(body["messages"])
    assert all(chunk["usage"] is None for chunk in chunks)


@pytest.mark.parametrize("streamed", [False, True])
async def test_n_generates_as_many_choices(http: aiohttp.ClientSession, *, streamed: bool) -> None:
    body = make_body("say-hello", n=3)
    if not streamed:
        answer = await post(http, body)
        check_shape("chat.completion", answer)
        texts = {c["index"]: c["message"]["content"] for c in answer["choices"]}
    else:
        texts = dict.fromkeys(range(3), "")
        for chunk in (await stream(http, body))[:-1]:
            for choice in chunk["choices"]:
                texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == dict.fromkeys(range(3), script("say-hello").text)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": [{"role": "critic", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "a\0b"}]}, "messages[0].content"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 40.0}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"response_format": {"type": "bogus"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
                ]
            },
            "messages[0].content[0]",
        ),
    ],
)
async def test_a_bad_request_names_the_field(
    http: aiohttp.ClientSession, change: dict[str, Any], param: str
) -> None:
    answer = await post(http, make_body("say-hello", **change), 400)
    check_shape("error", answer)
    assert answer["error"]["param"] == param


async def test_an_unknown_model_is_404(http: aiohttp.ClientSession) -> None:
    answer = await post(http, {**make_body("x"), "model": "no-such-model"}, 404)
    assert answer["error"]["code"] == "model_not_found"


async def test_max_tokens_beyond_the_context_is_clamped(http: aiohttp.ClientSession) -> None:
    body = make_body("say-hello", max_tokens=10**6)
    assert (await post(http, body))["choices"][0]["finish_reason"] == "stop"
    assert (await stream(http, body))[-1] == "[DONE]"


async def test_a_client_that_leaves_ends_the_call(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    async with http.post(PATH, json=make_body("say-forever", stream=True)) as response:
        await response.content.readany()
        [exchange] = gateway.context.running
    await asyncio.wait_for(asyncio.shield(exchange.ended), 10)
    assert gateway.context.client.limiter.load == 0


@pytest.mark.parametrize(
    ("name", "value"), [("X-Request-Timeout", "0.5"), ("Prefer", "respond-async, wait=0.5")]
)
async def test_a_deadline_ends_the_call_at_the_engine(
    gateway: Gateway, http: aiohttp.ClientSession, name: str, value: str
) -> None:
    async with http.post(PATH, json=make_body("say-slowly"), headers={name: value}) as response:
        answer = await response.json()
    assert (response.status, answer["error"]["code"]) == (504, "deadline_exceeded")
    assert gateway.context.client.limiter.load == 0


async def test_a_deadline_that_is_no_number_is_refused(http: aiohttp.ClientSession) -> None:
    headers = {"X-Request-Timeout": "soon"}
    async with http.post(PATH, json=make_body("say-hello"), headers=headers) as response:
        assert (response.status, (await response.json())["error"]["param"]) == (
            400,
            "X-Request-Timeout",
        )


async def test_an_error_in_a_stream_is_its_last_event(http: aiohttp.ClientSession) -> None:
    body = make_body("say-slowly", stream=True)
    async with http.post(PATH, json=body, headers={"X-Request-Timeout": "1"}) as response:
        assert response.status == 200
        *_, last = parse_events(await response.text())
    assert last["error"]["code"] == "deadline_exceeded"
