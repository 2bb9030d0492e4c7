"""`POST /v1/chat/completions` on the wire."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import jsonschema
import msgspec
import pytest

from foundry_api.gateway.openai.chat_request import ChatBody, make_generation
from foundry_api.types.events import AttemptStarted
from gateway import helpers
from gateway.helpers import CALCULATE, PERSON
from gateway.shapes import check_shape, parse_events
from gateway.waiting import wait_until_idle
from support.scripted_model import prompt_tokens, script

if TYPE_CHECKING:
    import aiohttp

    from foundry_api.gateway.gateway import Gateway

PATH = "/v1/chat/completions"


def make_body(prompt: str, **options: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": [{"role": "user", "content": prompt}], **options}


async def post(http: aiohttp.ClientSession, body: Any, status: int = 200) -> Any:
    return await helpers.post(http, PATH, body, status)


async def stream(http: aiohttp.ClientSession, body: dict[str, Any]) -> list[Any]:
    return await helpers.stream(http, PATH, body)


async def test_an_answer_has_openai_shape(http: aiohttp.ClientSession) -> None:
    body = make_body("say-hello")
    answer = await post(http, body)
    check_shape("chat.completion", answer)
    assert answer["choices"][0]["message"]["content"] == script("say-hello").text
    assert answer["usage"]["prompt_tokens"] == prompt_tokens(body["messages"])
    assert answer["model"] == "scripted"


async def test_p34_a_stream_has_openai_shape_and_one_end(http: aiohttp.ClientSession) -> None:
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
        ({"messages": [{"role": "user", "content": ""}]}, "messages[0].content"),
        ({"web_search_options": {}}, "web_search_options"),
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
    await wait_until_idle(gateway.context.client)


@pytest.mark.parametrize(
    ("name", "value"), [("X-Request-Timeout", "0.5"), ("Prefer", "respond-async, wait=0.5")]
)
async def test_a_deadline_ends_the_call_at_the_engine(
    gateway: Gateway, http: aiohttp.ClientSession, name: str, value: str
) -> None:
    async with http.post(PATH, json=make_body("say-slowly"), headers={name: value}) as response:
        answer = await response.json()
    assert (response.status, answer["error"]["code"]) == (504, "deadline_exceeded")
    await wait_until_idle(gateway.context.client)


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


def make_tool(**changes: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": "calculate", "parameters": CALCULATE, **changes},
    }


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_strict_tool_is_called(http: aiohttp.ClientSession, *, streamed: bool) -> None:
    clock = make_tool(name="clock", parameters={"type": "object", "properties": {}})
    body = make_body("call-two-tools", tools=[make_tool(strict=True), clock])
    if streamed:
        *chunks, _ = await stream(http, body)
        for chunk in chunks:
            check_shape("chat.completion.chunk", chunk)
        choices = [chunk["choices"][0] for chunk in chunks]
        calls = [call for one in choices for call in one["delta"].get("tool_calls", ())]
        assert [call["index"] for call in calls] == [0, 1]
        assert choices[-1]["finish_reason"] == "tool_calls"
    else:
        answer = await post(http, body)
        check_shape("chat.completion", answer)
        [choice] = answer["choices"]
        calls = choice["message"]["tool_calls"]
        assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert [call["function"]["name"] for call in calls] == ["calculate", "clock"]
    assert json.loads(calls[0]["function"]["arguments"]) == {"expression": "6 * 7"}


@pytest.mark.parametrize("streamed", [False, True])
async def test_functions_get_an_answer_of_their_form(
    http: aiohttp.ClientSession, *, streamed: bool
) -> None:
    functions = [make_tool()["function"], {"name": "clock"}]
    body = make_body("call-two-tools", functions=functions)
    if streamed:
        *chunks, _ = await stream(http, body)
        for chunk in chunks:
            check_shape("chat.completion.chunk", chunk)
        choices = [chunk["choices"][0] for chunk in chunks]
        assert not [one for one in choices if "tool_calls" in one["delta"]]
        deltas = [one["delta"] for one in choices]
        [called] = [delta["function_call"] for delta in deltas if "function_call" in delta]
        reason = choices[-1]["finish_reason"]
    else:
        answer = await post(http, body)
        check_shape("chat.completion", answer)
        [choice] = answer["choices"]
        message, reason = choice["message"], choice["finish_reason"]
        assert message["content"] is None
        assert "tool_calls" not in message
        called = message["function_call"]
    assert called.keys() == {"name", "arguments"}
    assert (called["name"], json.loads(called["arguments"])) == (
        "calculate",
        {"expression": "6 * 7"},
    )
    assert reason == "function_call"


async def test_functions_need_not_be_called(http: aiohttp.ClientSession) -> None:
    answer = await post(http, make_body("say-hello", functions=[make_tool()["function"]]))
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "stop"
    assert not {"function_call", "tool_calls"} & choice["message"].keys()


@pytest.mark.parametrize("prompt", ["call-malformed", "call-wrong-arguments"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_wrong_tool_call_is_tried_again_within_a_bound(
    gateway: Gateway, http: aiohttp.ClientSession, prompt: str, *, streamed: bool
) -> None:
    attempts: list[AttemptStarted] = []
    gateway.context.client.events.subscribe(attempts.append, AttemptStarted)
    body = make_body(prompt, tools=[make_tool(strict=True)], stream=streamed)
    async with http.post(PATH, json=body) as response:
        answer = await response.json()
    check_shape("error", answer)
    assert (response.status, answer["error"]["code"]) == (422, "invalid_tool_call")
    assert response.headers["x-should-retry"] == "false"
    assert len(attempts) == 3


async def test_a_strict_tool_needs_a_schema(http: aiohttp.ClientSession) -> None:
    tool = make_tool(strict=True, parameters={"type": "no-such-type"})
    answer = await post(http, make_body("say-hello", tools=[tool]), 400)
    assert answer["error"]["param"] == "tools[0].function.parameters"


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("auto", {"calculate", "clock"}),
        ({"type": "function", "function": {"name": "clock"}}, {"clock"}),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "clock"}}],
                },
            },
            {"clock"},
        ),
    ],
)
async def test_a_tool_choice_is_read(choice: Any, names: set[str]) -> None:
    tools = [make_tool(), make_tool(name="clock")]
    body = msgspec.convert(make_body("x", tools=tools, tool_choice=choice), ChatBody)
    options = make_generation(body, "scripted").options
    offered = {tool.name for tool in options["tools"] or ()}
    assert offered >= names
    assert options["tool_choice"] in {"auto", "clock", "required"}
    if options["tool_choice"] == "required":
        assert offered == names


@pytest.mark.parametrize(
    "choice",
    [{"type": "custom"}, {"type": "function"}, {"type": "allowed_tools", "allowed_tools": {}}],
)
async def test_a_wrong_tool_choice_is_400(http: aiohttp.ClientSession, choice: Any) -> None:
    body = make_body("say-hello", tools=[make_tool()], tool_choice=choice)
    assert (await post(http, body, 400))["error"]["param"] == "tool_choice"


def make_format(schema: dict[str, Any] = PERSON) -> dict[str, Any]:
    wrapper = {"name": "answer", "schema": schema, "strict": True}
    return {"type": "json_schema", "json_schema": wrapper}


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_schema_in_openai_wrapper_is_kept(
    http: aiohttp.ClientSession, *, streamed: bool
) -> None:
    body = make_body("say-json", response_format=make_format())
    if streamed:
        *chunks, _ = await stream(http, body)
        text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    else:
        text = (await post(http, body))["choices"][0]["message"]["content"]
    jsonschema.validate(json.loads(text), PERSON)


@pytest.mark.parametrize("streamed", [False, True])
async def test_json_that_max_tokens_cuts_has_the_finish_reason_length(
    http: aiohttp.ClientSession, *, streamed: bool
) -> None:
    body = make_body("say-json", response_format=make_format(), max_tokens=5)
    if streamed:
        *chunks, usage, end = await stream(
            http, {**body, "stream_options": {"include_usage": True}}
        )
        assert end == "[DONE]"
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    else:
        usage = await post(http, body)
        assert usage["choices"][0]["finish_reason"] == "length"
        assert usage["choices"][0]["message"]["content"].startswith("{")
    assert usage["usage"]["prompt_tokens"] == prompt_tokens(body["messages"])
    assert usage["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize("prompt", ["reason-aloud", "say-think"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_reasoning_is_not_in_the_content(
    http: aiohttp.ClientSession, prompt: str, *, streamed: bool
) -> None:
    body = make_body(prompt)
    if streamed:
        deltas = [chunk["choices"][0]["delta"] for chunk in (await stream(http, body))[:-1]]
        message = {
            name: "".join(delta.get(name) or "" for delta in deltas)
            for name in ("content", "reasoning_content")
        }
    else:
        message = (await post(http, body))["choices"][0]["message"]
    assert message["content"] == script(prompt).content
    assert message["reasoning_content"] == script(prompt).reasoning


async def test_unknown_members_are_ignored_and_counted(
    gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    await post(http, make_body("say-hello", service_tier="auto", no_such_member={"a": [1]}))
    assert gateway.context.ignored_members[PATH] == 2


@pytest.mark.parametrize("prompt", ["say-hello"])
async def test_null_is_the_default_of_every_optional_member(
    http: aiohttp.ClientSession, prompt: str
) -> None:
    optional = {
        field.name: None
        for field in msgspec.structs.fields(ChatBody)
        if field.name not in {"messages", "model"}
    }
    await post(http, make_body(prompt, **optional))


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_json_object_is_one_object(http: aiohttp.ClientSession, *, streamed: bool) -> None:
    body = make_body("say-json", response_format={"type": "json_object"})
    if streamed:
        chunks = (await stream(http, body))[:-1]
        text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    else:
        text = (await post(http, body))["choices"][0]["message"]["content"]
    assert json.loads(text) == json.loads(script("say-json").text)
