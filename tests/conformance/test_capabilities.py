"""`CAPABILITIES` is compared with what the real services do.

A service is called directly first: what it does itself is `native`. What only works through this
client is `corrected`, and the rest is `unsupported`.
"""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from conformance.services import EMBEDDER, MEASURED, OTHER, SEER
from conformance.table import PAGE, ROWS, make_page
from foundry_api.types import errors
from foundry_api.types.capabilities import CAPABILITIES, Capabilities, Support
from foundry_api.wire.sse import EventDecoder
from support.loopback_catalog import ALIAS
from support.scripted_model import completion_tokens, script
from support.scripted_model.embeddings import embedding
from support.scripted_model.vision import LIGHT, make_png

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from conformance.conftest import RawClient
    from conformance.services import Service
    from foundry_api import FoundryAPIClient
    from foundry_api.wire.transport import BufferedResponse, Request, Response

    Measure = Callable[["Subject"], Awaitable[Support]]

pytestmark = [
    pytest.mark.usefixtures("settled"),
    pytest.mark.parametrize("service", MEASURED, indirect=True),  # a fake proves nothing
]

OVERFLOW = 9000
DOT = "data:image/png;base64," + base64.b64encode(make_png(level=255)).decode()
NUMBER = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
YES_OR_NO = {"type": "lark_grammar", "lark_grammar": 'start: "yes" | "no"'}


class Subject:
    """A service, and both direct and client access to it."""

    def __init__(self, service: Service, raw: RawClient, client: FoundryAPIClient) -> None:
        self.service = service
        self.raw = raw
        self.client = client

    async def events(self, prompt: str, **members: Any) -> list[dict[str, Any]]:
        """Return the events of a stream as the service sends them."""
        reply = await self.raw.chat(prompt, stream=True, **members)
        data = [event.data for event in EventDecoder().feed(reply.body)]
        return [msgspec.json.decode(each) for each in data if each != b"[DONE]"]

    async def has_route(self, path: str, **members: Any) -> Support:
        """Return whether a route exists: its handler refuses an unknown model in JSON."""
        reply = await self.raw.send("POST", path, model="nobody", **members)
        return "native" if reply.body.startswith(b"{") else "unsupported"


@pytest.fixture
def subject(service: Service, raw: RawClient, client: FoundryAPIClient) -> Subject:
    return Subject(service, raw, client)


def judged(*, by_itself: bool, with_ours: bool) -> Support:
    if by_itself:
        return "native"
    return "corrected" if with_ours else "unsupported"


async def chat(subject: Subject) -> Support:
    choice = await subject.raw.choice("say-hello")
    return judged(by_itself=choice["message"]["content"] == "Hello, world!", with_ours=False)


async def stop(subject: Subject) -> Support:
    choice = await subject.raw.choice("say-stop", stop=["STOP"])
    ours = await subject.client.complete("say-stop", stop="STOP")
    return judged(
        by_itself=choice["message"]["content"] == "one two ",
        with_ours=ours.content == "one two ",
    )


async def finish_reason(subject: Subject) -> Support:
    """Checks both the requested and the default limit."""
    given = await subject.raw.choice("say-long", max_completion_tokens=5)
    own = await subject.raw.choice("say-forever")
    ours = await subject.client.complete("say-forever")
    return judged(
        by_itself=given["finish_reason"] == own["finish_reason"] == "length",
        with_ours=ours.finish_reason == "length",
    )


async def usage(subject: Subject) -> Support:
    events = await subject.events("say-hello", stream_options={"include_usage": True})
    counted = [each["usage"]["completion_tokens"] for each in events if each.get("usage")]
    expected = completion_tokens(script("say-hello").text)
    return judged(by_itself=counted[-1:] == [expected], with_ours=False)


async def stream_errors(subject: Subject) -> Support:
    prompt = "x" * OVERFLOW
    try:
        has_reason = bool((await subject.raw.chat(prompt, stream=True)).body)
    except errors.ServiceCrashed:  # the body broke off
        has_reason = False
    with pytest.raises(errors.ContextOverflow):
        await subject.client.complete(prompt)
    return judged(by_itself=has_reason, with_ours=True)


async def cancellation(subject: Subject) -> Support:
    """Return whether the engine still works half a second after its client left."""
    request = subject.raw.build_chat_request("say-slowly", stream=True, max_tokens=100)
    response = await subject.raw.transport.send(request)
    await response.read()
    response.close()
    await asyncio.sleep(0.5)
    before = subject.service.cpu_s()
    await asyncio.sleep(0.5)
    return judged(by_itself=subject.service.cpu_s() - before < 0.05, with_ours=False)


async def prompt_cancellation(subject: Subject) -> Support:
    """Return whether the engine still works much after its client left during the prompt."""
    request = subject.raw.build_chat_request("say-after-a-while", stream=True)
    began_at = subject.service.cpu_s()
    reading = asyncio.create_task(_send_and_read(subject, request))
    while subject.service.cpu_s() - began_at < 0.1:  # noqa: ASYNC110 - no event shows it
        await asyncio.sleep(0.01)
    reading.cancel()
    await asyncio.wait({reading})
    assert reading.cancelled()
    left_at = before = subject.service.cpu_s()
    await asyncio.sleep(0.5)
    while (now := subject.service.cpu_s()) - before > 0.01:
        before = now
        await asyncio.sleep(0.5)
    return judged(by_itself=before - left_at < 0.2, with_ours=False)


async def _send_and_read(subject: Subject, request: Request) -> None:
    response = await subject.raw.transport.send(request)
    try:
        while b"data:" not in await response.read():
            continue
    finally:
        response.close()


async def parallel_calls(subject: Subject) -> Support:
    """Return whether a short answer overtakes a long one that has begun."""
    request = subject.raw.build_chat_request("say-slowly", stream=True, max_tokens=100)
    response = await subject.raw.transport.send(request)
    await response.read()
    long = asyncio.ensure_future(_rest(response))
    await subject.raw.choice("say-hello")
    overtook = not long.done()
    await long
    return judged(by_itself=overtook, with_ours=False)


async def _rest(response: Response) -> None:
    while await response.read():
        continue
    response.close()


async def keep_alive(subject: Subject) -> Support:
    reply = await subject.raw.chat("say-after-a-while", stream=True)
    return judged(by_itself=reply.body.startswith(b": "), with_ours=False)


async def json_schema(subject: Subject) -> Support:
    """Uses the format of 2.1, and of a gateway that of OpenAI."""
    is_gateway = subject.service.service_generation == "gateway"
    schema = {"name": "number", "schema": NUMBER} if is_gateway else NUMBER
    response_format = {"type": "json_schema", "json_schema": schema}
    choice = await subject.raw.choice("say-hello", max_tokens=4, response_format=response_format)
    ours = await subject.client.complete("say-json", response_model={"required": ["born"]})
    return judged(
        by_itself=_is_object(choice["message"]["content"]), with_ours=ours.parsed["born"] == 1815
    )


def _is_object(text: str) -> bool:
    return text.lstrip().startswith("{")


async def choice(subject: Subject) -> Support:
    asked = await subject.raw.choice("say-stop", max_tokens=4, response_format=YES_OR_NO)
    ours = await subject.client.complete("say-hello", choice=["no", "Hello, world!"])
    return judged(
        by_itself=asked["message"]["content"] in {"yes", "no"},
        with_ours=ours.parsed in {"no", "Hello, world!"},
    )


async def grammar(subject: Subject) -> Support:
    asked = await subject.raw.choice("say-stop", max_tokens=4, response_format=YES_OR_NO)
    try:
        await subject.client.complete("say-hello", grammar=YES_OR_NO["lark_grammar"])
    except errors.UnsupportedFeature:
        return "unsupported"
    return judged(by_itself=asked["message"]["content"] in {"yes", "no"}, with_ours=False)


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "",
            "parameters": {"type": "object", "properties": {parameter: {"type": "string"}}},
        },
    }
    for name, parameter in (("calculate", "expression"), ("clock", "city"))
]


async def tools(subject: Subject) -> Support:
    """Return whether a stream has separate tool calls and the right finish reason."""
    asked: dict[str, Any] = {"tools": TOOLS, "temperature": 0, "max_tokens": 300}
    events = await subject.events("call-two-tools", **asked)
    choices = [each["choices"][0] for each in events if each["choices"]]
    content = "".join(each["delta"].get("content") or "" for each in choices)
    ends = [each["finish_reason"] for each in choices if each.get("finish_reason")]
    asked["tools"] = [each["function"] for each in TOOLS]
    ours = await subject.client.complete("call-two-tools", **asked)
    return judged(
        by_itself=(_called(choices), content, ends) == (["calculate", "clock"], "", ["tool_calls"]),
        with_ours=[call.function.name for call in ours.tool_calls] == ["calculate", "clock"],
    )


def _called(choices: list[dict[str, Any]]) -> list[str]:
    calls = [call for each in choices for call in each["delta"].get("tool_calls") or ()]
    return [call["function"]["name"] for call in calls]


async def tool_choice(subject: Subject) -> Support:
    choice = {"type": "function", "function": {"name": "calculate"}}
    asked: dict[str, Any] = {"tools": TOOLS, "temperature": 0, "max_tokens": 300}
    replies = [
        await subject.raw.choice("call-calculator", tool_choice=each, **asked)
        for each in ("required", choice)
    ]
    names = [call["function"]["name"] for each in replies for call in each["message"]["tool_calls"]]
    return judged(by_itself=names == ["calculate", "calculate"], with_ours=False)


async def tool_history(subject: Subject) -> Support:
    """Return whether the model sees a tool's result, which names the script to recite."""
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "say-hello"},
    ]
    choice = await subject.raw.choice("", messages=messages)
    ours = await subject.client.chat(messages)
    hello = script("say-hello").text
    return judged(by_itself=choice["message"]["content"] == hello, with_ours=ours.content == hello)


async def names(subject: Subject) -> Support:
    replies = [await subject.raw.chat("say-hello", model=each) for each in _names(subject)]
    ours = [await subject.client.complete("say-hello", model=each) for each in _names(subject)]
    return judged(
        by_itself=all(reply.status == 200 for reply in replies),
        with_ours=all(answer.model == subject.service.model for answer in ours),
    )


def _names(subject: Subject) -> tuple[str, ...]:
    model = subject.service.model
    return ALIAS, model, model.partition(":")[0], model.upper()


async def load(subject: Subject) -> Support:
    await subject.client.models.unload(ALIAS)
    await subject.client.models.load(ALIAS)
    loaded = [model.id for model in await subject.client.models.loaded()]
    return judged(by_itself=subject.service.model in loaded, with_ours=False)


async def unload(subject: Subject) -> Support:
    await subject.client.models.unload(ALIAS)
    # Other tests, which share the service, may have loaded another model.
    loaded = [model.id for model in await subject.client.models.loaded()]
    return judged(by_itself=subject.service.model not in loaded, with_ours=False)


async def parallel_loads(subject: Subject) -> Support:
    """Return whether two models can be loaded concurrently, several times."""
    for _ in range(3):
        await subject.client.models.unload(ALIAS)
        await subject.client.models.unload(OTHER)
        replies = await asyncio.gather(*(_load(subject, each) for each in (ALIAS, OTHER)))
        if any(reply.status != 200 for reply in replies):
            return "unsupported"
    return "native"


async def _load(subject: Subject, name: str) -> BufferedResponse:
    if subject.service.service_generation == "gateway":
        return await subject.raw.send("POST", "/models/load", model=name)
    return await subject.raw.send("GET", f"/models/load/{name}")


async def download(subject: Subject) -> Support:
    try:
        await subject.client.models.download(ALIAS)
    except errors.UnsupportedFeature:
        return "unsupported"
    return "native"


async def cached(subject: Subject) -> Support:
    """Return whether cached models are distinguished from those that are not cached."""
    await subject.client.models.unload(ALIAS)
    reply = await subject.raw.send("GET", "/v1/models")
    listed = reply.body
    return judged(by_itself=b"Far-away" not in listed, with_ours=False)


async def responses(subject: Subject) -> Support:
    """Return whether a truncated response is reported as incomplete."""
    asked = {"model": subject.service.model, "input": "say-long", "max_output_tokens": 5}
    reply = await subject.raw.send("POST", "/v1/responses", **asked)
    ours = await subject.client.responses.create("say-long", max_output_tokens=5)
    return judged(
        by_itself=msgspec.json.decode(reply.body)["status"] == "incomplete",
        with_ours=ours.status == "incomplete",
    )


async def chained_responses(subject: Subject) -> Support:
    asked = {"model": subject.service.model, "input": "Hi", "previous_response_id": "resp_none"}
    reply = await subject.raw.send("POST", "/v1/responses", **asked)
    with pytest.raises(errors.ResponseNotFound):
        await subject.client.responses.create("Hi", previous_response_id="resp_none")
    return judged(by_itself=reply.status in {400, 404}, with_ours=True)


async def embeddings(subject: Subject) -> Support:
    ours = await subject.client.embed("Hello", model=EMBEDDER)
    reply = await subject.raw.send("POST", "/v1/embeddings", model=ours.model, input="Hello")
    (made,) = msgspec.json.decode(reply.body)["data"]
    return judged(
        by_itself=made["embedding"] == embedding("Hello") == list(ours[0]), with_ours=True
    )


async def audio(subject: Subject) -> Support:
    return await subject.has_route("/v1/audio/transcriptions", filename="/nowhere.wav")


async def response_images(subject: Subject) -> Support:
    """1.2.4 also requires the media type of the image."""
    image = {"type": "input_image", "image_url": DOT, "media_type": "image/png"}
    messages = [{"type": "message", "role": "user", "content": [image]}]
    try:
        ours = await subject.client.responses.create(messages, model=SEER)
    except errors.UnsupportedFeature:
        return "unsupported"
    body = {"model": ours.model, "input": messages}
    reply = await subject.raw.send("POST", "/v1/responses", **body)
    (item,) = msgspec.json.decode(reply.body)["output"]
    seen = item["content"][0]["text"]
    return judged(by_itself=seen == LIGHT, with_ours=ours.output_text == LIGHT)


async def refuses_images(subject: Subject) -> Support:
    """Return whether an image is refused for a text model, instead of being ignored."""
    image = {"type": "input_image", "image_url": DOT, "media_type": "image/png"}
    parts = [{"type": "input_text", "text": "say-hello"}, image]
    messages = [{"type": "message", "role": "user", "content": parts}]
    reply = await subject.raw.send(
        "POST", "/v1/responses", model=subject.service.model, input=messages
    )
    with pytest.raises((errors.ModelTaskMismatch, errors.UnsupportedFeature)):
        await subject.client.responses.create(messages)
    return judged(by_itself=reply.status != 200, with_ours=True)


async def images(subject: Subject) -> Support:
    """Sends an image in a chat completion, which all services accept and none reads."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(errors.UnsupportedFeature):
        await subject.client.chat([{"role": "user", "content": [image]}])
    return "unsupported"


MEASURES: tuple[Measure, ...] = (
    chat, stop, finish_reason, usage, stream_errors, cancellation, prompt_cancellation,
    parallel_calls, keep_alive, json_schema, choice, grammar, tools, tool_choice, tool_history,
    names, load, unload, parallel_loads, download, cached, responses, chained_responses,
    embeddings, audio, images, response_images, refuses_images,
)  # fmt: skip

# They may kill the service: see test_unloading.py and test_embedding_a_chat_model.py.
MEASURED_ELSEWHERE = {"unload_while_generating", "embed_with_chat_model"}


@pytest.mark.parametrize("measure", MEASURES, ids=lambda each: each.__name__)
async def test_measured_capability_matches_the_table(subject: Subject, measure: Measure) -> None:
    capabilities = CAPABILITIES[subject.service.service_generation]
    assert await measure(subject) == getattr(capabilities, measure.__name__)


async def test_largest_seed(subject: Subject) -> None:
    largest = CAPABILITIES[subject.service.service_generation].max_seed
    reply = await subject.raw.chat("say-hello", seed=largest)
    assert reply.status == 200
    with pytest.raises(errors.InvalidRequest, match="seed"):
        await subject.client.complete("say-hello", seed=largest + 1)


async def test_client_reports_the_table(subject: Subject) -> None:
    assert await subject.client.capabilities() == CAPABILITIES[subject.service.service_generation]


def test_every_capability_is_measured_or_listed_as_not() -> None:
    levels = {name for name, kind in Capabilities.__annotations__.items() if kind == "Support"}
    assert {each.__name__ for each in MEASURES} | MEASURED_ELSEWHERE == levels


def test_documentation_has_this_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == make_page()
    assert ROWS.keys() == {
        name for name, kind in Capabilities.__annotations__.items() if kind == "Support"
    }
