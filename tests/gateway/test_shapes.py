"""Every shape and rule of `openai-shapes.json`, on every route of OpenAI's that can produce it."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import pytest
from openai import APIError, APIStatusError, AsyncOpenAI

from foundry_api.gateway.keys.types import Limit, NewKey
from foundry_api.gateway.routes import ROUTES
from foundry_api.testing import FakeService, Reply
from gateway import shapes
from gateway.fake_openai_server import (
    FakeOpenAIServer,
    encode_events,
    make_chunk,
    make_flavour,
)
from gateway.helpers import CALCULATE, make_recording
from gateway.serving import make_body, serve
from gateway.several import serve_upstreams
from gateway.shapes import check_choice_stream, check_response_stream, check_shape, parse_events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from foundry_api.gateway.gateway import Gateway

PREFIX = "/v1"
CHAT, TEXT, RESPONSES = "/chat/completions", "/completions", "/responses"
EMBEDDINGS, AUDIO, FILES, BATCHES = "/embeddings", "/audio/transcriptions", "/files", "/batches"
TOOL = {"name": "calculate", "parameters": CALCULATE}
CHAT_TOOL = {"type": "function", "function": TOOL}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
USAGE = {"stream_options": {"include_usage": True}}

MESSAGE_SHAPES = {"chat.completion", "chat_choice", "chat_message", "finish_reason", "usage"}
CHUNK_SHAPES = {"chat.completion.chunk", "chat_delta", "finish_reason"}
RESPONSE_SHAPES = {
    "response",
    "response.usage",
    "output_item",
    "item.message",
    "item.function_call",
    "item.reasoning",
    "output_text",
}
EVENTS = {
    f"event.response.{name}"
    for name in (
        "created",
        "in_progress",
        "completed",
        "incomplete",
        "output_item.added",
        "output_item.done",
        "content_part.added",
        "content_part.done",
        "output_text.delta",
        "output_text.done",
        "reasoning_text.delta",
        "reasoning_text.done",
        "function_call_arguments.delta",
        "function_call_arguments.done",
    )
}
# The shapes that the answers and the events of a route have. Refusals come from other servers; the
# engine has none, so that they have a test of their own below.
PRODUCED: dict[tuple[str, str], set[str]] = {
    ("POST", CHAT): {*MESSAGE_SHAPES, *CHUNK_SHAPES, "tool_call", "tool_call_delta", "error"},
    ("POST", TEXT): {"text_completion", "usage", "error"},
    ("POST", EMBEDDINGS): {"embeddings.float", "embeddings.base64", "error"},
    ("POST", AUDIO): {"transcription", "transcription.verbose", "error"},
    ("POST", RESPONSES): {*RESPONSE_SHAPES, *EVENTS, "event.error", "error"},
    ("POST", f"{RESPONSES}/input_tokens"): {"error"},
    ("GET", RESPONSES): {"response.items", *RESPONSE_SHAPES, "error"},
    ("GET", f"{RESPONSES}/{{id}}"): {*RESPONSE_SHAPES, "error"},
    ("DELETE", f"{RESPONSES}/{{id}}"): {"deleted", "error"},
    ("POST", f"{RESPONSES}/{{id}}/cancel"): {"response", "error"},
    ("GET", f"{RESPONSES}/{{id}}/input_items"): {"response.items", "error"},
    ("POST", FILES): {"file", "error"},
    ("GET", FILES): {"file.list", "file", "error"},
    ("GET", f"{FILES}/{{id}}"): {"file", "error"},
    ("DELETE", f"{FILES}/{{id}}"): {"deleted", "error"},
    ("GET", f"{FILES}/{{id}}/content"): {"batch.output_line", "error"},
    ("POST", BATCHES): {"batch", "error"},
    ("GET", BATCHES): {"batch.list", "batch", "error"},
    ("GET", f"{BATCHES}/{{id}}"): {"batch", "error"},
    ("POST", f"{BATCHES}/{{id}}/cancel"): {"batch", "error"},
    ("GET", "/models"): {"model.list", "model", "error"},
    ("GET", "/models/{id}"): {"model", "error"},
}
OF_OTHER_SERVERS = {"refusal", "event.response.refusal.delta", "event.response.refusal.done"}
# The shape of what clients send, by which the lines of the batch below are checked.
OF_REQUESTS = {"batch.input_line"}
NEVER_PRODUCED = {
    "logprobs": "log probabilities are refused",
    "token_logprob": "log probabilities are refused",
    "model.deleted": "models are deleted at /api/models",
    "event.response.queued": "a response in the background is not streamed",
    "event.response.failed": "a failure in a stream is an event of type error",
}


def test_every_shape_has_its_routes() -> None:
    produced = set[str]().union(*PRODUCED.values())
    named = produced | OF_OTHER_SERVERS | OF_REQUESTS | NEVER_PRODUCED.keys()
    assert named == shapes.read_shapes()["$defs"].keys()
    assert not produced & NEVER_PRODUCED.keys()


def test_every_route_has_its_shapes() -> None:
    handlers = {
        (route.method, route.path.removeprefix(PREFIX)): route.handler
        for route in ROUTES
        if route.path.startswith(f"{PREFIX}/") and "/messages" not in route.path
    }
    assert (
        PRODUCED.keys() == handlers.keys() == {one for routes in CASES.values() for one in routes}
    )
    # Azure's prefixes lead to the same handlers.
    for route in ROUTES:
        if route.path.startswith("/openai/"):
            path = re.sub("^/openai/(v1|deployments/{id})", "", route.path)
            assert handlers[route.method, path] == route.handler


class Wire:
    """Sends requests, and notes the shapes of what comes back.

    Attributes:
        seen: The shapes of each method and route.
    """

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self.http = http
        self.seen: dict[tuple[str, str], set[str]] = {}
        self._ids: set[str] = set()

    async def call(
        self, method: str, path: str, shape: str | None, *, name: str = "", **options: Any
    ) -> Any:
        """Make a call; check its answer and, as that of another page, its refusal."""
        route = self.seen.setdefault((method, path), set())
        target = PREFIX + path.replace("{id}", name)
        shapes.SEEN.clear()
        async with self.http.request(
            method, target, headers={"Origin": "https://evil.example"}
        ) as response:
            assert response.status == 403
            check_shape("error", await response.json())
        async with self.http.request(method, target, **options) as response:
            text = await response.text()
            assert response.status == (400 if shape == "error" else 200), text
            self._check_id(response)
            if shape is not None:
                check_shape(shape, json.loads(text))
        route |= shapes.SEEN
        return json.loads(text) if shape is not None else text

    async def stream(self, path: str, **body: Any) -> str:
        """Return the text of a stream; whoever calls this checks it."""
        async with self.http.post(PREFIX + path, json={**body, "stream": True}) as response:
            assert response.status == 200, await response.text()
            self._check_id(response)
            return await response.text()

    async def stream_choices(self, path: str, shape: str, **body: Any) -> list[Any]:
        shapes.SEEN.clear()
        events = parse_events(await self.stream(path, **body))
        check_choice_stream(
            events,
            shape,
            choices=body.get("n", 1),
            includes_usage="stream_options" in body,
        )
        self.seen["POST", path] |= shapes.SEEN
        return events

    async def stream_response(self, **body: Any) -> list[Any]:
        shapes.SEEN.clear()
        events = check_response_stream(await self.stream(RESPONSES, **body))
        self.seen["POST", RESPONSES] |= shapes.SEEN
        return events

    def _check_id(self, response: aiohttp.ClientResponse) -> None:
        identifier = response.headers["x-request-id"]
        assert identifier.startswith("req_")
        assert identifier not in self._ids
        self._ids.add(identifier)


@pytest.fixture
def wire(http: aiohttp.ClientSession) -> Wire:
    return Wire(http)


async def complete_chats(wire: Wire) -> None:
    body = make_body("say-hello")
    answer = await wire.call("POST", CHAT, "chat.completion", json={**body, "n": 3})
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    await wire.call("POST", CHAT, "error", json={**body, "temperature": "hot"})
    tools = make_body("call-two-tools", tools=[CHAT_TOOL, CLOCK])
    [choice] = (await wire.call("POST", CHAT, "chat.completion", json=tools))["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    # Text before a call is kept; without it, content is null and not empty.
    tools = make_body("call-after-words", tools=[CHAT_TOOL, CLOCK])
    [choice] = (await wire.call("POST", CHAT, "chat.completion", json=tools))["choices"]
    assert choice["message"]["content"].startswith("Let me see.")
    tools = [CHAT_TOOL, CLOCK]
    for prompt, more in (
        ("say-hello", {}),
        ("say-hello", USAGE),
        ("say-hello", {"n": 2, **USAGE}),
        ("say-long", {"max_tokens": 3}),
        ("reason-aloud", {"n": 2}),
        ("call-two-tools", {"n": 2, "tools": tools}),
        ("call-after-words", {"tools": tools, **USAGE}),
    ):
        await wire.stream_choices(CHAT, "chat.completion.chunk", **make_body(prompt, **more))


async def complete_texts(wire: Wire) -> None:
    body = {"model": "scripted", "prompt": ["say-hello", "say-stop"], "n": 2}
    answer = await wire.call("POST", TEXT, "text_completion", json=body)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    await wire.call("POST", TEXT, "error", json={**body, "suffix": "x"})
    for more in ({}, USAGE, {"n": 3}, {"echo": True}):
        body = {"model": "scripted", "prompt": "say-hello", **more}
        await wire.stream_choices(TEXT, "text_completion", **body)


async def embed_and_transcribe(wire: Wire) -> None:
    body = {"model": "embedder", "input": ["a", "b"]}
    await wire.call("POST", EMBEDDINGS, "embeddings.float", json=body)
    body["encoding_format"] = "base64"
    await wire.call("POST", EMBEDDINGS, "embeddings.base64", json=body)
    await wire.call("POST", EMBEDDINGS, "error", json={**body, "dimensions": 3})
    for form, shape in (("json", "transcription"), ("verbose_json", "transcription.verbose")):
        data = make_form(make_recording(), model="transcriber", response_format=form)
        await wire.call("POST", AUDIO, shape, data=data)
    data = make_form(make_recording(), model="transcriber", response_format="srt")
    await wire.call("POST", AUDIO, "error", data=data)


def make_form(content: bytes, **fields: str) -> aiohttp.FormData:
    form = aiohttp.FormData(fields)
    form.add_field("file", content, filename="x")
    return form


PROMPTS = ("say-hello", "reason-aloud", "call-calculator")


async def respond(wire: Wire) -> None:
    tools = [{"type": "function", **TOOL}]
    for prompt in PROMPTS:
        body: dict[str, Any] = {"model": "scripted", "input": prompt}
        if prompt.startswith("call"):
            body["tools"] = tools
        answer = await wire.call("POST", RESPONSES, "response", json=body)
        await wire.call("GET", f"{RESPONSES}/{{id}}", "response", name=answer["id"])
        assert (await wire.stream_response(**body))[-1]["type"] == "response.completed"
    cut = {"model": "scripted", "input": "say-long", "max_output_tokens": 4}
    assert (await wire.call("POST", RESPONSES, "response", json=cut))["status"] == "incomplete"
    assert (await wire.stream_response(**cut))[-1]["type"] == "response.incomplete"
    await wire.call("POST", RESPONSES, "error", json={**cut, "input": ""})
    counted = f"{RESPONSES}/input_tokens"
    await wire.call("POST", counted, None, json={"model": "scripted", "input": "x"})
    listed = await wire.call("GET", RESPONSES, "response.items")
    for one in listed["data"]:
        check_shape("response", one)
    wire.seen["GET", RESPONSES] |= shapes.SEEN
    first = listed["data"][0]["id"]
    await wire.call("GET", f"{RESPONSES}/{{id}}/input_items", "response.items", name=first)
    deleted = await wire.call("DELETE", f"{RESPONSES}/{{id}}", "deleted", name=first)
    assert deleted == {"id": first, "object": "response", "deleted": True}
    forever = {"model": "scripted", "input": "say-slowly", "background": True}
    running = await wire.call("POST", RESPONSES, "response", json=forever)
    assert running["status"] == "queued"
    await wire.call("POST", f"{RESPONSES}/{{id}}/cancel", "response", name=running["id"])
    shapes.SEEN.clear()
    late = {"model": "scripted", "input": "say-slowly", "stream": True}
    async with wire.http.post(
        PREFIX + RESPONSES, json=late, headers={"X-Request-Timeout": "1"}
    ) as response:
        events = check_response_stream(await response.text())
    assert events[-1]["type"] == "error"
    wire.seen["POST", RESPONSES] |= shapes.SEEN


async def run_batches(wire: Wire) -> None:
    lines = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": make_body("say-hello", model),
        }
        for number, model in enumerate(("scripted", "no-such-model"))
    ]
    for line in lines:
        check_shape("batch.input_line", line)
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = await wire.call("POST", FILES, "file", data=make_form(content, purpose="batch"))
    await wire.call("GET", FILES, "file.list")
    await wire.call("GET", f"{FILES}/{{id}}", "file", name=file["id"])
    body = {
        "input_file_id": file["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    batch = await wire.call("POST", BATCHES, "batch", json=body)
    async with asyncio.timeout(60):
        while batch["status"] != "completed":
            batch = await wire.call("GET", f"{BATCHES}/{{id}}", "batch", name=batch["id"])
    await wire.call("GET", BATCHES, "batch.list")
    for name in ("output_file_id", "error_file_id"):
        text = await wire.call("GET", f"{FILES}/{{id}}/content", None, name=batch[name])
        [line] = [json.loads(line) for line in text.splitlines()]
        check_shape("batch.output_line", line)
        shape = "error" if name == "error_file_id" else "chat.completion"
        check_shape(shape, line["response"]["body"])
        wire.seen["GET", f"{FILES}/{{id}}/content"] |= {"batch.output_line"}
    results = batch["output_file_id"]
    batch = await wire.call("POST", BATCHES, "batch", json=body)
    await wire.call("POST", f"{BATCHES}/{{id}}/cancel", "batch", name=batch["id"])
    await wire.call("DELETE", f"{FILES}/{{id}}", "deleted", name=results)


async def list_models(wire: Wire) -> None:
    models = await wire.call("GET", "/models", "model.list")
    for model in models["data"]:
        name = model["id"].replace(":", "%3A")
        assert await wire.call("GET", "/models/{id}", "model", name=name) == model


# What sends requests, and the routes that it reaches with all of their shapes.
CASES: dict[Callable[[Wire], Awaitable[None]], list[tuple[str, str]]] = {
    complete_chats: [("POST", CHAT)],
    complete_texts: [("POST", TEXT)],
    embed_and_transcribe: [("POST", EMBEDDINGS), ("POST", AUDIO)],
    respond: [route for route in PRODUCED if route[1].startswith(RESPONSES)],
    run_batches: [route for route in PRODUCED if route[1].startswith((FILES, BATCHES))],
    list_models: [route for route in PRODUCED if route[1].startswith("/models")],
}


@pytest.mark.parametrize("send", CASES, ids=lambda send: send.__name__)
async def test_every_shape_on_every_route(
    wire: Wire, send: Callable[[Wire], Awaitable[None]]
) -> None:
    await send(wire)
    missing = {route: PRODUCED[route] - wire.seen.get(route, set()) for route in CASES[send]}
    assert {route: names for route, names in missing.items() if names} == {}


async def test_a_refusal_has_its_shapes(tmp_path: Path) -> None:
    flavour = make_flavour("refuser")
    flavour.stream = encode_events(
        make_chunk({"role": "assistant", "content": "", "refusal": "I "}),
        make_chunk({"refusal": "refuse."}),
        make_chunk({}, "stop"),
    )
    async with FakeOpenAIServer(flavour) as server:
        table = {"name": "other", "kind": "openai", "url": f"{server.base_url}/v1"}
        async with serve_upstreams(tmp_path, table, client={"max_retries": 0}) as served:
            wire = Wire(served.http)
            body = make_body("Hi", "refuser")
            answer = await wire.call("POST", CHAT, "chat.completion", json=body)
            assert answer["choices"][0]["message"]["refusal"] == "I refuse."
            events = await wire.stream_choices(CHAT, "chat.completion.chunk", **body)
            deltas = [one["choices"][0]["delta"] for one in events[:-1]]
            assert "".join(delta.get("refusal", "") for delta in deltas) == "I refuse."
            body = {"model": "refuser", "input": "Hi"}
            await wire.call("POST", RESPONSES, "response", json=body)
            assert "refusal" in wire.seen["POST", RESPONSES]
            await wire.stream_response(**body)
            assert wire.seen["POST", RESPONSES] >= OF_OTHER_SERVERS


@pytest.fixture
async def sdk(gateway: Gateway) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def test_the_sdk_raises_an_error_in_each_kind_of_stream(sdk: AsyncOpenAI) -> None:
    late = {"X-Request-Timeout": "1"}
    chat = await sdk.chat.completions.create(
        model="scripted",
        messages=[{"role": "user", "content": "say-slowly"}],
        stream=True,
        extra_headers=late,
    )
    async with chat:
        with pytest.raises(APIError):
            [chunk async for chunk in chat]
    text = await sdk.completions.create(
        model="scripted", prompt="say-slowly", max_tokens=2000, stream=True, extra_headers=late
    )
    async with text:
        with pytest.raises(APIError):
            [chunk async for chunk in text]
    response = await sdk.responses.create(
        model="scripted", input="say-slowly", stream=True, extra_headers=late
    )
    async with response:
        events = [event async for event in response]
    assert events[-1].type == "error"


async def test_the_sdk_shows_the_id_of_each_answer(sdk: AsyncOpenAI) -> None:
    embeddings = await sdk.embeddings.create(model="embedder", input="a")  # asks for base64
    assert isinstance(embeddings.data[0].embedding[0], float)
    response = await sdk.responses.create(model="scripted", input="say-hello")
    models = await sdk.models.list()
    assert all(one._request_id for one in (embeddings, response, models))
    assert await sdk.responses.delete(response.id) is None  # type: ignore[func-returns-value]
    with pytest.raises(APIStatusError) as caught:
        await sdk.models.retrieve("no/such:1")
    assert (caught.value.status_code, caught.value.code) == (404, "model_not_found")
    assert caught.value.request_id


class Refusal(NamedTuple):
    """How a key comes to be refused."""

    limits: dict[str, Any]
    status: int
    code: str


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal({"rate": Limit(1, "h")}, 429, "rate_limit_exceeded"),
        Refusal({"tokens": (Limit(20, "d"),)}, 429, "insufficient_quota"),
    ],
    ids=lambda refusal: refusal.code,
)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, make_body("say-hello", "fake", max_tokens=10)),
        (TEXT, {"model": "fake", "prompt": "say-hello", "max_tokens": 10}),
        (RESPONSES, {"model": "fake", "input": "say-hello", "max_output_tokens": 10}),
    ],
)
async def test_a_refused_call_says_when_it_may_come_again(
    tmp_path: Path, refusal: Refusal, path: str, body: dict[str, Any]
) -> None:
    async with (
        FakeService(Reply("word " * 12)) as upstream,
        serve(tmp_path, upstream.base_url, NewKey(name="a", **refusal.limits)) as served,
    ):
        statuses: list[int] = []
        for _ in range(3):
            async with served.http.post(f"/v1{path}", json=body) as response:
                answer = await response.json()
                statuses.append(response.status)
        assert statuses[0] == 200
        assert statuses[-1] == refusal.status
        check_shape("error", answer)
        assert answer["error"]["code"] == refusal.code
        assert int(response.headers["Retry-After"]) > 0
        assert int(response.headers["retry-after-ms"]) > 0
        retries = response.headers.get("x-should-retry")
        assert retries == ("false" if refusal.code == "insufficient_quota" else None)


# An address may fail twenty times in a minute.
@pytest.mark.parametrize("routes", [[*PRODUCED][:15], [*PRODUCED][15:]], ids=["first", "last"])
async def test_a_wrong_key_has_its_code_on_every_route(
    tmp_path: Path, routes: list[tuple[str, str]]
) -> None:
    async with (
        FakeService() as upstream,
        serve(tmp_path, upstream.base_url, NewKey(name="a")) as served,
    ):
        for method, path in routes:
            target = f"{PREFIX}{path}".replace("{id}", "x")
            headers = {"Authorization": "Bearer no"}
            async with served.http.request(method, target, headers=headers) as response:
                answer = await response.json()
            check_shape("error", answer)
            assert (response.status, answer["error"]["code"]) == (401, "invalid_api_key")
