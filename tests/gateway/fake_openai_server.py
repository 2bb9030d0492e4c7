"""A fake of other servers of OpenAI's API, which cannot run here.

It sends what llama.cpp, vLLM, Ollama and LM Studio send, as far as reports of their users show it:
nothing is recorded. It knows no other routes, and no model.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from faults.hostile import LAST_CHUNK, ScriptedServer, encode_chunk, make_head, make_response

if TYPE_CHECKING:
    from faults.hostile import Peer, Received

NOT_FOUND = b'{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}'


NO_PARSER = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
NO_TOOLS = "registry.ollama.ai/library/gemma3:latest does not support tools"


def make_error(message: str, kind: str, code: int | None) -> bytes:
    """Make the body of a refusal."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    return json.dumps({"error": error}).encode()


def encode_events(*events: dict[str, Any] | str) -> bytes:
    """Encode a stream of events with its end mark."""
    lines = [one if isinstance(one, str) else json.dumps(one) for one in (*events, "[DONE]")]
    return "".join(f"data: {line}\n\n" for line in lines).encode()


def make_chunk(delta: dict[str, Any], reason: str | None = None, **members: Any) -> dict[str, Any]:
    """Make an event with one choice."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1764460800}
    return {**head, "choices": [choice], **members}


USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}


@dataclass
class Flavour:
    """What one of the servers sends.

    Attributes:
        models: The body of its list of models.
        stream: The events of an answer.
        name: The name that it takes for its model.
        alias: The name by which the gateway lists that model.
        error: Status and body of its refusal of a request; None to answer.
        error_with_tools: As `error`, only for requests with tools.
        error_with_format: As `error`, only for requests with a format of the answer.
        transcription: Status and body of its answer to a recording; None if it has no such route.
        key: The key that it requires for calls; "" for none.
        gate: Calls wait until it is set.
        is_down: Whether it drops every connection.
        is_hung: Whether it answers nothing.
        events_before_hang: Events of an answer after which nothing follows; None to send all.
        calls: The requests for answers, in order.
    """

    models: bytes
    stream: bytes
    name: str
    alias: str
    error: tuple[int, bytes] | None = None
    error_with_tools: tuple[int, bytes] | None = None
    error_with_format: tuple[int, bytes] | None = None
    transcription: tuple[int, bytes] | None = None
    key: str = ""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    is_down: bool = False
    is_hung: bool = False
    events_before_hang: int | None = None
    calls: list[Received] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    async def serve(self, peer: Peer) -> None:
        """Answer the requests of a connection."""
        while True:
            request = await peer.request()
            if self.is_down:
                peer.reset()
                return
            if self.is_hung:
                await peer.wait_closed()
                return
            answer = self._answer(request)
            if request.path == "/v1/chat/completions":
                await self.gate.wait()
                if self.events_before_hang is not None:
                    await self._hang(peer)
                    return
            await peer.send(*answer)

    async def _hang(self, peer: Peer) -> None:
        """Send the first events of an answer, if any, and then nothing."""
        events = self.stream.split(b"\n\n")[: self.events_before_hang]
        if events:
            head = make_head(content_type="text/event-stream; charset=utf-8")
            await peer.send(head, *(encode_chunk(event + b"\n\n") for event in events))
        await peer.wait_closed()

    def _answer(self, request: Received) -> tuple[bytes, ...]:
        if request.path == "/v1/models":
            return (make_response(200, self.models),)
        if request.path == "/v1/embeddings":
            vectors = [
                {"object": "embedding", "index": index, "embedding": [0.5, 0.25]}
                for index, _ in enumerate(request.json["input"])
            ]
            body = {"object": "list", "data": vectors, "model": self.name, "usage": USAGE}
            return (make_response(200, json.dumps(body).encode()),)
        if request.path == "/v1/audio/transcriptions" and self.transcription:
            return (make_response(*self.transcription),)
        if request.path != "/v1/chat/completions":
            return (make_response(404, NOT_FOUND),)
        self.calls.append(request)
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return (make_response(401, b'{"error":"Unauthorized"}'),)
        if self.error_with_tools and "tools" in request.json:
            return (make_response(*self.error_with_tools),)
        if self.error_with_format and "response_format" in request.json:
            return (make_response(*self.error_with_format),)
        if self.error:
            return (make_response(*self.error),)
        head = make_head(content_type="text/event-stream; charset=utf-8")
        return head, encode_chunk(self.stream), LAST_CHUNK


def make_llama_cpp() -> Flavour:
    """Make llama.cpp's server with a file and without a name for it."""
    path = "/srv/models/Qwen2.5-7B-Instruct-Q4_K_M.gguf"
    meta = {"vocab_type": 2, "n_ctx_train": 32768, "n_embd": 3584, "size": 4677120000}
    data = {"id": path, "object": "model", "created": 1764460800, "owned_by": "llamacpp"}
    models = {
        "models": [{"name": path, "model": path, "type": "model"}],
        "object": "list",
        "data": [{**data, "meta": meta}],
    }
    return Flavour(
        json.dumps(models).encode(),
        encode_events(
            make_chunk({"role": "assistant", "content": None}),
            make_chunk({"content": "Hello"}),
            make_chunk({"content": " there"}),
            # Its last event has the counts and times beside the end.
            make_chunk({}, "stop"),
            {"choices": [], "object": "chat.completion.chunk", "usage": USAGE, "timings": {}},
        ),
        path,
        "Qwen2.5-7B-Instruct-Q4_K_M",
        error_with_tools=(
            500,
            make_error("tools param requires --jinja flag", "server_error", 500),
        ),
    )


def make_vllm() -> Flavour:
    """Make vLLM's server with a key."""
    name = "Qwen/Qwen3-8B"
    permission = {"id": "modelperm-1", "object": "model_permission", "allow_sampling": True}
    data = {"id": name, "object": "model", "created": 1764460800, "owned_by": "vllm", "root": name}
    models = {
        "object": "list",
        "data": [{**data, "parent": None, "max_model_len": 40960, "permission": [permission]}],
    }
    return Flavour(
        json.dumps(models).encode(),
        encode_events(
            make_chunk({"role": "assistant", "content": ""}, usage=None),
            make_chunk({"reasoning": "A greeting."}),
            make_chunk({"content": "Hello"}),
            make_chunk({"content": " there"}),
            make_chunk({"content": ""}, "stop", stop_reason=None),
            {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [], "usage": USAGE},
        ),
        name,
        name,
        error_with_tools=(400, make_error(NO_PARSER, "BadRequestError", 400)),
        key="vllm-secret",
    )


def make_ollama() -> Flavour:
    """Make Ollama's server."""
    name = "gemma3:latest"
    data = {"id": name, "object": "model", "created": 1764460800, "owned_by": "library"}
    head = {"model": name, "system_fingerprint": "fp_ollama"}
    return Flavour(
        json.dumps({"object": "list", "data": [data]}).encode(),
        encode_events(
            make_chunk({"role": "assistant", "content": "Hello"}, **head),
            make_chunk({"role": "assistant", "content": " there"}, **head),
            make_chunk({"role": "assistant", "content": ""}, "stop", **head),
            {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [], "usage": USAGE},
        ),
        name,
        "gemma3",
        error_with_tools=(400, make_error(NO_TOOLS, "api_error", None)),
    )


def make_lm_studio() -> Flavour:
    """Make LM Studio's server, whose model calls tools."""
    name = "qwen2.5-7b-instruct"
    data = {"id": name, "object": "model", "owned_by": "organization_owner"}
    call = {"index": 0, "id": "365174485", "type": "function"}
    return Flavour(
        json.dumps({"data": [data], "object": "list"}).encode(),
        encode_events(
            make_chunk({"role": "assistant", "content": "Hello"}),
            make_chunk({"content": " there"}),
            make_chunk(
                {"tool_calls": [{**call, "function": {"name": "calculate", "arguments": ""}}]}
            ),
            make_chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"expression":'}}]}),
            make_chunk({"tool_calls": [{"index": 0, "function": {"arguments": ' "1+1"}'}}]}),
            make_chunk({}, "tool_calls"),
            {"choices": [], "object": "chat.completion.chunk", "usage": USAGE},
        ),
        name,
        name,
    )


def make_llama_cpp_python() -> Flavour:
    """Make llama-cpp-python's server 0.3.4, as it answered: without counts in a stream."""
    name = "tiny.gguf"
    data = {"id": name, "object": "model", "owned_by": "me", "permissions": []}
    problem = (
        "[{'type': 'literal_error', 'loc': ('body', 'response_format', 'type'), 'msg': \"Input "
        "should be 'text' or 'json_object'\", 'input': 'json_schema', 'ctx': {'expected': "
        "\"'text' or 'json_object'\"}}]"
    )
    return Flavour(
        json.dumps({"object": "list", "data": [data]}).encode(),
        encode_events(
            make_chunk({"role": "assistant"}),
            make_chunk({"content": ""}),
            make_chunk({"content": "Hello"}),
            make_chunk({"content": " there"}),
            make_chunk({}, "length"),
        ),
        name,
        "tiny",
        error_with_format=(500, make_error(problem, "internal_server_error", None)),
    )


FLAVOURS = {
    "llama.cpp": make_llama_cpp,
    "vLLM": make_vllm,
    "Ollama": make_ollama,
    "LM Studio": make_lm_studio,
}


def make_flavour(*names: str) -> Flavour:
    """Make a server that has models of these names, without anything special."""
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "fake"} for name in names]
    flavour = make_ollama()
    flavour.models = json.dumps({"object": "list", "data": data}).encode()
    flavour.name = flavour.alias = names[0]
    return flavour


class FakeOpenAIServer(ScriptedServer):
    """A server of one of the flavours."""

    def __init__(self, flavour: Flavour) -> None:
        super().__init__(flavour.serve)
        self.flavour = flavour
