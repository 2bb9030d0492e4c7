"""`POST /v1/messages`, Anthropic's API, on the wire."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from gateway.helpers import CALCULATE, PERSON, post
from gateway.shapes import parse_events
from support.scripted_model import prompt_tokens, script

if TYPE_CHECKING:
    import aiohttp

PATH = "/v1/messages"
HELLO = script("say-hello").text
TOOL = {"name": "calculate", "description": "A sum.", "input_schema": CALCULATE}


def make_body(prompt: Any = "say-hello", **options: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {"model": "scripted", "max_tokens": 100, "messages": messages, **options}


async def create(http: aiohttp.ClientSession, body: dict[str, Any], status: int = 200) -> Any:
    return await post(http, PATH, body, status)


async def stream(http: aiohttp.ClientSession, body: dict[str, Any]) -> list[Any]:
    async with http.post(PATH, json={**body, "stream": True}) as response:
        assert response.status == 200, await response.text()
        text = await response.text()
    events = parse_events(text)
    names = [line[7:] for line in text.splitlines() if line.startswith("event: ")]
    assert names == [event["type"] for event in events]
    return events


async def test_a_message_has_anthropic_shape(http: aiohttp.ClientSession) -> None:
    system = [{"type": "text", "text": "Be brief."}]
    answer = await create(http, make_body(system=system))
    assert answer.pop("id").startswith("msg_")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "say-hello"},
    ]
    usage = answer.pop("usage")
    assert usage["input_tokens"] == prompt_tokens(messages)
    assert usage["output_tokens"] > 0
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": "scripted",
        "content": [{"type": "text", "text": HELLO}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }


async def test_events_have_anthropic_names_and_order(http: aiohttp.ClientSession) -> None:
    events = await stream(http, make_body("reason-aloud"))
    names = [event["type"] for event in events]
    deduplicated = [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert deduplicated == ["message_start", *block, *block, "message_delta", "message_stop"]
    starts = [e for e in events if e["type"] == "content_block_start"]
    assert [(e["index"], e["content_block"]["type"]) for e in starts] == [
        (0, "thinking"),
        (1, "text"),
    ]
    deltas = [e["delta"] for e in events if e["type"] == "content_block_delta"]
    assert "".join(d.get("thinking", "") for d in deltas) == script("reason-aloud").reasoning
    assert "".join(d.get("text", "") for d in deltas) == script("reason-aloud").content
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[-2]["usage"]["input_tokens"] == prompt_tokens(
        make_body("reason-aloud")["messages"]
    )


@pytest.mark.parametrize(
    ("prompt", "kinds"),
    [
        ("reason-aloud", ["thinking", "text"]),
        ("say-think", ["thinking", "text"]),  # the engine leaves the tags in the text
        ("reason-only", ["thinking"]),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_thinking_is_a_block_of_its_own(
    http: aiohttp.ClientSession, prompt: str, kinds: list[str], *, streamed: bool
) -> None:
    body = make_body(prompt)
    if streamed:
        blocks: list[Any] = []
        for event in await stream(http, body):
            if event["type"] == "content_block_start":
                assert event["index"] == len(blocks)
                blocks.append(event["content_block"])
            elif event["type"] == "content_block_delta":
                assert event["index"] == len(blocks) - 1
                kind = event["delta"]["type"].removesuffix("_delta")
                if kind in {"thinking", "text"}:
                    blocks[-1][kind] += event["delta"][kind]
    else:
        blocks = (await create(http, body))["content"]
    assert [block["type"] for block in blocks] == kinds
    assert blocks[0]["thinking"] == script(prompt).reasoning
    assert "".join(block.get("text", "") for block in blocks) == script(prompt).content
    assert "think>" not in json.dumps(blocks)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_tool_is_used_and_answered(http: aiohttp.ClientSession, *, streamed: bool) -> None:
    body = make_body("call-after-words", tools=[TOOL])
    if streamed:
        events = await stream(http, body)
        blocks = [e["content_block"] for e in events if e["type"] == "content_block_start"]
        deltas = [e["delta"] for e in events if e["type"] == "content_block_delta"]
        arguments = "".join(d.get("partial_json", "") for d in deltas)
        use = {**blocks[-1], "input": json.loads(arguments)}
        assert events[-2]["delta"]["stop_reason"] == "tool_use"
    else:
        answer = await create(http, body)
        assert answer["stop_reason"] == "tool_use"
        text, use = answer["content"]
        assert text["text"].startswith("Let me see.")
    assert (use["type"], use["name"], use["input"]) == (
        "tool_use",
        "calculate",
        {"expression": "6 * 7"},
    )
    result = {"type": "tool_result", "tool_use_id": use["id"]}
    result["content"] = [{"type": "text", "text": "42"}]
    messages = [
        *body["messages"],
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}, use]},
        {"role": "user", "content": [result]},
    ]
    answer = await create(http, {**body, "messages": messages})
    assert answer["content"][0]["text"] == script("<tool_response>").text


async def test_an_answer_that_is_cut_names_max_tokens(http: aiohttp.ClientSession) -> None:
    answer = await create(http, make_body("say-long", max_tokens=4))
    assert (answer["stop_reason"], answer["usage"]["output_tokens"]) == ("max_tokens", 4)


async def test_a_schema_is_kept(http: aiohttp.ClientSession) -> None:
    output = {"format": {"type": "json_schema", "schema": PERSON}}
    answer = await create(http, make_body("say-json", output_config=output))
    jsonschema.validate(json.loads(answer["content"][0]["text"]), PERSON)


async def test_tokens_are_counted_without_an_answer(http: aiohttp.ClientSession) -> None:
    body = {"model": "scripted", "messages": [{"role": "user", "content": "word " * 400}]}
    counted = await post(http, f"{PATH}/count_tokens", body)
    more = await post(http, f"{PATH}/count_tokens", {**body, "tools": [TOOL], "system": "x" * 400})
    assert 400 < counted["input_tokens"] + 100 < more["input_tokens"]


@pytest.mark.parametrize(
    ("change", "status", "kind", "text"),
    [
        ({"max_tokens": None}, 400, "invalid_request_error", "max_tokens"),
        ({"max_tokens": "4"}, 400, "invalid_request_error", "max_tokens"),
        ({"messages": []}, 400, "invalid_request_error", "messages"),
        ({"system": "a\0b"}, 400, "invalid_request_error", "system"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a\0b"}]}]},
            400,
            "invalid_request_error",
            "messages[0].content[0].text",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            400,
            "invalid_request_error",
            "messages[0].content[0]",
        ),
        (
            {"tools": [{"type": "bash_20250124", "name": "bash"}]},
            400,
            "invalid_request_error",
            "tools[0]",
        ),
        ({"model": "no-such-model"}, 404, "not_found_error", "no-such-model"),
    ],
)
async def test_errors_have_anthropic_shape(
    http: aiohttp.ClientSession, change: dict[str, Any], status: int, kind: str, text: str
) -> None:
    answer = await create(http, {**make_body(), **change}, status)
    assert answer["type"] == "error"
    assert answer["error"]["type"] == kind
    assert text in answer["error"]["message"]


async def test_a_stored_conversation_is_refused_in_the_way_that_clients_recover_from(
    http: aiohttp.ClientSession,
) -> None:
    answer = await create(http, make_body(thread={"type": "create"}), 400)
    assert answer["error"].pop("message")
    assert answer["error"] == {
        "type": "invalid_request_error",
        "details": {"error_code": "thread_unsupported_request", "unsupported": ["thread"]},
    }


async def test_every_error_has_a_request_id_by_both_names(http: aiohttp.ClientSession) -> None:
    for path, status in ((PATH, 415), ("/v1/nothing", 404)):
        async with http.post(path, data=b"{}") as response:
            assert response.status == status
            assert response.headers["request-id"] == response.headers["x-request-id"]


async def test_an_error_in_a_stream_is_its_last_event(http: aiohttp.ClientSession) -> None:
    body = make_body("say-slowly", stream=True, max_tokens=1000)
    async with http.post(PATH, json=body, headers={"X-Request-Timeout": "1"}) as response:
        assert response.status == 200
        *_, last = parse_events(await response.text())
    assert (last["type"], last["error"]["type"]) == ("error", "timeout_error")
