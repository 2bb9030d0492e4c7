"""Other servers of OpenAI's API behind the gateway."""

from __future__ import annotations

import asyncio
import email
import json
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import pytest

from gateway.fake_openai_server import (
    FLAVOURS,
    USAGE,
    FakeOpenAIServer,
    Flavour,
    make_llama_cpp_python,
)
from gateway.helpers import CALCULATE, make_recording, post, stream
from gateway.serving import CHAT, call, make_body
from gateway.several import get_service, serve_upstreams
from gateway.shapes import parse_events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from email.message import Message
    from pathlib import Path

    from faults.hostile import Received
    from gateway.serving import ServedGateway

TOOLS = [{"type": "function", "function": {"name": "calculate", "parameters": CALCULATE}}]


@pytest.fixture(params=FLAVOURS)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[FakeOpenAIServer]:
    """A fake of each server."""
    async with FakeOpenAIServer(FLAVOURS[request.param]()) as server:
        yield server


def serve(
    tmp_path: Path, server: FakeOpenAIServer, config: Any = None, **members: Any
) -> AbstractAsyncContextManager[ServedGateway]:
    """Serve the fake alone."""
    table = {"name": "other", "kind": "openai", "url": f"{server.base_url}/v1", **members}
    if server.flavour.key:
        key_file = tmp_path / "key"
        key_file.write_text(f"{server.flavour.key}\n", encoding="utf-8")
        table["key_file"] = key_file
    return serve_upstreams(tmp_path / "gateway", table, client={"max_retries": 0}, **(config or {}))


async def test_its_models_are_listed_and_answer(server: FakeOpenAIServer, tmp_path: Path) -> None:
    flavour = server.flavour
    async with serve(tmp_path, server) as served:
        async with served.http.get("/v1/models") as response:
            listed = {model["id"] for model in (await response.json())["data"]}
        assert flavour.alias in listed
        assert not any("/srv" in name for name in listed)
        answer = await post(served.http, CHAT, make_body("Hi", flavour.alias, seed=1))
        events = await stream(
            served.http,
            CHAT,
            make_body("Hi", flavour.alias, stream_options={"include_usage": True}),
        )
    message = answer["choices"][0]["message"]
    assert message["content"] == "Hello there"
    assert answer["usage"]["total_tokens"] == USAGE["total_tokens"]
    assert answer["model"] == flavour.alias
    if flavour.key:
        assert message["reasoning_content"] == "A greeting."
    deltas = [one["choices"][0]["delta"] for one in events[:-1] if one["choices"]]
    texts = [delta.get("content") or "" for delta in deltas]
    assert "".join(texts) == "Hello there"
    assert [one.json["model"] for one in flavour.calls] == [flavour.name] * 2
    assert flavour.calls[0].json["seed"] == 1
    assert {request.path for request in server.requests} == {"/v1/models", CHAT}


@pytest.mark.parametrize(
    ("streamed", "events"),
    [(True, 0), (True, 3), (False, 3)],
    ids=["p2_before_the_first_byte", "p3_in_the_stream", "p1_without_a_stream"],
)
async def test_a_client_that_leaves_ends_the_call_there(
    server: FakeOpenAIServer, tmp_path: Path, events: int, *, streamed: bool
) -> None:
    flavour = server.flavour
    flavour.events_before_hang = events
    async with serve(tmp_path, server) as served:
        received = asyncio.Event()

        async def call() -> None:
            body = make_body("Hi", flavour.alias, stream=streamed)
            async with served.http.post(CHAT, json=body) as response:
                await response.content.readany()
                received.set()
                await asyncio.Event().wait()

        leaving = asyncio.ensure_future(call())
        await served.wait_until(lambda: bool(flavour.calls))
        if streamed and events:
            await asyncio.wait_for(received.wait(), 60)
        [exchange] = served.gateway.context.running
        leaving.cancel()
        await server.wait_closed(flavour.calls[0].connection)
        await served.wait_until(lambda: not served.gateway.context.running)
        assert exchange.outcome == "client_closed"
        assert len(flavour.calls) == 1


async def test_tools_are_called_or_described(server: FakeOpenAIServer, tmp_path: Path) -> None:
    flavour = server.flavour
    async with serve(tmp_path, server) as served:
        body = make_body("What is 1+1?", flavour.alias, tools=TOOLS)
        answer = await post(served.http, CHAT, body)
    first, *others = flavour.calls
    assert first.json["tools"][0]["function"]["name"] == "calculate"
    if flavour.error_with_tools is None:
        [made] = answer["choices"][0]["message"]["tool_calls"]
        assert made["function"] == {"name": "calculate", "arguments": '{"expression": "1+1"}'}
        assert answer["choices"][0]["finish_reason"] == "tool_calls"
        return
    [second] = others
    assert "tools" not in second.json
    assert "calculate" in second.json["messages"][0]["content"]


async def test_formats_and_embeddings(server: FakeOpenAIServer, tmp_path: Path) -> None:
    flavour = server.flavour
    flavour.stream = flavour.stream.replace(b'"Hello"', b'"\\"Hello"').replace(
        b'" there"', b'" there\\""'
    )
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string"}}}
    async with serve(tmp_path, server) as served:
        if "tool_calls" not in flavour.stream.decode():
            body = make_body("Hi", flavour.alias, response_format=form)
            answer = await post(served.http, CHAT, body)
            assert answer["choices"][0]["message"]["content"] == '"Hello there"'
            sent = flavour.calls[0].json
            assert sent["response_format"]["json_schema"]["schema"] == {"type": "string"}
            assert "schema" in sent["messages"][0]["content"].lower()
        body = {"model": flavour.alias, "input": ["a", "b"]}
        embedded = await post(served.http, "/v1/embeddings", body)
    assert [one["embedding"] for one in embedded["data"]] == [[0.5, 0.25]] * 2
    assert server.requests[-1].json["model"] == flavour.name


def make_error(code: object, message: str, kind: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


AUDIO = "/v1/audio/transcriptions"
RECORDING = make_recording(6)


async def transcribe(http: aiohttp.ClientSession, model: str, **fields: str) -> tuple[int, Any]:
    form = aiohttp.FormData()
    for name, value in {"model": model, **fields}.items():
        form.add_field(name, value)
    form.add_field("file", RECORDING, filename="../speech.wav")
    async with http.post(AUDIO, data=form) as response:
        if response.content_type == "text/event-stream":
            return response.status, parse_events(await response.text())
        return response.status, await response.json()


def parse_form(request: Received) -> dict[str, bytes]:
    """Return the parts of a form by name."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + request.body)
    parts = cast("list[Message]", message.get_payload())
    return {
        str(part.get_param("name", header="Content-Disposition")): cast(
            "bytes", part.get_payload(decode=True)
        )
        for part in parts
    }


async def test_a_recording_is_passed_on_as_it_is(server: FakeOpenAIServer, tmp_path: Path) -> None:
    """Without a wish for a stream: those servers that stream send events of other shapes."""
    flavour = server.flavour
    usage = {"type": "duration", "seconds": 6}
    flavour.transcription = 200, json.dumps({"text": " Hello there.", "usage": usage}).encode()
    options = {"language": "de", "prompt": "Names: Ada", "temperature": "0.5"}
    async with serve(tmp_path, server) as served:
        status, answer = await transcribe(served.http, flavour.alias, **options)
        _, events = await transcribe(served.http, flavour.alias, stream="true")
    assert (status, answer["text"], answer["usage"]) == (200, " Hello there.", usage)
    assert [event["text"] for event in events[-2:-1]] == [" Hello there."]
    first, second = (parse_form(one) for one in server.requests if one.path == AUDIO)
    file = first.pop("file")
    assert file == second["file"] == RECORDING
    assert first == {
        "model": flavour.name.encode(),
        "response_format": b"json",
        **{name: value.encode() for name, value in options.items()},
    }


# Answers to a recording, and those of the gateway.
TRANSCRIPTION_FAILURES: dict[str, tuple[tuple[int, bytes] | None, tuple[int, str]]] = {
    "no route": (None, (400, "unsupported_feature")),
    "another format": (
        (400, json.dumps(make_error(400, "Invalid or unsupported audio file.", "x")).encode()),
        (400, "invalid_value"),
    ),
    "too large": (
        (413, json.dumps(make_error(413, "Maximum file size exceeded", "x")).encode()),
        (400, "invalid_value"),
    ),
    "a failure": ((500, b"Internal Server Error"), (503, "upstream_unavailable")),
    "no JSON": ((200, b"Hello"), (503, "upstream_unavailable")),
    "a wrong key": ((401, b'{"error":"Unauthorized"}'), (503, "upstream_unavailable")),
}


@pytest.mark.parametrize("name", TRANSCRIPTION_FAILURES)
async def test_failures_of_transcriptions(name: str, tmp_path: Path) -> None:
    flavour = FLAVOURS["vLLM"]()
    flavour.transcription, expected = TRANSCRIPTION_FAILURES[name]
    async with FakeOpenAIServer(flavour) as server, serve(tmp_path, server) as served:
        status, answer = await transcribe(served.http, flavour.alias)
        assert (status, answer["error"]["code"]) == expected
        assert server.base_url not in answer["error"]["message"]


async def test_a_recording_that_is_too_large_is_not_passed_on(tmp_path: Path) -> None:
    flavour = FLAVOURS["vLLM"]()
    config = {"max_upload_bytes": len(RECORDING) - 1}
    async with FakeOpenAIServer(flavour) as server, serve(tmp_path, server, config) as served:
        status, answer = await transcribe(served.http, flavour.alias)
        assert (status, answer["error"]["code"]) == (413, "payload_too_large")
        assert AUDIO not in {request.path for request in server.requests}


async def test_llama_cpp_pythons_server(tmp_path: Path) -> None:
    """It counts no tokens of a stream, so they are estimated; it knows no schemas."""
    flavour = make_llama_cpp_python()
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string"}}}
    async with FakeOpenAIServer(flavour) as server, serve(tmp_path, server) as served:
        answer = await post(served.http, CHAT, make_body("Hi", "tiny"))
        assert answer["choices"][0]["message"]["content"] == "Hello there"
        await stream(served.http, CHAT, make_body("Hi", "tiny"))
        async with served.http.get("/metrics") as response:
            lines = (await response.text()).splitlines()
        tokens = [line for line in lines if line.startswith("foundry_gateway_tokens_total")]
        counts = [float(line.rpartition(" ")[2]) for line in tokens]
        assert len(counts) == 2, tokens
        assert min(counts) >= 4
        flavour.stream = flavour.stream.replace(b'"Hello"', b'"\\"Hello"').replace(
            b'" there"', b'" there\\""'
        )
        body = make_body("Hi", "tiny", response_format=form)
        answer = await post(served.http, CHAT, body)
        assert answer["choices"][0]["message"]["content"] == '"Hello there"'
    with_format, without = flavour.calls[-2:]
    assert "response_format" in with_format.json
    assert "response_format" not in without.json
    assert without.json["messages"] == with_format.json["messages"]


# Statuses and bodies of refusals, and what the gateway answers. In vLLM's context there is room
# for 7 tokens.
REFUSALS: dict[str, tuple[int, dict[str, Any], tuple[int, str]]] = {
    "llama.cpp loads": (
        503,
        {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
        (503, "upstream_overloaded"),
    ),
    "llama.cpp context": (
        400,
        make_error(
            400,
            "request (4390 tokens) exceeds the available context size (4096 tokens), try "
            "increasing it",
            "exceed_context_size_error",
        ),
        (400, "context_length_exceeded"),
    ),
    "vLLM context": (
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 100 tokens. However, you requested "
            "1093 tokens (93 in the messages, 1000 in the completion). Please reduce the length of "
            "the messages or completion.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        (400, "context_length_exceeded"),
    ),
    "vLLM model": (
        404,
        make_error(404, "The model `x` does not exist.", "NotFoundError"),
        (404, "model_not_found"),
    ),
    "Ollama model": (
        404,
        make_error(None, 'model "x" not found, try pulling it first', "api_error"),
        (404, "model_not_found"),
    ),
    "LM Studio model": (
        404,
        make_error("model_not_found", 'Model "x" not found.', "invalid_request_error"),
        (404, "model_not_found"),
    ),
    "llama-cpp-python's checks": (
        500,
        make_error(
            None,
            "[{'type': 'int_parsing', 'loc': ('body', 'seed'), 'msg': 'Input should be a valid "
            "integer', 'input': 'x'}]",
            "internal_server_error",
        ),
        (400, "invalid_value"),
    ),
    "a wrong key": (401, {"error": "Unauthorized"}, (503, "upstream_unavailable")),
    "a failure": (
        500,
        make_error(500, "EngineCore encountered an issue.", "InternalServerError"),
        (503, "upstream_unavailable"),
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_refusals_become_the_errors_of_openai(name: str, tmp_path: Path) -> None:
    status, body, expected = REFUSALS[name]
    flavour: Flavour = FLAVOURS["Ollama"]()
    flavour.error = status, json.dumps(body).encode()
    async with FakeOpenAIServer(flavour) as server, serve(tmp_path, server) as served:
        result = await call(served.http, make_body("Hi", "gemma3", max_tokens=1000))
        assert result == expected
    if name == "vLLM context":
        assert [one.json["max_tokens"] for one in flavour.calls] == [1000, 7]


async def test_a_server_without_models_is_up(tmp_path: Path) -> None:
    flavour = FLAVOURS["Ollama"]()
    flavour.models = b'{"object":"list","data":null}'
    async with FakeOpenAIServer(flavour) as server, serve(tmp_path, server) as served:
        assert get_service(served, "other").problem == ""
        assert await call(served.http, make_body("Hi", "gemma3")) == (404, "model_not_found")


async def test_what_is_no_such_server_is_down(tmp_path: Path) -> None:
    flavour = FLAVOURS["Ollama"]()
    flavour.models = b"<html>"
    async with FakeOpenAIServer(flavour) as server, serve(tmp_path, server) as served:
        assert "is not a server of OpenAI's API" in get_service(served, "other").problem
        async with served.http.get("/readyz") as response:
            assert response.status == 503
