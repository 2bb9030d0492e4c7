"""A fake service with scripted answers, for testing programs that use this package.

    async def test_my_program() -> None:
        async with FakeService("Hello there") as service:
            client = FoundryAPIClient(service.base_url, model="fake")
            assert await my_program(client) == "HELLO THERE"
        assert service.requests[0]["messages"][-1]["content"] == "Greet me"

Client and socket are real; only the engine is fake.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import msgspec
from aiohttp import web

from foundry_api.resilience.retry import PAUSE
from foundry_api.types.messages import FinishReason, Usage

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

__all__ = ["Disconnect", "ErrorReply", "FakeService", "Reply", "Stall", "ToolCalls", "skip_sleeps"]

# SDK 2.x serves the models that are registered on this machine below this path.
_PREFIX = "/catalogs/local"
_CHUNK_PATTERN = re.compile(r"\s*\S+\s*$|\s*\S+|\s+")


@contextmanager
def skip_sleeps() -> Generator[list[float]]:
    """Skip the waits between attempts, for calls inside the block.

        with skip_sleeps() as waits:
            await client.complete("…")
        assert len(waits) == 2

    Yields:
        A list of the skipped waits, in seconds.
    """
    waits: list[float] = []

    async def skip(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    before = PAUSE.set(skip)
    try:
        yield waits
    finally:
        PAUSE.reset(before)


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer, streamed word by word.

    Attributes:
        text: The text of the answer.
        finish_reason: Why the answer ends.
        usage: Token counts to report; None counts words.
    """

    text: str
    finish_reason: FinishReason = "stop"
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class ToolCalls:
    """Tool calls instead of an answer.

    Attributes:
        calls: Names of tools, each with its arguments.
        text: Text before the tool calls.
        usage: Token counts to report; None counts words and calls.
    """

    calls: Sequence[tuple[str, Mapping[str, Any]]]
    text: str = ""
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An HTTP error instead of an answer.

    Attributes:
        status: The HTTP status.
        message: The error message.
        retry_after_s: Seconds in the Retry-After header; None for no header.
    """

    status: int = 500
    message: str = "the fake service fails as scripted"
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the connection, as a crashing engine does.

    Attributes:
        after: Text sent before; if empty, the connection is closed before the first token.
    """

    after: str = ""


@dataclass(frozen=True, slots=True)
class Stall:
    """Send nothing more until the client times out.

    Attributes:
        after: Text sent before.
    """

    after: str = ""


class FakeService:
    """A service of generation SDK 2.1 on a loopback socket, with scripted answers.

    Each chat completion gets the next answer of the script; the last answer is repeated.

    Args:
        script: Texts, `Reply`, `ToolCalls`, `ErrorReply`, `Disconnect` or `Stall`; default
            "Hello".
        model: Alias of the service's only model.
        port: Port to listen on, such as that of a service that it replaces; 0 for any free one.

    Attributes:
        base_url: The service's address, inside of `async with`.
        requests: The JSON bodies of the chat completions received.
    """

    def __init__(
        self,
        *script: str | Reply | ToolCalls | ErrorReply | Disconnect | Stall,
        model: str = "fake",
        port: int = 0,
    ) -> None:
        self._port = port
        self._script = [
            Reply(reply) if isinstance(reply, str) else reply for reply in script or ("Hello",)
        ]
        self._model_id = f"{model}:1"
        self._runner = web.AppRunner(
            self._make_application(),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=0.1,
        )
        self.base_url = ""
        self.requests: list[dict[str, Any]] = []
        self._calls = itertools.count(1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        host, port = self._runner.addresses[0][:2]
        self.base_url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def _make_application(self) -> web.Application:
        application = web.Application()
        application.add_routes(
            [
                web.get("/status", self._get_status),
                web.get("/v1/models", self._list_public_models),
                web.get(f"{_PREFIX}/v1/models", self._list_models),
                web.get(f"{_PREFIX}/models/loaded", self._list_loaded),
                web.get(f"{_PREFIX}/models/{{verb:load|unload}}/{{alias}}", self._load_or_unload),
                web.post(f"{_PREFIX}/v1/chat/completions", self._chat),
            ]
        )
        return application

    async def _get_status(self, _request: web.Request) -> web.Response:
        return _json_response(
            {"endpoints": [self.base_url], "modelCachePath": "fake", "pid": os.getpid()}
        )

    async def _list_public_models(self, _request: web.Request) -> web.Response:
        return _json_response({"object": "list", "data": []})  # as SDK 2.x answers offline

    async def _list_models(self, _request: web.Request) -> web.Response:
        return _json_response({"object": "list", "data": [{"id": self._model_id}]})

    async def _list_loaded(self, _request: web.Request) -> web.Response:
        return _json_response([self._model_id])

    async def _load_or_unload(self, _request: web.Request) -> web.Response:
        return _json_response({})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body: dict[str, Any] = msgspec.json.decode(await request.read())
        reply = self._script[min(len(self.requests), len(self._script) - 1)]
        self.requests.append(body)
        if isinstance(reply, ErrorReply):
            return _error_response(reply)
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        if isinstance(reply, Reply):
            await _send_text(stream, reply.text)
            await stream.write(_encode_end(reply))
            return stream
        if isinstance(reply, ToolCalls):
            await self._send_tool_calls(stream, reply)
            return stream
        await _send_text(stream, reply.after)
        if isinstance(reply, Stall):
            await asyncio.Event().wait()  # until aiohttp cancels it, when the client disconnects
        if request.transport is not None:
            # close(), unlike abort(), delivers the text that was sent before.
            request.transport.close()
        return stream

    async def _send_tool_calls(self, stream: web.StreamResponse, reply: ToolCalls) -> None:
        await _send_text(stream, reply.text)
        for index, (name, arguments) in enumerate(reply.calls):
            function = {"name": name, "arguments": msgspec.json.encode(arguments).decode()}
            call = {"index": index, "id": f"call_{next(self._calls)}", "function": function}
            delta = {"tool_calls": [{**call, "type": "function"}]}
            await stream.write(_encode_event({"choices": [{"index": 0, "delta": delta}]}))
        words = len(_CHUNK_PATTERN.findall(reply.text)) + len(reply.calls)
        usage = reply.usage or Usage(0, words, words)
        await stream.write(_encode_end(Reply(reply.text, "tool_calls", usage)))


def _json_response(content: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), content_type="application/json")


def _error_response(reply: ErrorReply) -> web.Response:
    response = _json_response({"error": {"message": reply.message, "type": "server_error"}})
    response.set_status(reply.status)
    if reply.retry_after_s is not None:
        response.headers["Retry-After"] = f"{reply.retry_after_s:g}"
    return response


async def _send_text(stream: web.StreamResponse, text: str) -> None:
    for piece in _CHUNK_PATTERN.findall(text):
        await stream.write(_encode_event({"choices": [{"index": 0, "delta": {"content": piece}}]}))


def _encode_end(reply: Reply) -> bytes:
    words = len(_CHUNK_PATTERN.findall(reply.text))
    usage = reply.usage or Usage(0, words, words)
    choice: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": reply.finish_reason}
    members: dict[str, Any] = {"choices": [], "usage": msgspec.to_builtins(usage)}
    return _encode_event({"choices": [choice]}) + _encode_event(members) + b"data: [DONE]\n\n"


def _encode_event(members: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(members) + b"\n\n"
