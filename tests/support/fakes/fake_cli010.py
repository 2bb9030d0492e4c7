"""Doubles of the 0.10 command line, which does not run on this machine: its server, and `foundry`.

    async with Cli010ServiceDouble() as double:
        foundry_cli_double(directory, double)       # for PATH
        client = FoundryAPIClient(base_url=double.base_url)

Sources: those of `fake_sdk1_server`; third-party programs that use 0.10.2 and 0.10.3 [3p], as
collected in docs/foundry-local-service.md, 1B and 2; issues of microsoft/foundry-local [gh #N]; and
SDK 1.2.4, which has the same core [probed 1.2.4].
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, Literal, Self

from service.fakes import install_foundry
from support.fakes.fake_sdk1_server import (
    STREAM_HEAD,
    DoubledModel,
    KestrelDouble,
    encoded,
    event,
    limit_of,
    prompt_tokens_of,
    usage_of,
    whole,
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

CONTEXT_LENGTH = 8192
"""The scripted model's."""

SPINNER = "| Connecting to Foundry Local...\n"
"""That there may be lines before the JSON is known, their text is not [3p]."""


class Cli010ServiceDouble(KestrelDouble):
    """A double, not the server: what users of 0.10.2 and 0.10.3 recorded.

    Its daemon, which `foundry` talks to, listens on a port of its own: how the real ones talk is
    not known and does not matter.

    Args:
        models: What it knows.
        lists: What `/v1/models` lists: reports conflict [3p].
        versioned: Whether its ids there have their version: reports conflict [3p].
        model_routes: Whether it has the routes of SDK 1.x for models, which is not known.
        mute_streams: Whether a stream that fails breaks off without a byte [probed 1.2.4].
        knows_variants: Whether `foundry model list` has `--variants`.
        lingering_load: Whether `foundry model load` runs on after the model is there [3p].
        held_load: Whether it runs on and the model never comes.
        failing: What `foundry model …` complains of, instead of doing anything.
        held_download: Whether a download stops half way.

    Attributes:
        commands: What `foundry` was run with.
        running: How many of them run.
    """

    def __init__(
        self,
        models: tuple[DoubledModel, ...] | None = None,
        *,
        lists: Literal["cached", "loaded"] = "cached",
        versioned: bool = True,
        model_routes: bool = False,
        mute_streams: bool = True,
        knows_variants: bool = True,
        lingering_load: bool = False,
        held_load: bool = False,
        failing: str | None = None,
        held_download: bool = False,
    ) -> None:
        super().__init__(models)
        self.commands: list[list[str]] = []
        self.running = 0
        self.failing = failing
        self._lists = lists
        self._versioned = versioned
        self._model_routes = model_routes
        self._mute_streams = mute_streams
        self._knows_variants = knows_variants
        self._lingering_load = lingering_load
        self._held_load = held_load
        self._held_download = held_download
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
        """Where `foundry` finds it."""
        port: int = self._daemon.sockets[0].getsockname()[1]
        return port

    # --- HTTP -------------------------------------------------------------------------------

    async def _answer(self, peer: Peer, received: Received) -> None:
        match received.method, received.path.strip("/").split("/"):
            case "GET", ["v1", "models"]:
                await peer.send(whole(200, self._listing()))
            case "POST", ["v1", "chat", "completions"]:
                await self._complete(peer, received.json)
            case "POST", ["v1", "embeddings"]:  # that it is there, others say [3p]
                message = NOT_LOADED.format(received.json["model"])
                await self._refuse(peer, received.json, message)
            case "GET", ["models", *route] if self._model_routes:
                await peer.send(self._manage(route))
            case _:  # `/openai/loadedmodels` among them [3p, 0.10.3]
                await peer.send(whole(404))

    def _listing(self) -> dict[str, Any]:
        """The shape is that of [probed 1.2.4]; `parent` is the alias [3p]."""
        shown = [model for model in self.models if getattr(model, self._lists)]
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
            for model in shown
        ]
        return {"data": items, **FLAGS, "object": "list"}

    def _manage(self, route: list[str]) -> bytes:
        """The routes of SDK 1.x [probed 1.2.4]."""
        if route == ["loaded"]:
            return whole(200, [model.id for model in self.models if model.loaded])
        verb, name = route
        model = self.find(name)
        if verb == "load" and (model is None or not model.cached or model.broken):
            return whole(500)
        if model is not None:
            model.loaded = verb == "load"
            self.loads += model.loaded
        return whole(200)

    async def _complete(self, peer: Peer, asked: dict[str, Any]) -> None:
        model = self.find(asked["model"])
        if model is None or not model.loaded:
            await self._refuse(peer, asked, NOT_LOADED.format(asked["model"]))
        elif sum(tokens := _tokens(asked)) > CONTEXT_LENGTH:
            await self._refuse(peer, asked, OVERFLOW.format(sum(tokens), *tokens))
        else:
            await self._chat(peer, asked)

    async def _refuse(self, peer: Peer, asked: dict[str, Any], message: str) -> None:
        if self._mute_streams and asked.get("stream"):
            await peer.send(STREAM_HEAD)
            raise ConnectionAbortedError
        told = {"message": message, "type": "invalid_request_error", "code": None}
        await peer.send(whole(400, {"error": told}))

    def _chunk(self, asked: dict[str, Any], answer: str, text: str) -> dict[str, Any]:
        """A chunk with what was counted so far [probed 1.2.4]."""
        return {**super()._chunk(asked, answer, text), "usage": usage_of(asked, answer)}

    def _completion(self, asked: dict[str, Any], answer: str) -> dict[str, Any]:
        whole_answer = super()._completion(asked, answer)
        whole_answer["choices"][0]["finish_reason"] = _reason(asked, answer)
        return whole_answer

    def _end(self, asked: dict[str, Any], answer: str) -> Iterator[bytes]:
        last = self._chunk(asked, answer, "")
        last["choices"][0]["finish_reason"] = _reason(asked, answer)
        yield event(last)
        yield event({**last, "choices": []})
        yield from super()._end(asked, answer)

    # --- the daemon behind `foundry` -----------------------------------------------------------

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._command(reader, writer))
        self._daemon_tasks.add(task)
        task.add_done_callback(self._daemon_tasks.discard)

    async def _command(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arguments: list[str] = json.loads(await reader.readline())
        self.commands.append(arguments)
        self.running += 1
        obeying = asyncio.ensure_future(self._obey(arguments, writer))
        killed = asyncio.ensure_future(reader.read())
        try:
            await asyncio.wait((obeying, killed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.running -= 1
            for task in (obeying, killed):
                task.cancel()
            await asyncio.gather(obeying, killed, return_exceptions=True)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _obey(self, arguments: list[str], writer: asyncio.StreamWriter) -> None:
        code = 0
        async for stream, text in self._run(arguments):
            code = 1 if stream == "err" else code
            writer.write(encoded({stream: text}) + b"\n")
            await writer.drain()
        writer.write(encoded({"exit": code}) + b"\n")
        await writer.drain()

    async def _run(self, arguments: list[str]) -> AsyncIterator[tuple[str, str]]:
        """What a command prints; an error makes it fail."""
        match arguments:
            case ["--version"]:
                yield "out", "0.10.3\n"
            case ["server", "status", "-o" | "--output", "json"]:
                yield "out", SPINNER + self._server_status()
            case ["cache", "location", "-o" | "--output", "json"]:
                yield "out", SPINNER + json.dumps({"path": "/models", "userSet": False})
            case ["model", "list", *options]:
                yield self._model_list(options)
            case ["model", "load" | "unload" | "download" as verb, name]:
                async for said in self._manage_by_command(verb, name):
                    yield said
            case _:  # [dotnet-presentations/ai-workshop #574]
                yield "err", f"● error: Unrecognized command or argument '{arguments[0]}'.\n"

    def _server_status(self) -> str:
        """The fields are gathered from several parsers; the whole object is not known [3p]."""
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
        """`models` with `id`, or with `--variants` `variants` with `variantId` [3p]."""
        variants = "--variants" in options
        if variants and not self._knows_variants:
            return "err", "● error: Unrecognized command or argument '--variants'.\n"
        shown = [
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
            for model in shown
        ]
        return "out", SPINNER + json.dumps({"variants" if variants else "models": items})

    async def _manage_by_command(self, verb: str, name: str) -> AsyncIterator[tuple[str, str]]:
        model = self.find(name)
        if self.failing or model is None:
            yield "err", f"{self.failing or f'Model {name} was not found in the catalog'}\n"
        elif verb == "download":
            for percent in (0, 12.5, 50, 100):
                yield "out", f"Downloading {name} {percent}%\r"  # its text is not known
                if percent and self._held_download:
                    await asyncio.Event().wait()
            model.cached = True
        elif verb == "load" and (model.broken or not model.cached):
            what = "cannot be loaded" if model.broken else "is not cached"
            yield "err", f"Model {name} {what}\n"  # its text is not known
        else:
            if verb == "load" and self._held_load:
                await asyncio.Event().wait()
            model.loaded = verb == "load"
            self.loads += model.loaded
            if model.loaded and self._lingering_load:
                await asyncio.Event().wait()


def foundry_cli_double(directory: Path, double: Cli010ServiceDouble) -> None:
    """A double of `foundry` 0.10 for PATH, which speaks to the daemon of a double.

    Args:
        directory: Where it goes.
        double: Whose models it manages.
    """
    install_foundry(
        directory,
        "import json, socket, sys\n"
        "for stream in (sys.stdout, sys.stderr):\n"
        "    stream.reconfigure(encoding='utf-8')\n"
        f"daemon = socket.create_connection(('127.0.0.1', {double.daemon_port}))\n"
        "daemon.sendall(json.dumps(sys.argv[1:]).encode() + b'\\n')\n"
        "for line in daemon.makefile(encoding='utf-8'):\n"
        "    said = json.loads(line)\n"
        "    print(said.get('out', ''), end='', flush=True)\n"
        "    print(said.get('err', ''), end='', file=sys.stderr, flush=True)\n"
        "    if 'exit' in said:\n"
        "        sys.exit(said['exit'])\n",
    )


def _tokens(asked: dict[str, Any]) -> tuple[int, int]:
    """Those of the prompt, and those that were asked for."""
    return prompt_tokens_of(asked), limit_of(asked) or 0


def _reason(asked: dict[str, Any], answer: str) -> str:
    """Only `max_tokens` is told from an end of its own [probed 1.2.4]."""
    limit = None if asked.get("max_completion_tokens") else limit_of(asked)
    return "length" if limit and len(answer.encode()) >= limit else "stop"
