"""Fakes of CLI 0.10, which does not run on this machine: its server and its `foundry` command.

    async with FakeCli010Service() as fake:
        install_fake_cli010(directory, fake)         # the directory has to be on PATH
        client = FoundryAPIClient(base_url=fake.base_url)

Sources: those of `fake_sdk1_server`; third-party programs that use 0.10.2 and 0.10.3 [3p], as
collected in docs/foundry-local-service.md, 1B and 2; issues of microsoft/foundry-local [gh #N]; and
SDK 1.2.4, which has the same core [probed 1.2.4].
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, Literal, Self

from service.fakes import install_foundry_program
from support.fakes.fake_sdk1_server import (
    STREAM_HEAD,
    FakeKestrelServer,
    FakeModel,
    count_prompt_tokens,
    encode_event,
    get_token_limit,
    make_response,
    make_usage,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from faults.hostile import Peer, Received

FLAGS = {"IsDelta": False, "Successful": True, "HttpStatusCode": 0}
NOT_LOADED = "Model '{}' is not loaded. Please load the model before getting a ChatClient."
"""[probed 1.2.4]"""

OVERFLOW = (
    "Failed to handle OpenAI completion: This request requires {} total tokens ({} input + {} "
    "output), which exceeds the model's maximum context length of 8192 tokens. Please reduce "
    "'max_tokens'or shorten your input. (Parameter 'chatRequest')"
)
"""[probed 1.2.4]"""

CONTEXT_LENGTH = 8192  # of the scripted model

SPINNER = "| Connecting to Foundry Local...\n"
"""There may be lines before the JSON, whose text is unknown [3p]."""


class FakeCli010Service(FakeKestrelServer):
    """A fake server that behaves as users of 0.10.2 and 0.10.3 recorded it.

    The fake `foundry` sends its commands to a second port. The protocol between the real ones is
    unknown and does not matter.

    Args:
        models: Its models.
        lists: Which models `/v1/models` lists; reports differ [3p].
        versioned: Whether the ids in that list have their version; reports differ [3p].
        model_routes: Whether it has the model routes of SDK 1.x, which is unknown.
        mute_streams: Whether a failed stream ends without an event [probed 1.2.4].
        has_variants_option: Whether `foundry model list` has `--variants`.
        lingering_load: Whether `foundry model load` keeps running after the model is loaded [3p].
        stalled_load: Whether `foundry model load` never ends and never loads the model.
        failing: The error message of `foundry model …`, which fails if it is set.
        stalled_download: Whether downloads stall half way.

    Attributes:
        commands: The arguments of each run of `foundry`.
        running: Number of commands that are running.
    """

    def __init__(
        self,
        models: tuple[FakeModel, ...] | None = None,
        *,
        lists: Literal["cached", "loaded"] = "cached",
        versioned: bool = True,
        model_routes: bool = False,
        mute_streams: bool = True,
        has_variants_option: bool = True,
        lingering_load: bool = False,
        stalled_load: bool = False,
        failing: str | None = None,
        stalled_download: bool = False,
    ) -> None:
        super().__init__(models)
        self.commands: list[list[str]] = []
        self.running = 0
        self.failing = failing
        self._lists = lists
        self._versioned = versioned
        self._model_routes = model_routes
        self._mute_streams = mute_streams
        self._has_variants_option = has_variants_option
        self._lingering_load = lingering_load
        self._stalled_load = stalled_load
        self._stalled_download = stalled_download
        self._daemon_tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._daemon = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return await super().__aenter__()

    async def stop(self) -> None:
        await super().stop()
        self._daemon.close()
        for task in self._daemon_tasks:
            task.cancel()
        await asyncio.gather(*self._daemon_tasks, return_exceptions=True)
        await self._daemon.wait_closed()

    @property
    def daemon_port(self) -> int:
        """The port to which the fake `foundry` connects."""
        port: int = self._daemon.sockets[0].getsockname()[1]
        return port

    # --- HTTP -------------------------------------------------------------------------------

    async def _answer(self, peer: Peer, request: Received) -> None:
        match request.method, request.path.strip("/").split("/"):
            case "GET", ["v1", "models"]:
                await peer.send(make_response(200, self._make_listing()))
            case "POST", ["v1", "chat", "completions"]:
                await self._complete(peer, request.json)
            case "POST", ["v1", "embeddings"]:  # the route exists according to third parties [3p]
                message = NOT_LOADED.format(request.json["model"])
                await self._send_error(peer, request.json, message)
            case "GET", ["models", *route] if self._model_routes:
                await peer.send(self._manage(route))
            case _:  # including `/openai/loadedmodels` [3p, 0.10.3]
                await peer.send(make_response(404))

    def _make_listing(self) -> dict[str, Any]:
        """The shape is that of [probed 1.2.4]; `parent` is the alias [3p]."""
        models = [model for model in self.models if getattr(model, self._lists)]
        items = [
            {
                "id": model.id if self._versioned else model.id.partition(":")[0],
                "owned_by": "",
                "permission": [],
                "created": 0,
                "CreatedTime": "1970-01-01T00:00:00+00:00",
                "parent": model.alias,
                **FLAGS,
                "object": "model",
            }
            for model in models
        ]
        return {"data": items, **FLAGS, "object": "list"}

    def _manage(self, route: list[str]) -> bytes:
        """Handle the model routes of SDK 1.x [probed 1.2.4]."""
        if route == ["loaded"]:
            return make_response(200, [model.id for model in self.models if model.loaded])
        verb, name = route
        model = self.find(name)
        if verb == "load" and (model is None or not model.cached or model.broken):
            return make_response(500)
        if model is not None:
            model.loaded = verb == "load"
            self.loads += model.loaded
        return make_response(200)

    async def _complete(self, peer: Peer, body: dict[str, Any]) -> None:
        model = self.find(body["model"])
        if model is None or not model.loaded:
            await self._send_error(peer, body, NOT_LOADED.format(body["model"]))
        elif sum(tokens := _count_tokens(body)) > CONTEXT_LENGTH:
            await self._send_error(peer, body, OVERFLOW.format(sum(tokens), *tokens))
        else:
            await self._chat(peer, body)

    async def _send_error(self, peer: Peer, body: dict[str, Any], message: str) -> None:
        if self._mute_streams and body.get("stream"):
            await peer.send(STREAM_HEAD)
            raise ConnectionAbortedError
        error = {"message": message, "type": "invalid_request_error", "code": None}
        await peer.send(make_response(400, {"error": error}))

    def _make_chunk(self, body: dict[str, Any], answer: str, text: str) -> dict[str, Any]:
        """Return a chunk with the usage so far [probed 1.2.4]."""
        return {**super()._make_chunk(body, answer, text), "usage": make_usage(body, answer)}

    def _make_completion(self, body: dict[str, Any], answer: str) -> dict[str, Any]:
        completion = super()._make_completion(body, answer)
        completion["choices"][0]["finish_reason"] = _get_finish_reason(body, answer)
        return completion

    def _make_last_events(self, body: dict[str, Any], answer: str) -> Iterator[bytes]:
        last = self._make_chunk(body, answer, "")
        last["choices"][0]["finish_reason"] = _get_finish_reason(body, answer)
        yield encode_event(last)
        yield encode_event({**last, "choices": []})
        yield from super()._make_last_events(body, answer)

    # --- commands of the fake `foundry` -----------------------------------------------------------

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._handle_command(reader, writer))
        self._daemon_tasks.add(task)
        task.add_done_callback(self._daemon_tasks.discard)

    async def _handle_command(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        arguments: list[str] = ast.literal_eval((await reader.readline()).decode())
        self.commands.append(arguments)
        self.running += 1
        execution = asyncio.ensure_future(self._execute(arguments, writer))
        disconnect = asyncio.ensure_future(reader.read())
        try:
            await asyncio.wait((execution, disconnect), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.running -= 1
            for task in (execution, disconnect):
                task.cancel()
            await asyncio.gather(execution, disconnect, return_exceptions=True)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _execute(self, arguments: list[str], writer: asyncio.StreamWriter) -> None:
        code = 0
        async for stream, text in self._run(arguments):
            code = 1 if stream == "stderr" else code
            writer.write(ascii((stream, text)).encode() + b"\n")
            await writer.drain()
        writer.write(ascii(("exit", code)).encode() + b"\n")
        await writer.drain()

    async def _run(self, arguments: list[str]) -> AsyncIterator[tuple[str, str]]:
        """Yield the output of a command; text on stderr makes it fail."""
        match arguments:
            case ["--version"]:
                yield "stdout", "0.10.3\n"
            case ["server", "status", "-o" | "--output", "json"]:
                yield "stdout", SPINNER + self._server_status()
            case ["cache", "location", "-o" | "--output", "json"]:
                yield "stdout", SPINNER + json.dumps({"path": "/models", "userSet": False})
            case ["model", "list", *options]:
                yield self._model_list(options)
            case ["model", "load" | "unload" | "download" as verb, name]:
                async for output in self._run_model_command(verb, name):
                    yield output
            case _:  # [dotnet-presentations/ai-workshop #574]
                yield "stderr", f"● error: Unrecognized command or argument '{arguments[0]}'.\n"

    def _server_status(self) -> str:
        """The members come from several parsers; the complete object is unknown [3p]."""
        port = int(self.base_url.rpartition(":")[2])
        return json.dumps(
            {
                "running": True,
                "state": "ready",
                "webUrls": [self.base_url],
                "port": port,
                "pid": 29056,
                "startedAt": "2026-07-27T05:17:06Z",
                "idleTimeoutMinutes": 0,
            }
        )

    def _model_list(self, options: list[str]) -> tuple[str, str]:
        """List `models` with `id`, or with `--variants`, `variants` with `variantId` [3p]."""
        variants = "--variants" in options
        if variants and not self._has_variants_option:
            return "stderr", "● error: Unrecognized command or argument '--variants'.\n"
        models = [
            model
            for model in self.models
            if ("--loaded" not in options or model.loaded)
            and ("--cached" not in options or model.cached)
        ]
        key = "variantId" if variants else "id"
        items = [
            {
                "alias": model.alias,
                key: model.id,
                "type": "Chat",
                "device": model.device.lower(),
                "cached": model.cached,
                "supportsToolCalling": True,
                "fileSizeMb": 29,
            }
            for model in models
        ]
        return "stdout", SPINNER + json.dumps({"variants" if variants else "models": items})

    async def _run_model_command(self, verb: str, name: str) -> AsyncIterator[tuple[str, str]]:
        model = self.find(name)
        if self.failing or model is None:
            yield "stderr", f"{self.failing or f'Model {name} was not found in the catalog'}\n"
        elif verb == "download":
            for percent in (0, 12.5, 50, 100):
                yield "stdout", f"Downloading {name} {percent}%\r"  # the real text is unknown
                if percent and self._stalled_download:
                    await asyncio.Event().wait()
            model.cached = True
        elif verb == "load" and (model.broken or not model.cached):
            problem = "cannot be loaded" if model.broken else "is not cached"
            yield "stderr", f"Model {name} {problem}\n"  # the real text is unknown
        else:
            if verb == "load" and self._stalled_load:
                await asyncio.Event().wait()
            model.loaded = verb == "load"
            self.loads += model.loaded
            if model.loaded and self._lingering_load:
                await asyncio.Event().wait()


def install_fake_cli010(directory: Path, fake: FakeCli010Service) -> None:
    """Install a fake `foundry` 0.10, which manages the models of a fake service.

    Args:
        directory: A directory on PATH.
        fake: The fake service.
    """
    # Tests start it often, so it imports only what is built into Python: `json` and `socket`
    # would take longer than the start of Python.
    install_foundry_program(
        directory,
        "import _socket, sys\n"
        "for stream in (sys.stdout, sys.stderr):\n"
        "    stream.reconfigure(encoding='utf-8')\n"
        "daemon = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)\n"
        f"daemon.connect(('127.0.0.1', {fake.daemon_port}))\n"
        "daemon.sendall(ascii(sys.argv[1:]).encode() + b'\\n')\n"
        "rest = b''\n"
        "while part := daemon.recv(65536):\n"
        "    *lines, rest = (rest + part).split(b'\\n')\n"
        "    for stream, value in map(eval, lines):\n"
        "        if stream == 'exit':\n"
        "            sys.exit(value)\n"
        "        print(value, end='', file=getattr(sys, stream), flush=True)\n",
    )


def _count_tokens(body: dict[str, Any]) -> tuple[int, int]:
    """Return the tokens of the prompt and the requested tokens."""
    return count_prompt_tokens(body), get_token_limit(body) or 0


def _get_finish_reason(body: dict[str, Any], answer: str) -> str:
    """Return the finish reason; with `max_completion_tokens` it is always `stop` [probed 1.2.4]."""
    limit = None if body.get("max_completion_tokens") else get_token_limit(body)
    return "length" if limit and len(answer.encode()) >= limit else "stop"
