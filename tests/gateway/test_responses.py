"""`/v1/responses` on the wire."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from foundry_api.gateway.response_store import ResponseStore, StoredResponse
from gateway import helpers
from gateway.helpers import CALCULATE, PERSON
from gateway.shapes import check_response_stream, check_shape, parse_events
from gateway.waiting import wait_until_idle
from support.scripted_model import prompt_tokens, script

if TYPE_CHECKING:
    import aiohttp

    from foundry_api.gateway.gateway import Gateway

PATH = "/v1/responses"
HELLO = script("say-hello").text
TOOL = {"type": "function", "name": "calculate", "parameters": CALCULATE, "strict": True}


def make_body(prompt: Any = "say-hello", **options: Any) -> dict[str, Any]:
    return {"model": "scripted", "input": prompt, **options}


async def create(http: aiohttp.ClientSession, body: dict[str, Any], status: int = 200) -> Any:
    return await helpers.post(http, PATH, body, status)


async def get(http: aiohttp.ClientSession, path: str, status: int = 200) -> Any:
    async with http.get(f"{PATH}/{path}") as response:
        answer = await response.json()
        assert response.status == status, answer
        return answer


def get_text(response: dict[str, Any]) -> str:
    return "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    )


async def stream(http: aiohttp.ClientSession, body: dict[str, Any]) -> list[Any]:
    async with http.post(PATH, json={**body, "stream": True}) as response:
        assert response.status == 200, await response.text()
        return check_response_stream(await response.text())


async def test_a_response_has_openai_shape(http: aiohttp.ClientSession) -> None:
    answer = await create(http, make_body(metadata={"a": "b"}))
    check_shape("response", answer)
    assert (answer["status"], get_text(answer), answer["model"]) == ("completed", HELLO, "scripted")
    assert answer["usage"]["input_tokens"] == prompt_tokens(
        [{"role": "user", "content": "say-hello"}]
    )
    assert answer["output"][0]["content"][0]["annotations"] == []
    assert answer["metadata"] == {"a": "b"}


async def test_input_tokens_are_estimated(http: aiohttp.ClientSession) -> None:
    first = await create(http, make_body("say-hello"))
    counts = [
        await helpers.post(http, f"{PATH}/input_tokens", make_body("say-hello", **more))
        for more in ({}, {"instructions": "x" * 400}, {"previous_response_id": first["id"]})
    ]
    assert {one["object"] for one in counts} == {"response.input_tokens"}
    one, longer, continued = (one["input_tokens"] for one in counts)
    assert 0 < one < continued < longer
    await helpers.post(http, f"{PATH}/input_tokens", make_body(""), 400)


@pytest.mark.parametrize("path", ["compact", "resp_1/none", "resp_1/cancel/none"])
async def test_other_routes_of_responses_are_unknown(
    http: aiohttp.ClientSession, path: str
) -> None:
    for method in ("GET", "POST"):
        async with http.request(method, f"{PATH}/{path}", json=make_body()) as response:
            assert response.status == 404
            answer = await response.json()
        check_shape("error", answer)
        assert answer["error"]["code"] == "unknown_url"


async def test_events_have_openai_names_and_order(http: aiohttp.ClientSession) -> None:
    events = await stream(http, make_body("reason-aloud"))
    names = [event["type"].removeprefix("response.") for event in events]
    deduplicated = [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    assert deduplicated == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    response = events[-1]["response"]
    assert get_text(response) == script("reason-aloud").content
    assert response["output"][0]["content"][0]["text"] == script("reason-aloud").reasoning
    assert [e["item"] for e in events if e["type"].endswith("item.done")] == response["output"]
    deltas = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
    assert "".join(deltas) == script("reason-aloud").content
    assert await get(http, response["id"]) == response


@pytest.mark.parametrize(
    ("prompt", "kinds"),
    [
        ("reason-aloud", ["reasoning", "message"]),
        ("say-think", ["reasoning", "message"]),  # the engine leaves the tags in the text
        ("reason-only", ["reasoning"]),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_reasoning_is_an_item_of_its_own(
    http: aiohttp.ClientSession, prompt: str, kinds: list[str], *, streamed: bool
) -> None:
    body = make_body(prompt)
    if streamed:
        events = await stream(http, body)
        assert "think>" not in json.dumps(events)
        answer = events[-1]["response"]
    else:
        answer = await create(http, body)
    check_shape("response", answer)
    assert [item["type"] for item in answer["output"]] == kinds
    assert [part["text"] for part in answer["output"][0]["content"]] == [script(prompt).reasoning]
    assert get_text(answer) == script(prompt).content
    assert "think>" not in json.dumps(answer)


@pytest.mark.parametrize("streamed", [False, True])
async def test_tools_are_called_and_answered(
    http: aiohttp.ClientSession, *, streamed: bool
) -> None:
    body = make_body("call-calculator", tools=[TOOL])
    if streamed:
        events = await stream(http, body)
        response = events[-1]["response"]
        [done] = [e for e in events if e["type"] == "response.function_call_arguments.done"]
        assert json.loads(done["arguments"]) == {"expression": "6 * 7"}
    else:
        response = await create(http, body)
    check_shape("response", response)
    [call] = response["output"]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "42"}
    continued = await create(
        http, make_body([output], tools=[TOOL], previous_response_id=response["id"])
    )
    assert get_text(continued) == script("<tool_response>").text
    resent = [{"role": "user", "content": "call-calculator"}, call, output]
    assert get_text(await create(http, make_body(resent, tools=[TOOL]))) == get_text(continued)


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_that_is_cut_is_incomplete(
    http: aiohttp.ClientSession, *, streamed: bool
) -> None:
    body = make_body("say-long", max_output_tokens=4)
    response = (await stream(http, body))[-1]["response"] if streamed else await create(http, body)
    check_shape("response", response)
    assert response["status"] == response["output"][0]["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["usage"]["output_tokens"] == 4


async def test_a_schema_is_kept(http: aiohttp.ClientSession) -> None:
    text = {"format": {"type": "json_schema", "name": "p", "schema": PERSON, "strict": True}}
    answer = await create(http, make_body("say-json", text=text))
    jsonschema.validate(json.loads(get_text(answer)), PERSON)
    assert answer["text"]["format"]["name"] == "p"


async def test_a_conversation_continues_without_its_instructions(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    first = await create(http, make_body(instructions="Be brief."))
    second = await create(http, make_body("say-stop", previous_response_id=first["id"]))
    stored = gateway.context.responses.get(second["id"], None)
    assert stored is not None
    assert [(message.role, message.content) for message in stored.messages] == [
        ("user", "say-hello"),
        ("assistant", HELLO),
        ("user", "say-stop"),
        ("assistant", script("say-stop").text),
    ]


async def test_input_items_are_listed_in_pages(http: aiohttp.ClientSession) -> None:
    items = [{"role": "user", "content": f"say-hello {index}"} for index in range(3)]
    identifier = (await create(http, make_body(items)))["id"]
    page = await get(http, f"{identifier}/input_items?limit=2")
    check_shape("response.items", page)
    assert page["has_more"]
    assert [item["content"] for item in page["data"]] == ["say-hello 2", "say-hello 1"]
    rest = await get(http, f"{identifier}/input_items?limit=2&after={page['last_id']}")
    assert ([item["content"] for item in rest["data"]], rest["has_more"]) == (
        ["say-hello 0"],
        False,
    )
    ascending = await get(http, f"{identifier}/input_items?order=asc")
    assert ascending["data"] == [*reversed(rest["data"]), *reversed(page["data"])]


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "after=none", "order=x"])
async def test_a_wrong_page_is_400(http: aiohttp.ClientSession, query: str) -> None:
    identifier = (await create(http, make_body()))["id"]
    check_shape("error", await get(http, f"{identifier}/input_items?{query}", 400))


async def test_a_deleted_response_is_gone(http: aiohttp.ClientSession) -> None:
    identifier = (await create(http, make_body()))["id"]
    async with http.delete(f"{PATH}/{identifier}") as response:
        check_shape("deleted", await response.json())
    answer = await get(http, identifier, 404)
    assert answer["error"]["code"] == "response_not_found"
    answer = await create(http, make_body(previous_response_id=identifier), 400)
    assert answer["error"]["param"] == "previous_response_id"


async def test_without_store_nothing_is_kept(gateway: Gateway, http: aiohttp.ClientSession) -> None:
    identifier = (await create(http, make_body(store=False)))["id"]
    await get(http, identifier, 404)
    assert len(gateway.context.responses) == 0


async def wait_for_end(gateway: Gateway) -> None:
    """Wait until nothing runs in the background."""
    for run in list(gateway.context.running):
        await asyncio.wait_for(asyncio.shield(run.ended), 30)


async def test_a_response_runs_in_the_background(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    answer = await create(http, make_body(background=True))
    check_shape("response", answer)
    assert (answer["status"], answer["background"]) == ("queued", True)
    await wait_for_end(gateway)
    answer = await get(http, answer["id"])
    assert (answer["status"], get_text(answer)) == ("completed", HELLO)
    assert not gateway.context.running


async def test_a_response_in_the_background_is_cancelled(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    identifier = (await create(http, make_body("say-forever", background=True)))["id"]
    for _ in range(2):  # cancelling it again changes nothing
        answer = await helpers.post(http, f"{PATH}/{identifier}/cancel", {})
        assert answer["status"] == "cancelled"
        check_shape("response", answer)
    await wait_until_idle(gateway.context.client)
    assert (await get(http, identifier))["status"] == "cancelled"


async def test_only_the_background_can_be_cancelled(http: aiohttp.ClientSession) -> None:
    identifier = (await create(http, make_body()))["id"]
    check_shape("error", await helpers.post(http, f"{PATH}/{identifier}/cancel", {}, 400))


async def test_a_failure_in_the_background_is_stored(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    identifier = (await create(http, {**make_body(), "model": "none", "background": True}))["id"]
    await wait_for_end(gateway)
    answer = await get(http, identifier)
    assert (answer["status"], answer["error"]["code"]) == ("failed", "model_not_found")
    check_shape("response", answer)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": [{"role": "critic", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 3}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": "a\0b"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": ""}]}, "input[0].content"),
        ({"input": "a\0b"}, "input"),
        ({"input": " "}, "input"),
        ({"instructions": "a\0b"}, "instructions"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0]",
        ),
        ({"input": [{"type": "computer_call"}]}, "input[0]"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_output_tokens": 4.0}, "max_output_tokens"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True, "store": False}, "background"),
        ({"background": True, "stream": True}, "background"),
    ],
)
async def test_a_bad_request_names_the_field(
    http: aiohttp.ClientSession, change: dict[str, Any], param: str
) -> None:
    answer = await create(http, make_body() | change, 400)
    check_shape("error", answer)
    assert answer["error"]["param"] == param


async def test_an_error_in_a_stream_is_its_last_event(http: aiohttp.ClientSession) -> None:
    body = make_body("say-slowly", stream=True)
    async with http.post(PATH, json=body, headers={"X-Request-Timeout": "1"}) as response:
        assert response.status == 200
        *_, last = parse_events(await response.text())
    check_shape("event.error", last)
    assert last["code"] == "deadline_exceeded"


def make_stored(identifier: str, owner: str | None = None, size: int = 10) -> StoredResponse:
    return StoredResponse(identifier, owner, b"x" * size, (), ())


def test_the_store_forgets_the_oldest() -> None:
    store = ResponseStore(max_responses=3, max_bytes=100)
    for index in range(5):
        store.put(make_stored(str(index)))
    assert [store.get(str(index), None) is None for index in range(5)] == [True] * 2 + [False] * 3
    store.put(make_stored("large", size=95))
    assert (len(store), store.get("large", None) is not None) == (1, True)


def test_a_key_with_many_responses_pushes_out_no_others() -> None:
    store = ResponseStore(max_responses=4, max_bytes=100)
    store.put(make_stored("first", "quiet"))
    for index in range(50):
        store.put(make_stored(str(index), "loud"))
    assert store.get("first", "quiet") is not None
    assert [one.id for one in store.list("loud")] == ["47", "48", "49"]
    store.put(make_stored("large", "loud", size=85))
    assert store.get("first", "quiet") is not None
    assert [one.id for one in store.list("loud")] == ["large"]
    for one in (*store.list("loud"), *store.list("quiet")):
        store.remove(one)
    assert len(store) == 0


def test_a_response_belongs_to_its_key() -> None:
    store = ResponseStore()
    store.put(make_stored("1", "key-1"))
    assert store.get("1", "key-2") is None
    assert store.get("1", None) is None
    assert store.get("1", "key-1") is not None
