"""A service that sends prepared bytes from its own process and costs far less than any client.

It implements parts of SDK 2.2.1, OpenAI's API and Ollama's. The prompt selects the answer:

- `short`: two tokens, each in its own packet;
- `long`: 500 tokens, five per packet;
- `single`: 500 tokens, one per packet;
- `paced`: 20 tokens, one every 5 ms, as an engine sends them;
- `stamped`: 60 tokens, one every 200 ms, each its number and when it was sent, in ns;
- `slow`: one token per second, until the client disconnects.

A chat of OpenAI's API without `"stream":true` gets the answer as one JSON document.

`GET /bench/down` and `/bench/up` start and end an outage. These and `/bench/counts` return the
number of requests while up, while down, and for chats.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

MODEL = "tiny:1"
LONG = 500
PER_PACKET = 5
PACED, PACE_S = 20, 0.005
STAMPED, STAMP_S = 60, 0.2


def piece(data: bytes) -> bytes:
    """Encode a chunk of a chunked body."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(content: dict[str, Any]) -> bytes:
    """Encode a server-sent event."""
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    """Encode a token as OpenAI's API and Foundry Local do."""
    choice = {"delta": delta, "finish_reason": finish_reason, "index": 0}
    return event(
        {
            "choices": [choice],
            "created": 1764000000,
            "id": "chatcmpl-1234567890",
            "model": MODEL,
            "object": "chat.completion.chunk",
        }
    )


def line(text: str, *, done: bool) -> bytes:
    """Encode a token as Ollama does."""
    content: dict[str, Any] = {
        "model": MODEL,
        "created_at": "2026-11-24T00:00:00.000000Z",
        "message": {"role": "assistant", "content": text},
        "done": done,
    }
    if done:
        content |= {"done_reason": "stop", "prompt_eval_count": 3, "eval_count": 2}
    return json.dumps(content).encode() + b"\n"


def word(number: int) -> str:
    # Consecutive tokens differ: litellm treats a repeated one as an error of the model.
    return f" tok{number % 100:02}"


def count(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": tokens + 3}


def completion(tokens: int) -> dict[str, Any]:
    """Return an answer that is not streamed, in OpenAI's form."""
    text = "".join(map(word, range(tokens)))
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {
        "choices": [{"index": 0, **choice}],
        "created": 1764000000,
        "id": "chatcmpl-1234567890",
        "model": MODEL,
        "object": "chat.completion",
        "usage": count(tokens),
    }


def sse(tokens: int) -> list[bytes]:
    """Encode an answer as server-sent events."""
    usage = event(
        {
            "choices": [],
            "created": 1764000000,
            "id": "chatcmpl-1234567890",
            "model": MODEL,
            "object": "chat.completion.chunk",
            "usage": count(tokens),
        }
    )
    end = [chunk({}, "stop"), usage, b"data: [DONE]\n\n"]
    start = chunk({"role": "assistant", "content": ""})
    return [piece(e) for e in [start, *(chunk({"content": word(n)}) for n in range(tokens)), *end]]


def ndjson(tokens: int) -> list[bytes]:
    """Encode an answer as JSON lines."""
    lines = [*(line(word(n), done=False) for n in range(tokens)), line("", done=True)]
    return [piece(content) for content in lines]


def packets(pieces: list[bytes], size: int) -> list[bytes]:
    """Join `size` pieces per packet, with the end of the body in the last one."""
    groups = [b"".join(pieces[i : i + size]) for i in range(0, len(pieces), size)]
    return [*groups[:-1], groups[-1] + b"0\r\n\r\n"]


def render_json(content: object, status: str = "200 OK") -> bytes:
    """Encode a complete HTTP response."""
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\nServer: oatpp/1.3.0\r\n\r\n".encode() + body


def stream_head(kind: str) -> bytes:
    fields = ("Transfer-Encoding: chunked", "Cache-Control: no-cache", "Connection: keep-alive")
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Type: {kind}", *fields, "", ""]).encode()


HEADS = {"sse": stream_head("text/event-stream"), "ndjson": stream_head("application/x-ndjson")}
TOKEN = {"sse": piece(chunk({"content": word(0)})), "ndjson": piece(line(word(0), done=False))}
LENGTHS = ("long", "single", "paced")
ANSWERS = {
    (form, length): packets(render(tokens), size)
    for form, render in (("sse", sse), ("ndjson", ndjson))
    for length, tokens, size in (
        ("short", 2, 1),
        ("long", LONG, PER_PACKET),
        ("single", LONG, 1),
        ("paced", PACED, 1),
    )
}
END = piece(chunk({}, "stop")) + piece(b"data: [DONE]\n\n") + b"0\r\n\r\n"
WHOLE = {length: render_json(completion(n)) for length, n in (("short", 2), ("long", LONG))}
STATUS = {"endpoints": [], "modelDirPath": "/x", "modelCachePath": "/x", "pid": 1}
PLAIN = {
    "/status": render_json(STATUS),
    "/catalogs/local/v1/models": render_json({"object": "list", "data": [{"id": MODEL}]}),
    "/catalogs/local/models/loaded": render_json([MODEL]),
}
DOWN = render_json({"error": {"message": "Service Unavailable"}}, "503 Service Unavailable")


class State:
    def __init__(self) -> None:
        self.up = True
        self.counts = {"up": 0, "down": 0, "chats": 0}


class Service(asyncio.Protocol):
    """A connection to the service."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - asyncio declares the base class
        self._transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            size = get_content_length(self._received[:end])
            if len(self._received) < end + 4 + size:
                return
            path = self._received.split(b" ", 2)[1].decode()
            body = self._received[end + 4 : end + 4 + size]
            self._received = self._received[end + 4 + size :]
            self._answer(path, body)

    def _answer(self, path: str, body: bytes) -> None:
        if path.startswith("/bench/"):
            self._state.up = {"down": False, "up": True}.get(path[7:], self._state.up)
            self._write(render_json(self._state.counts))
            return
        self._state.counts["up" if self._state.up else "down"] += 1
        if not self._state.up:
            self._write(DOWN)
        elif path.endswith(("/chat/completions", "/api/chat")):
            self._state.counts["chats"] += 1
            form = "ndjson" if path.endswith("/api/chat") else "sse"
            if form == "sse" and b'"stream":true' not in body.replace(b" ", b""):
                self._write(WHOLE["long" if b"long" in body else "short"])
                return
            asyncio.get_running_loop().create_task(self._stream(form, body))
        else:
            self._write(PLAIN.get(path) or render_json({}))

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    async def _stream(self, form: str, body: bytes) -> None:
        self._write(HEADS[form])
        while b"slow" in body and self._transport is not None:
            self._write(TOKEN[form])
            await asyncio.sleep(1)
        if b"stamped" in body:
            loop = asyncio.get_running_loop()
            started_at = loop.time()
            for number in range(STAMPED):
                # By the clock: a token that is late delays no later one.
                await asyncio.sleep(started_at + STAMP_S * number - loop.time())
                self._write(piece(chunk({"content": f"{number}:{time.monotonic_ns()} "})))
            self._write(END)
            return
        length = next((name for name in LENGTHS if name.encode() in body), "short")
        for packet in ANSWERS[form, length]:
            self._write(packet)
            await asyncio.sleep(PACE_S if length == "paced" else 0)


def get_content_length(head: bytes) -> int:
    for field in head.lower().split(b"\r\n"):
        if field.startswith(b"content-length:"):
            return int(field[15:])
    return 0


@contextmanager
def start() -> Generator[str]:
    """Run the service in its own process and yield its base URL."""
    with subprocess.Popen(
        [sys.executable, __file__], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


async def main() -> None:
    """Serve until killed."""
    state = State()
    server = await asyncio.get_running_loop().create_server(lambda: Service(state), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
