"""What the doubles of the command line's services share: Kestrel's framing, and one core's chat.

The answers are the texts of the scripted model, picked by the keyword in the prompt, so that one
suite runs over the real services and over the doubles. The bytes are those that users recorded:

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
from support.scripted_model.scripts import COST_OF_A_MILLISECOND

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from faults.hostile import Received
    from support.scripted_model import Script

CREATED = 1762612476
CREATED_AT = "2025-11-08T14:34:36+00:00"
"""[gh #299]"""

DONE = b"data: [DONE]\n\n"  # [probed 1.2.4]


@dataclass
class DoubledModel:
    """A model of a double.

    Attributes:
        id: With its version.
        alias: Shared by its variants.
        device: CPU, GPU or NPU.
        provider: The execution provider.
        cached: Whether its files are there.
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


def scripted() -> tuple[DoubledModel, ...]:
    """What the real services of the tests have: the scripted model, one broken, one not here."""
    return (
        DoubledModel(f"{VARIANT}:1", ALIAS),
        DoubledModel("Broken-generic-cpu:1", "broken", broken=True),
        DoubledModel("Far-away-generic-cpu:3", "far-away", cached=False),
    )


class KestrelDouble:
    """A double, not the service: a loopback server with the chat that both CLI services have.

    Attributes:
        models: What it knows, in the order of its lists.
        generating: How many answers are being generated.
        loads: How often a model was loaded.
    """

    default_max_tokens = 2048  # [probed 1.2.4]

    def __init__(self, models: tuple[DoubledModel, ...] | None = None) -> None:
        self.models = list(scripted() if models is None else models)
        self.generating = 0
        self.loads = 0
        self._server = ScriptedServer(self._serve)
        self._turn = asyncio.Lock()

    @property
    def base_url(self) -> str:
        """Its address."""
        return self._server.base_url

    @property
    def requests(self) -> list[Received]:
        """What was received, in order."""
        return self._server.requests

    def asked(self, path: str) -> list[Received]:
        """The requests whose path starts so."""
        return [request for request in self.requests if request.path.startswith(path)]

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        await self._server.stop()

    def find(self, model_id: str) -> DoubledModel | None:
        """The model of an id."""
        return next((model for model in self.models if model.id == model_id), None)

    async def _serve(self, peer: Peer) -> None:
        while True:
            received = await peer.request()
            await self._answer(peer, received)

    async def _answer(self, peer: Peer, received: Received) -> None:
        raise NotImplementedError

    async def _chat(self, peer: Peer, asked: dict[str, Any]) -> None:
        if not asked.get("stream"):
            async with self._generation():
                answer = "".join([text async for text in self._tokens(asked)])
            await peer.send(whole(200, self._completion(asked, answer)))
            return
        await peer.send(STREAM_HEAD)
        async with self._generation(), until_left(peer):
            answer = ""
            async for text in self._tokens(asked):
                answer += text
                await peer.send(encode_chunk(event(self._chunk(asked, answer, text))))
            for last in self._end(asked, answer):
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

    def _chunk(self, asked: dict[str, Any], answer: str, text: str) -> dict[str, Any]:
        """A chunk: the piece twice, no finish reason, no usage [gh #299].

        Args:
            asked: The request.
            answer: The text so far.
            text: The piece.
        """
        del answer
        turn = {"role": "assistant", "content": text, "tool_calls": []}
        return {
            "model": asked["model"],
            "choices": [{"delta": turn, "message": turn, "index": 0}],
            "created": CREATED,
            "CreatedAt": CREATED_AT,
            "id": "chat.id.1",
            "IsDelta": False,
            "Successful": True,
            "HttpStatusCode": 0,
            "object": "chat.completion.chunk",
        }

    def _completion(self, asked: dict[str, Any], answer: str) -> dict[str, Any]:
        """A whole answer has the members of a chunk [gh #333, gh #383]."""
        return {**self._chunk(asked, answer, answer), "object": "chat.completion"}

    def _end(self, asked: dict[str, Any], answer: str) -> Iterator[bytes]:
        """What comes behind the last piece."""
        del asked, answer
        yield DONE

    async def _tokens(self, asked: dict[str, Any]) -> AsyncIterator[str]:
        """The characters of the answer, at the pace of the script.

        As in the scripted model a token is a byte, so a bound may fall within a character, which is
        not sent then.
        """
        script = script_for(asked)
        left = limit_of(asked) or self.default_max_tokens
        await asyncio.sleep(_seconds(script.prefill_cost))
        text = script.text * (1 + left // len(script.text)) if script.repeats else script.text
        for character in text:
            left -= len(character.encode())
            if left < 0:
                return
            yield character
            await asyncio.sleep(_seconds(script.cost_per_token))


def _seconds(cost: int) -> float:
    return cost / COST_OF_A_MILLISECOND / 1000


def limit_of(asked: dict[str, Any]) -> int | None:
    """How many tokens were asked for at most."""
    limit: int | None = asked.get("max_completion_tokens") or asked.get("max_tokens")
    return limit


def prompt_tokens_of(asked: dict[str, Any]) -> int:
    """Tokens of the prompt; a turn that only calls tools has no content."""
    turns = [{**turn, "content": turn.get("content") or ""} for turn in asked["messages"]]
    return prompt_tokens(turns)


def script_for(asked: dict[str, Any]) -> Script:
    """The script whose keyword is in the prompt; of several the one that comes last."""
    prompt = " ".join(str(turn.get("content")) for turn in asked["messages"])
    found = [(prompt.rfind(script.keyword), script) for script in ALL_SCRIPTS]
    at, script = max(found, key=lambda each: each[0])
    return script if at >= 0 else ALL_SCRIPTS[0]


def usage_of(asked: dict[str, Any], answer: str) -> dict[str, int]:
    """Tokens as the scripted model counts them."""
    counts = {
        "prompt_tokens": prompt_tokens_of(asked),
        "completion_tokens": len(answer.encode()),
    }
    return {**counts, "total_tokens": sum(counts.values())}


def event(members: dict[str, Any]) -> bytes:
    return b"data: " + encoded(members) + b"\n\n"


def encoded(members: Any) -> bytes:
    """JSON as .NET writes it: no blanks."""
    return json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode()


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nServer: Kestrel\r\n"
    b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
)
"""[probed 1.2.4]"""


def whole(status: int, body: Any = None, *, text: bool = False) -> bytes:
    """An answer with its whole body: JSON, or text; none without."""
    content = b"" if body is None else body.encode() if text else encoded(body)
    kind = "text/plain; charset=utf-8" if text else "application/json; charset=utf-8"
    lines = [f"HTTP/1.1 {status} X", "Server: Kestrel", f"Content-Length: {len(content)}"]
    if content:
        lines.insert(1, f"Content-Type: {kind}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + content


def exception_page(kind: str, message: str) -> str:
    """An exception that nobody handled, as ASP.NET tells it to who does not accept HTML.

    That there is such a body is recorded, its exact text is not [gh #92]; the names in the stack
    are those of the service's log there.
    """
    return (
        f"{kind}: {message}\n"
        "   at Microsoft.Neutron.OpenAI.OpenAIServiceComposite.GetOpenAIServiceProvider(String)\n"
        "   at Microsoft.Neutron.OpenAI.Delegates.OpenAIApi.<ChatCompletionsAsync>d__0.MoveNext()\n"
        "--- End of stack trace from previous location ---\n"
    )


@contextlib.asynccontextmanager
async def until_left(peer: Peer, note: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
    """Give up what is being sent once the client has closed its end.

    Raises:
        ConnectionError: It did.
    """
    sending = asyncio.current_task()
    assert sending
    gone = asyncio.ensure_future(peer.wait_closed())
    gone.add_done_callback(lambda task: None if task.cancelled() else sending.cancel())
    try:
        yield
    except (asyncio.CancelledError, ConnectionError) as error:
        if isinstance(error, asyncio.CancelledError):
            if not peer.client_closed.is_set():
                raise  # the double is being stopped
            sending.uncancel()
        note()
        raise ConnectionResetError from error
    finally:
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
