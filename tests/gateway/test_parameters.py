"""Every documented parameter of OpenAI's and Anthropic's requests is honoured, refused, or listed
in docs/gateway-api.md as one without effect.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.audio import transcription_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from foundry_api.testing import FakeService, Reply, ToolCalls
from gateway.helpers import CALCULATE, make_recording
from gateway.serving import serve
from gateway.shapes import parse_events
from support.fakes.fake_legacy import FakeLegacyService
from support.loopback_catalog import ALIAS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from foundry_api.gateway.gateway import Gateway

DOCS = Path(__file__).parents[2] / "docs" / "gateway-api.md"
CHAT, TEXT, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RESPONSES, MESSAGES, AUDIO = "/v1/responses", "/v1/messages", "/v1/audio/transcriptions"

DOCUMENTED: dict[str, set[str]] = {
    CHAT: {*chat_create_params.CompletionCreateParamsStreaming.__annotations__},
    TEXT: {*completion_create_params.CompletionCreateParamsStreaming.__annotations__},
    EMBEDDINGS: {*embedding_create_params.EmbeddingCreateParams.__annotations__},
    RESPONSES: {*response_create_params.ResponseCreateParamsStreaming.__annotations__},
    AUDIO: {*transcription_create_params.TranscriptionCreateParamsStreaming.__annotations__},
    # Of version 2.14 of Anthropic's SDK with its beta, and of earlier ones.
    MESSAGES: {
        "billing_policy",
        "cache_control",
        "compaction",
        "container",
        "context_management",
        "diagnostics",
        "fallback_credit_token",
        "fallbacks",
        "inference_geo",
        "max_tokens",
        "mcp_servers",
        "messages",
        "metadata",
        "model",
        "output_config",
        "service_tier",
        "speed",
        "stop_sequences",
        "stream",
        "system",
        "temperature",
        "thinking",
        "thread",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
    },
}

MESSAGE = [{"role": "user", "content": "say-hello"}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": "scripted", "messages": MESSAGE},
    TEXT: {"model": "scripted", "prompt": "say-hello"},
    EMBEDDINGS: {"model": "embedder", "input": "a text"},
    RESPONSES: {"model": "scripted", "input": "say-hello"},
    MESSAGES: {"model": "scripted", "messages": MESSAGE, "max_tokens": 50},
    AUDIO: {"model": "transcriber"},
}
TOOL = {"name": "calculate", "parameters": CALCULATE}
CHAT_TOOL = {"type": "function", "function": TOOL}
RESPONSES_TOOL = {"type": "function", **TOOL}
MESSAGES_TOOL = {"name": "calculate", "input_schema": CALCULATE}
NAMED = {"type": "function", "function": {"name": "calculate"}}
NAMED_CLOCK = {"type": "function", "function": {"name": "clock"}}


def allow(tool: dict[str, Any], mode: str = "auto") -> dict[str, Any]:
    """Return OpenAI's choice of some tools."""
    allowed = {"mode": mode, "tools": [tool]}
    return {"type": "allowed_tools", "allowed_tools": allowed}


# What the gateway and the engine cannot do: changes of a body, of which the first one is refused.
REFUSED: dict[str, list[dict[str, Any]]] = {
    CHAT: [
        {"audio": {}},
        {"audio": {"voice": "alloy", "format": "wav"}},
        {"modalities": ["text", "audio"]},
        {"moderation": {}},
        {"prediction": {}},
        {"prediction": {"type": "content", "content": "x"}},
        {"web_search_options": {}},
        {"logit_bias": {"1": 2}},
        {"logprobs": True},
        {"top_logprobs": 2},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"stop": ""},
        {"stop": ["a", "b", "c", "d", "e"]},
        {"tools": [{"type": "custom", "custom": {"name": "x"}}]},
        {"functions": [TOOL], "tools": [CHAT_TOOL]},
        # A call that no tool can answer.
        {"tool_choice": "required"},
        {"tool_choice": "required", "tools": []},
        {"tool_choice": NAMED},
        {"tool_choice": allow(NAMED)},
        {"tool_choice": "bogus", "tools": [CHAT_TOOL]},
        {"tool_choice": NAMED_CLOCK, "tools": [CHAT_TOOL]},
        {"tool_choice": allow(NAMED_CLOCK), "tools": [CHAT_TOOL]},
        {"tool_choice": {"type": "custom", "custom": {"name": "x"}}},
        {"function_call": {"name": "calculate"}},
        {"function_call": {"name": "clock"}, "functions": [TOOL]},
    ],
    TEXT: [
        {"best_of": 2},
        {"suffix": "x"},
        {"logprobs": 0},
        {"logit_bias": {"1": 2}},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"stop": ""},
        {"prompt": [1, 2]},
    ],
    EMBEDDINGS: [{"dimensions": 8}, {"input": [1, 2]}],
    RESPONSES: [
        {"conversation": {}},
        {"conversation": "conv_1"},
        {"prompt": {}},
        {"prompt": {"id": "x"}},
        {"moderation": {}},
        {"top_logprobs": 2},
        {"include": ["message.output_text.logprobs"]},
        {"background": True, "stream": True},
        {"previous_response_id": "resp_none"},
        {"tools": [{"type": "web_search"}]},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "name": "calculate"}},
        {"tool_choice": {"type": "web_search"}},
        {"tool_choice": {"type": "function", "name": "clock"}, "tools": [RESPONSES_TOOL]},
        # Also in the background, where nobody would see the error of the client.
        {"tool_choice": "bogus", "tools": [RESPONSES_TOOL], "background": True},
    ],
    MESSAGES: [
        {"container": "x"},
        {"compaction": {}},
        {"mcp_servers": [{"type": "url", "name": "x", "url": "https://x.example"}]},
        {"thread": {}},
        {"top_k": 0},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"tool_choice": {"type": "any"}},
        {"tool_choice": {"type": "tool", "name": "calculate"}},
        {"tool_choice": {"type": "tool", "name": "clock"}, "tools": [MESSAGES_TOOL]},
    ],
    AUDIO: [
        {"include[]": "logprobs"},
        {"known_speaker_names[]": "a"},
        {"known_speaker_references[]": "data:audio/wav;base64,x"},
        {"prompt": "Names: Ada."},  # which the engine ignores; other servers take it
        {"response_format": "diarized_json"},
        {"timestamp_granularities[]": "word"},
    ],
}

# Hints, labels, and what concerns the provider's own machines and prices.
IGNORED: dict[str, dict[str, Any]] = {
    CHAT: {
        "metadata": {"a": "b"},
        "prompt_cache_key": "x",
        "prompt_cache_options": {"mode": "implicit"},
        "prompt_cache_retention": "24h",
        "reasoning_effort": "low",
        "safety_identifier": "x",
        "service_tier": "flex",
        "store": True,
        "user": "x",
        "verbosity": "low",
    },
    TEXT: {"user": "x"},
    EMBEDDINGS: {"user": "x"},
    RESPONSES: {
        "access_programs": {},
        "background_options": {},
        "context_management": [{"type": "compaction"}],
        "image": {},
        "max_tool_calls": 2,
        "prompt_cache_key": "x",
        "prompt_cache_options": {"mode": "implicit"},
        "prompt_cache_retention": "24h",
        "reasoning": {"effort": "low"},
        "safety_identifier": "x",
        "service_tier": "flex",
        "stream_options": {"include_obfuscation": True},
        "truncation": "auto",
        "user": "x",
    },
    MESSAGES: {
        "billing_policy": {"type": "billing_policy", "bill_to": "self"},
        "cache_control": {"type": "ephemeral"},
        "context_management": {"edits": []},
        "diagnostics": {"previous_message_id": None},
        "fallback_credit_token": "x",
        "fallbacks": "default",
        "inference_geo": "eu",
        "metadata": {"user_id": "x"},
        "service_tier": "auto",
        "speed": "fast",
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    },
    AUDIO: {"chunking_strategy": "auto", "keywords[]": "x", "languages[]": "de"},
}


class Result(NamedTuple):
    """What a request led to.

    Attributes:
        sent: The last body that the service behind the gateway got; empty if it is the engine.
        answer: The body of the answer, or the events of a stream.
    """

    sent: dict[str, Any]
    answer: Any


def is_sent(name: str, value: Any) -> Callable[[Result], bool]:
    return lambda result: result.sent[name] == value


def is_offered(result: Result) -> bool:
    return [tool["function"]["name"] for tool in result.sent["tools"]] == ["calculate"]


def is_last_message(text: str) -> Callable[[Result], bool]:
    return lambda result: result.sent["messages"][-1]["content"] == text


def is_system(text: str) -> Callable[[Result], bool]:
    return lambda result: result.sent["messages"][0] == {"role": "system", "content": text}


def has_schema(result: Result) -> bool:
    return "languages" in json.dumps(result.sent["response_format"])


def has_choices(count: int) -> Callable[[Result], bool]:
    return lambda result: [one["index"] for one in result.answer["choices"]] == [*range(count)]


def is_stream(result: Result) -> bool:
    return isinstance(result.answer, list)


PERSON = {"type": "object", "properties": {"languages": {"type": "string"}}}
SAMPLING: dict[str, tuple[Any, Callable[[Result], bool]]] = {
    "temperature": (0.5, is_sent("temperature", 0.5)),
    "top_p": (0.5, is_sent("top_p", 0.5)),
    "stream": (True, is_stream),
    "model": ("fake", lambda result: "fake" in str(result.sent["model"])),
}
COMPLETIONS: dict[str, tuple[Any, Callable[[Result], bool]]] = {
    **SAMPLING,
    "max_tokens": (7, is_sent("max_tokens", 7)),
    "n": (3, has_choices(3)),
    "seed": (3, is_sent("seed", 3)),
    "stop": (["x"], is_sent("stop", ["x"])),
    "stream_options": (
        {"include_usage": True},
        lambda result: "usage" in result.answer or "total_tokens" in str(result.answer[-2]),
    ),
    # What would be refused, when it asks for nothing.
    "frequency_penalty": (0, has_choices(1)),
    "presence_penalty": (0, has_choices(1)),
    "logit_bias": ({}, has_choices(1)),
}


def count_calls(result: Result) -> int:
    """Return how many calls of tools are in an answer."""
    return str(result.answer).count("calculate")


# What is honoured: a value, and what it has to lead to. Tools are offered where it is about them,
# and the service behind the gateway calls two of them then.
HONOURED: dict[str, dict[str, tuple[Any, Callable[[Result], bool]]]] = {
    CHAT: {
        **COMPLETIONS,
        "messages": ([{"role": "user", "content": "Hi"}], is_last_message("Hi")),
        "max_completion_tokens": (7, is_sent("max_tokens", 7)),
        "response_format": (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": PERSON}},
            has_schema,
        ),
        "modalities": (["text"], has_choices(1)),
        "tools": ([CHAT_TOOL], is_offered),
        "tool_choice": (NAMED, lambda result: result.sent["tool_choice"] == NAMED),
        "functions": ([TOOL], is_offered),
        "function_call": ("none", lambda result: "tools" not in result.sent),
        "parallel_tool_calls": (False, lambda result: count_calls(result) == 1),
    },
    TEXT: {
        **COMPLETIONS,
        "prompt": ("Hi", is_last_message("Hi")),
        "echo": (
            True,
            lambda result: result.answer["choices"][0]["text"].startswith("say-hello"),
        ),
    },
    RESPONSES: {
        **SAMPLING,
        "input": ("Hi", is_last_message("Hi")),
        "instructions": ("Be brief.", is_system("Be brief.")),
        "max_output_tokens": (7, is_sent("max_tokens", 7)),
        "metadata": ({"a": "b"}, lambda result: result.answer["metadata"] == {"a": "b"}),
        "store": (False, lambda result: result.answer["store"] is False),
        "background": (True, lambda result: result.answer["status"] == "queued"),
        "text": (
            {"format": {"type": "json_schema", "name": "x", "schema": PERSON}},
            has_schema,
        ),
        "tools": ([RESPONSES_TOOL], is_offered),
        "tool_choice": (
            {"type": "function", "name": "calculate"},
            lambda result: result.sent["tool_choice"] == NAMED,
        ),
        "parallel_tool_calls": (False, lambda result: len(result.answer["output"]) == 1),
    },
    MESSAGES: {
        **SAMPLING,
        "messages": ([{"role": "user", "content": "Hi"}], is_last_message("Hi")),
        "system": ("Be brief.", is_system("Be brief.")),
        "max_tokens": (7, is_sent("max_tokens", 7)),
        "stop_sequences": (["x"], is_sent("stop", ["x"])),
        "top_k": (3, is_sent("metadata", {"top_k": "3"})),
        "output_config": (
            {"format": {"type": "json_schema", "schema": PERSON}},
            has_schema,
        ),
        "tools": ([MESSAGES_TOOL], is_offered),
        "tool_choice": (
            {"type": "tool", "name": "calculate", "disable_parallel_tool_use": True},
            lambda result: result.sent["tool_choice"] == NAMED and count_calls(result) == 1,
        ),
    },
    EMBEDDINGS: {
        "input": (["a", "b"], lambda result: len(result.answer["data"]) == 2),
        "model": ("embedder", lambda result: result.answer["model"] == "embedder"),
        "encoding_format": (
            "base64",
            lambda result: isinstance(result.answer["data"][0]["embedding"], str),
        ),
    },
}
OFFERS: dict[str, dict[str, Any]] = {
    CHAT: {"tools": [CHAT_TOOL]},
    RESPONSES: {"tools": [RESPONSES_TOOL]},
    MESSAGES: {"tools": [MESSAGES_TOOL]},
}
# Tested in test_responses.py, and below for recordings.
ELSEWHERE = {
    RESPONSES: {"previous_response_id"},
    AUDIO: {"file", "language", "model", "response_format", "stream", "temperature"},
}


def split_name(name: str) -> str:
    return name.removesuffix("[]")


@pytest.mark.parametrize("path", DOCUMENTED)
def test_every_documented_parameter_is_here(path: str) -> None:
    refused = {split_name(next(iter(change))) for change in REFUSED[path]}
    ignored = {split_name(name) for name in IGNORED[path]}
    honoured = {*HONOURED.get(path, ()), *ELSEWHERE.get(path, ())}
    assert refused | ignored | honoured >= DOCUMENTED[path]
    assert not ignored & (refused | honoured)


def read_documented() -> Iterator[tuple[str, set[str]]]:
    """Yield the routes in the documentation, each with its members without effect."""
    _, _, section = DOCS.read_text(encoding="utf-8").partition("## What has no effect\n")
    for line in section.partition("\n## ")[0].splitlines():
        if match := re.fullmatch(r"\| `(/v1/[^`]+)` \| (.+) \|", line):
            yield match[1], set(re.findall(r"`([^`]+)`", match[2]))


def test_what_has_no_effect_is_documented() -> None:
    expected = {path: {split_name(name) for name in IGNORED[path]} for path in IGNORED}
    assert dict(read_documented()) == expected


async def send(http: aiohttp.ClientSession, path: str, change: dict[str, Any]) -> tuple[int, Any]:
    body = {**BODIES[path], **change}
    options: dict[str, Any] = {"json": body}
    if path == AUDIO:
        form = aiohttp.FormData(body)
        form.add_field("file", make_recording(), filename="a.wav")
        options = {"data": form}
    async with http.post(path, **options) as response:
        text = await response.text()
        if response.content_type == "text/event-stream":
            return response.status, parse_events(text)
        return response.status, json.loads(text)


@pytest.mark.parametrize("path", REFUSED)
async def test_what_cannot_be_done_is_refused(
    http: aiohttp.ClientSession, path: str, subtests: pytest.Subtests
) -> None:
    for change in REFUSED[path]:
        name = next(iter(change))
        with subtests.test(str(change)):
            status, answer = await send(http, path, change)
            assert status == 400, answer
            error = answer["error"]
            assert re.search(r"[.)]$", error["message"])
            # Anthropic's errors have no param.
            place = error["message"] if path == MESSAGES else error["param"]
            assert split_name(name) in re.split(r"[^a-z_]", place)


@pytest.mark.parametrize("path", IGNORED)
async def test_what_has_no_effect_is_accepted(
    gateway: Gateway, http: aiohttp.ClientSession, path: str, subtests: pytest.Subtests
) -> None:
    for name, value in IGNORED[path].items():
        with subtests.test(name):
            status, answer = await send(http, path, {name: value})
            assert status == 200, answer
    status, answer = await send(http, path, IGNORED[path])
    assert status == 200, answer
    assert gateway.context.running == set()


# What the client of the gateway refuses, where its argument has another name than the member of
# the request: changes of a body, and the member that the error has to name.
TOO_LONG = "x " * 9000
TOO_LONG_MESSAGE = [{"role": "user", "content": TOO_LONG}]
NO_SCHEMA = {"type": "nonsense"}
NO_NAME = {**TOOL, "name": "a b"}
CHOICE = {"type": "choice", "choice": ["a", "a"]}
NAMED_AS_SENT: dict[str, list[tuple[dict[str, Any], str]]] = {
    CHAT: [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 0}, "max_completion_tokens"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages[0].content"),
        ({"messages": TOO_LONG_MESSAGE}, "messages"),
        ({"messages": TOO_LONG_MESSAGE, "max_tokens": 5}, "max_tokens"),
        ({"messages": TOO_LONG_MESSAGE, "max_completion_tokens": 5}, "max_completion_tokens"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"tools": [{"function": NO_NAME}]}, "tools[0].function"),
        ({"functions": [TOOL, NO_NAME]}, "functions[1]"),
        ({"functions": [TOOL], "function_call": "bogus"}, "function_call"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": NO_SCHEMA}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": CHOICE}, "response_format.choice"),
        (
            {"response_format": {"type": "lark_grammar", "lark_grammar": " "}},
            "response_format.lark_grammar",
        ),
    ],
    TEXT: [
        ({"prompt": " "}, "prompt"),
        ({"prompt": ["a", " "]}, "prompt[1]"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
    RESPONSES: [
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"input": TOO_LONG}, "input"),
        ({"input": TOO_LONG, "max_output_tokens": 5}, "max_output_tokens"),
        ({"tools": [{"type": "function", **NO_NAME}]}, "tools[0]"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": NO_SCHEMA}}},
            "text.format.schema",
        ),
        (
            {"input": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "\0"}]}]},
            "input[0].content[0].refusal",
        ),
    ],
    MESSAGES: [
        ({"max_tokens": 0}, "max_tokens"),
        # With a system message before it, it is the second message of the call.
        ({"system": "x", "messages": [{"role": "user", "content": ""}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"stop_sequences": ["a", ""]}, "stop_sequences[1]"),
        ({"top_k": 2**40}, "top_k"),
        ({"tools": [{**MESSAGES_TOOL, "name": "a b"}]}, "tools[0]"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": NO_SCHEMA}}},
            "output_config.format.schema",
        ),
    ],
    EMBEDDINGS: [
        ({"input": " "}, "input"),
        ({"input": ["a", " "]}, "input[1]"),
        ({"input": TOO_LONG}, "input"),
    ],
}


@pytest.mark.parametrize("path", NAMED_AS_SENT)
async def test_errors_name_the_member_that_was_sent(
    http: aiohttp.ClientSession, path: str, subtests: pytest.Subtests
) -> None:
    for change, param in NAMED_AS_SENT[path]:
        for more in ({}, {"stream": True}) if path != EMBEDDINGS else ({},):
            with subtests.test(str(change)[:80], **more):
                status, answer = await send(http, path, {**change, **more})
                assert status == 400, answer
                error = answer["error"]
                if path != MESSAGES:  # Anthropic's errors have no param
                    assert error["param"] == param
                if "context" not in error["message"]:
                    assert error["message"].startswith(param)


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        (CHAT, {"tools": [CHAT_TOOL], "tool_choice": "required"}, "tool_choice"),
        (CHAT, {"functions": [TOOL], "function_call": {"name": "calculate"}}, "function_call"),
        (
            CHAT,
            {"response_format": {"type": "lark_grammar", "lark_grammar": "start: /a+/"}},
            "response_format.lark_grammar",
        ),
        (RESPONSES, {"tools": [RESPONSES_TOOL], "tool_choice": "required"}, "tool_choice"),
    ],
    ids=["tool_choice", "function_call", "grammar", "response"],
)
async def test_what_an_older_service_cannot_do_is_refused_by_name(
    path: str, change: dict[str, Any], param: str, tmp_path: Path
) -> None:
    async with (
        FakeLegacyService() as upstream,
        serve(tmp_path, upstream.base_url) as served,
    ):
        status, answer = await send(served.http, path, {"model": ALIAS, **change})
    assert (status, answer["error"]["code"]) == (400, "unsupported_feature")
    assert answer["error"]["param"] == param


@pytest.mark.parametrize("path", [path for path in HONOURED if path != EMBEDDINGS])
async def test_the_others_are_honoured(
    path: str, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    reply = Reply('{"languages": "en"}')
    calls = ToolCalls([("calculate", {"expression": "1"}), ("calculate", {"expression": "2"})])
    for name, (value, look) in HONOURED[path].items():
        change: dict[str, Any] = {"model": "fake", name: value}
        is_about_calls = name in {"tool_choice", "parallel_tool_calls"}
        if is_about_calls:
            change = {**OFFERS[path], **change}
        if name == "function_call":
            change["functions"] = [TOOL]
        if name == "stream_options":
            change["stream"] = True
        with subtests.test(name):
            async with (
                FakeService(calls if is_about_calls else reply) as upstream,
                serve(tmp_path / name, upstream.base_url) as served,
            ):
                status, answer = await send(served.http, path, change)
                assert status == 200, answer
                await served.wait_until(lambda served=served: not served.gateway.context.running)
                assert look(Result(upstream.requests[-1], answer))


@pytest.mark.parametrize("name", HONOURED[EMBEDDINGS])
async def test_embeddings_honour_the_others(http: aiohttp.ClientSession, name: str) -> None:
    value, look = HONOURED[EMBEDDINGS][name]
    status, answer = await send(http, EMBEDDINGS, {name: value})
    assert status == 200, answer
    assert look(Result({}, answer))


async def test_a_transcription_honours_the_others(
    gateway: Gateway, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its formats and its stream are tested in test_transcriptions.py."""
    client = gateway.context.client
    transcribe, seen = client.stream_transcribe, list[dict[str, Any]]()

    def record(file: Any, **options: Any) -> Any:
        seen.append({**options, "bytes": Path(file).read_bytes()})
        return transcribe(file, **options)

    monkeypatch.setattr(client, "stream_transcribe", record)
    fields = {"language": "de", "temperature": "0.5"}
    status, _ = await send(http, AUDIO, {**fields, "timestamp_granularities[]": "segment"})
    assert status == 200
    expected = {**fields, "temperature": 0.5, "model": "transcriber", "bytes": make_recording()}
    assert seen[0].items() >= expected.items()


async def test_all_values_of_a_list_in_a_form_count(http: aiohttp.ClientSession) -> None:
    form = aiohttp.FormData({"model": "transcriber"})
    form.add_field("file", make_recording(), filename="a.wav")
    for value in ("word", "segment"):
        form.add_field("timestamp_granularities[]", value)
    async with http.post(AUDIO, data=form) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "timestamp_granularities[]"
