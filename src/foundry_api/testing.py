"""What tests of programs that use this package need: a service that answers from a script.

    async def test_my_program() -> None:
        async with FakeService("Hello there") as service:
            client = FoundryAPIClient(service.base_url, model="fake")
            assert await my_program(client) == "HELLO THERE"
        assert service.requests[0]["messages"][-1]["content"] == "Greet me"

The client is the real one, and so is the socket; only the engine behind it is not.
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

__all__ = ["Answer", "Cut", "Failure", "FakeService", "Silence", "ToolCalls", "no_sleep"]

_PREFIX = "/catalogs/local"
_PIECE = re.compile(r"\s*\S+\s*$|\s*\S+|\s+")


@contextmanager
def no_sleep() -> Generator[list[float]]:
    """Make the waits before further attempts take no time, for the calls that are begun inside.

        with no_sleep() as waits:
            await client.complete("…")
        assert len(waits) == 2

    The list that it gives holds the seconds that would have been waited.
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
class Answer:
    """A whole answer, sent word by word.

    Attributes:
        text: What is said.
        finish_reason: Why it ends.
        usage: Tokens to tell; None counts words.
    """

    text: str
    finish_reason: FinishReason = "stop"
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class ToolCalls:
    """Calls of tools instead of an answer.

    Attributes:
        calls: Names of tools, each with its arguments.
        text: What is said before.
        usage: Tokens to tell; None counts words and calls.
    """

    calls: Sequence[tuple[str, Mapping[str, Any]]]
    text: str = ""
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """An error instead of an answer.

    Attributes:
        status: Of HTTP.
        message: What the service says.
        retry_after_s: When to come back, in seconds; None says nothing.
    """

    status: int = 500
    message: str = "the fake service fails, as it was told"
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection is cut, as when the engine crashes.

    Attributes:
        after: Text that was sent before; with none, it breaks before the first token.
    """

    after: str = ""


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing more is said, until the client gives up.

    Attributes:
        after: Text that was sent before.
    """

    after: str = ""


class FakeService:
    """A service of SDK 2.1 on a loopback socket, whose answers are a script.

    Each chat completion takes the next answer of the script; the last one is given for ever.

    Args:
        script: Texts, or any of `Answer`, `ToolCalls`, `Failure`, `Cut` and `Silence`; default
            "Hello".
        model: Alias of the one model that it has.

    Attributes:
        base_url: Its address, once it is entered.
        requests: The JSON bodies of the chat completions that it was asked for.
    """

    def __init__(
        self, *script: str | Answer | ToolCalls | Failure | Cut | Silence, model: str = "fake"
    ) -> None:
        self._script = [
            Answer(one) if isinstance(one, str) else one for one in script or ("Hello",)
        ]
        self._model_id = f"{model}:1"
        self._runner = web.AppRunner(
            self._application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        self.base_url = ""
        self.requests: list[dict[str, Any]] = []
        self._calls = itertools.count(1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.base_url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application()
        application.add_routes(
            [
                web.get("/status", self._status),
                web.get("/v1/models", self._no_catalog),
                web.get(f"{_PREFIX}/v1/models", self._models),
                web.get(f"{_PREFIX}/models/loaded", self._loaded),
                web.get(f"{_PREFIX}/models/{{verb:load|unload}}/{{alias}}", self._done),
                web.post(f"{_PREFIX}/v1/chat/completions", self._chat),
            ]
        )
        return application

    async def _status(self, _request: web.Request) -> web.Response:
        return _json({"endpoints": [self.base_url], "modelCachePath": "fake", "pid": os.getpid()})

    async def _no_catalog(self, _request: web.Request) -> web.Response:
        return _json({"object": "list", "data": []})  # what 2.x answers offline

    async def _models(self, _request: web.Request) -> web.Response:
        return _json({"object": "list", "data": [{"id": self._model_id}]})

    async def _loaded(self, _request: web.Request) -> web.Response:
        return _json([self._model_id])

    async def _done(self, _request: web.Request) -> web.Response:
        return _json({})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body: dict[str, Any] = msgspec.json.decode(await request.read())
        turn = self._script[min(len(self.requests), len(self._script) - 1)]
        self.requests.append(body)
        if isinstance(turn, Failure):
            return _failed(turn)
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        if isinstance(turn, Answer):
            await _send(stream, turn.text)
            await stream.write(_end(turn))
            return stream
        if isinstance(turn, ToolCalls):
            await self._call_tools(stream, turn)
            return stream
        await _send(stream, turn.after)
        if isinstance(turn, Silence):
            await asyncio.Event().wait()  # aiohttp cancels it when the client gives up
        if request.transport is not None:
            # A close, unlike an abort, delivers what was sent before.
            request.transport.close()
        return stream

    async def _call_tools(self, stream: web.StreamResponse, turn: ToolCalls) -> None:
        await _send(stream, turn.text)
        for index, (name, arguments) in enumerate(turn.calls):
            function = {"name": name, "arguments": msgspec.json.encode(arguments).decode()}
            call = {"index": index, "id": f"call_{next(self._calls)}", "function": function}
            delta = {"tool_calls": [{**call, "type": "function"}]}
            await stream.write(_event({"choices": [{"index": 0, "delta": delta}]}))
        words = len(_PIECE.findall(turn.text)) + len(turn.calls)
        usage = turn.usage or Usage(0, words, words)
        await stream.write(_end(Answer(turn.text, "tool_calls", usage)))


def _json(told: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(told), content_type="application/json")


def _failed(failure: Failure) -> web.Response:
    response = _json({"error": {"message": failure.message, "type": "server_error"}})
    response.set_status(failure.status)
    if failure.retry_after_s is not None:
        response.headers["Retry-After"] = f"{failure.retry_after_s:g}"
    return response


async def _send(stream: web.StreamResponse, text: str) -> None:
    for piece in _PIECE.findall(text):
        await stream.write(_event({"choices": [{"index": 0, "delta": {"content": piece}}]}))


def _end(answer: Answer) -> bytes:
    words = len(_PIECE.findall(answer.text))
    usage = answer.usage or Usage(0, words, words)
    choice: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": answer.finish_reason}
    told: dict[str, Any] = {"choices": [], "usage": msgspec.to_builtins(usage)}
    return _event({"choices": [choice]}) + _event(told) + b"data: [DONE]\n\n"


def _event(members: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(members) + b"\n\n"
