"""Base of the fake CLI services: Kestrel's framing and the chat of the core of SDK 1.x.

The answers are the texts of the scripted model, selected by the keyword in the prompt, so that one
suite tests the real services and the fakes. The bytes are those that users recorded:

- chunks of 0.8.101: https://github.com/microsoft/foundry-local/issues/299 [gh #299]
- the same core, probed: SDK 1.2.4 (docs/foundry-local-service.md, 1C) [probed 1.2.4]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from faults.hostile import LAST_CHUNK, Peer, ScriptedServer, encode_chunk
from support.loopback_catalog import ALIAS, VARIANT
from support.scripted_model import ALL_SCRIPTS, prompt_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from faults.hostile import Received
    from support.scripted_model import Script

CREATED = 1762612476
CREATED_AT = "2025-11-08T14:34:36+00:00"
"""[gh #299]"""

DONE = b"data: [DONE]\n\n"  # [probed 1.2.4]


@dataclass
class FakeModel:
    """A model of a fake service.

    Attributes:
        id: The id, with its version.
        alias: Shared by its variants.
        device: CPU, GPU or NPU.
        provider: The execution provider.
        cached: Whether its files are downloaded.
        loaded: Whether it is in memory.
        broken: Whether it cannot be loaded.
    """

    id: str
    alias: str
    device: str = "CPU"
    provider: str = "CPUExecutionProvider"
    cached: bool = True
    loaded: bool = False
    broken: bool = False


def make_scripted_models() -> tuple[FakeModel, ...]:
    """Return the models of the real services: the scripted one, a broken and an uncached one."""
    return (
        FakeModel(f"{VARIANT}:1", ALIAS),
        FakeModel("Broken-generic-cpu:1", "broken", broken=True),
        FakeModel("Far-away-generic-cpu:3", "far-away", cached=False),
    )


class FakeKestrelServer:
    """A fake of the server and the chat route that both CLI services have.

    Attributes:
        models: Its models, in the order of its lists.
        generating: Number of answers being generated.
        loads: Number of times that a model was loaded.
    """

    default_max_tokens = 2048  # [probed 1.2.4]

    def __init__(self, models: tuple[FakeModel, ...] | None = None) -> None:
        self.models = list(make_scripted_models() if models is None else models)
        self.generating = 0
        self.loads = 0
        self._server = ScriptedServer(self._serve)
        self._turn = asyncio.Lock()

    @property
    def base_url(self) -> str:
        return self._server.base_url

    @property
    def requests(self) -> list[Received]:
        return self._server.requests

    def get_requests(self, path: str) -> list[Received]:
        """Return the requests whose path starts with `path`."""
        return [request for request in self.requests if request.path.startswith(path)]

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        await self._server.stop()

    def find(self, model_id: str) -> FakeModel | None:
        """Return the model with an id."""
        return next((model for model in self.models if model.id == model_id), None)

    async def _serve(self, peer: Peer) -> None:
        while True:
            request = await peer.request()
            await self._answer(peer, request)

    async def _answer(self, peer: Peer, request: Received) -> None:
        raise NotImplementedError

    async def _chat(self, peer: Peer, body: dict[str, Any]) -> None:
        if not body.get("stream"):
            async with self._generation():
                answer = "".join([text async for text in self._tokens(body)])
            await peer.send(make_response(200, self._make_completion(body, answer)))
            return
        await peer.send(STREAM_HEAD)
        async with self._generation(), cancel_on_disconnect(peer):
            answer = ""
            async for text in self._tokens(body):
                answer += text
                await peer.send(encode_chunk(encode_event(self._make_chunk(body, answer, text))))
            for last in self._make_last_events(body, answer):
                await peer.send(encode_chunk(last))
        await peer.send(LAST_CHUNK)

    @contextlib.asynccontextmanager
    async def _generation(self) -> AsyncIterator[None]:
        async with self._turn:  # requests of a model are served one after another [gh #637]
            self.generating += 1
            try:
                yield
            finally:
                self.generating -= 1

    def _make_chunk(self, body: dict[str, Any], answer: str, text: str) -> dict[str, Any]:
        """Return a chunk: `text` twice, without finish reason and usage [gh #299].

        Args:
            body: The request.
            answer: The text so far.
            text: The text of the chunk.
        """
        del answer
        turn = {"role": "assistant", "content": text, "tool_calls": []}
        return {
            "model": body["model"],
            "choices": [{"delta": turn, "message": turn, "index": 0}],
            "created": CREATED,
            "CreatedAt": CREATED_AT,
            "id": "chat.id.1",
            "IsDelta": False,
            "Successful": True,
            "HttpStatusCode": 0,
            "object": "chat.completion.chunk",
        }

    def _make_completion(self, body: dict[str, Any], answer: str) -> dict[str, Any]:
        """Return a completion, which has the members of a chunk [gh #333, gh #383]."""
        return {**self._make_chunk(body, answer, answer), "object": "chat.completion"}

    def _make_last_events(self, body: dict[str, Any], answer: str) -> Iterator[bytes]:
        """Return the events after the last chunk with text."""
        del body, answer
        yield DONE

    async def _tokens(self, body: dict[str, Any]) -> AsyncIterator[str]:
        """Yield the characters of the answer, with the delays of the script.

        As in the scripted model, a token is a byte. A character that exceeds the limit is not sent.
        """
        script = find_script(body)
        remaining = get_token_limit(body) or self.default_max_tokens
        await asyncio.sleep(script.prefill_ms / 1000)
        text = script.text * (1 + remaining // len(script.text)) if script.repeats else script.text
        for character in text:
            remaining -= len(character.encode())
            if remaining < 0:
                return
            yield character
            await asyncio.sleep(script.ms_per_token / 1000)


def get_token_limit(body: dict[str, Any]) -> int | None:
    """Return the maximum number of tokens of a request."""
    limit: int | None = body.get("max_completion_tokens") or body.get("max_tokens")
    return limit


def count_prompt_tokens(body: dict[str, Any]) -> int:
    """Count the tokens of the prompt; a message that only calls tools has no content."""
    turns = [{**turn, "content": turn.get("content") or ""} for turn in body["messages"]]
    return prompt_tokens(turns)


def find_script(body: dict[str, Any]) -> Script:
    """Return the script whose keyword is the last one in the prompt."""
    prompt = " ".join(str(turn.get("content")) for turn in body["messages"])
    found = [(prompt.rfind(script.keyword), script) for script in ALL_SCRIPTS]
    at, script = max(found, key=lambda match: match[0])
    return script if at >= 0 else ALL_SCRIPTS[0]


def make_usage(body: dict[str, Any], answer: str) -> dict[str, int]:
    """Count tokens as the scripted model does."""
    counts = {
        "prompt_tokens": count_prompt_tokens(body),
        "completion_tokens": len(answer.encode()),
    }
    return {**counts, "total_tokens": sum(counts.values())}


def encode_event(members: dict[str, Any]) -> bytes:
    return b"data: " + encode_json(members) + b"\n\n"


def encode_json(members: Any) -> bytes:
    """Encode JSON as .NET does, without spaces."""
    return json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode()


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nServer: Kestrel\r\n"
    b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
)
"""[probed 1.2.4]"""


def make_response(status: int, body: Any = None, *, text: bool = False) -> bytes:
    """Return a response with a JSON body, a text body, or none."""
    content = b"" if body is None else body.encode() if text else encode_json(body)
    kind = "text/plain; charset=utf-8" if text else "application/json; charset=utf-8"
    lines = [f"HTTP/1.1 {status} X", "Server: Kestrel", f"Content-Length: {len(content)}"]
    if content:
        lines.insert(1, f"Content-Type: {kind}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + content


def make_exception_page(kind: str, message: str) -> str:
    """Return the body of an unhandled exception, as ASP.NET sends it to non-HTML clients.

    Users recorded that there is such a body, but not its text [gh #92]; the names in the stack
    trace come from the service's log in that issue.
    """
    return (
        f"{kind}: {message}\n"
        "   at Microsoft.Neutron.OpenAI.OpenAIServiceComposite.GetOpenAIServiceProvider(String)\n"
        "   at Microsoft.Neutron.OpenAI.Delegates.OpenAIApi.<ChatCompletionsAsync>d__0.MoveNext()\n"
        "--- End of stack trace from previous location ---\n"
    )


@contextlib.asynccontextmanager
async def cancel_on_disconnect(
    peer: Peer, on_disconnect: Callable[[], None] = lambda: None
) -> AsyncIterator[None]:
    """Raise ConnectionError once the client has closed its end of the connection."""
    sender = asyncio.current_task()
    assert sender
    disconnect = asyncio.ensure_future(peer.wait_closed())
    disconnect.add_done_callback(lambda task: None if task.cancelled() else sender.cancel())
    try:
        yield
    except (asyncio.CancelledError, ConnectionError) as error:
        if isinstance(error, asyncio.CancelledError):
            if not peer.client_closed.is_set():
                raise  # the fake is being stopped
            sender.uncancel()
        on_disconnect()
        raise ConnectionResetError from error
    finally:
        disconnect.cancel()
        await asyncio.gather(disconnect, return_exceptions=True)
