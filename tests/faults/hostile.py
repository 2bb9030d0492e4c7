"""A misbehaving service: a raw socket server whose every byte is scripted by a test.

    async def cut_after_the_head(peer: Peer) -> None:
        await peer.request()
        await peer.send(make_head(content_type="text/event-stream"))

    async with ScriptedServer(cut_after_the_head, answer_all("Hello")) as server:
        ...                                 # the first connection is cut, all others are answered
    assert server.requests[0].json["stream"] is True

Each script serves one connection, and the last one serves all further ones. When a script returns,
its connection is closed normally.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    Script = Callable[["Peer"], Awaitable[None]]

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
LAST_CHUNK = b"0\r\n\r\n"
SOON_S = 0.5


@dataclass(frozen=True)
class Received:
    """A received request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> dict[str, Any]:
        members: dict[str, Any] = json.loads(self.body)
        return members


class Peer:
    """The server's end of one connection.

    Attributes:
        number: The number of the connection, from 0.
        client_closed: Set when the client has closed its end.
        is_waiting: Whether its script waits for the client.
        is_closed: Whether its connection is closed.
    """

    def __init__(
        self,
        number: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_request: Callable[[Received], None],
    ) -> None:
        self.number = number
        self.client_closed = asyncio.Event()
        self._reader = reader
        self._writer = writer
        self._on_request = on_request
        self._read_before: Received | None = None
        self.is_waiting = self.is_closed = False

    async def request(self) -> Received:
        """Read the next request; raise ConnectionError if the client closes instead."""
        if self._read_before is not None:
            received, self._read_before = self._read_before, None
            return received
        try:
            with self._waiting():
                head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError from error
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, path, _ = first.split(" ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        received = Received(method, path, headers, body, self.number)
        self._on_request(received)
        return received

    async def request_head(self) -> None:
        """Read the head of the next request, and leave its body unread."""
        await self._reader.readuntil(b"\r\n\r\n")

    def send_end(self) -> None:
        """Shut down this direction of the connection."""
        self._writer.write_eof()

    def put_back(self, received: Received) -> None:
        """Make the next `request` return this one."""
        self._read_before = received

    async def send(self, *parts: bytes) -> None:
        """Send raw bytes."""
        self._writer.write(b"".join(parts))
        await self._writer.drain()

    async def wait_closed(self) -> None:
        """Wait until the client closes the connection."""
        with contextlib.suppress(ConnectionError), self._waiting():
            while await self._reader.read(2**16):
                pass
        self.client_closed.set()

    def reset(self) -> None:
        """Reset the connection, as a crashing process does."""
        linger_for_0_s = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, linger_for_0_s
        )
        self._writer.transport.abort()

    def drop(self) -> None:
        """Close the connection without its script, unless it is being closed."""
        if not self._writer.is_closing():
            self._writer.transport.abort()
            self.is_closed = True

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
        self.is_closed = True

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        self.is_waiting = True
        try:
            yield
        finally:
            self.is_waiting = False


class ScriptedServer:
    """Listens on a loopback port, within `async with`.

    Attributes:
        requests: The received requests, in order.
        peers: The connections, in order.
        received_any: Set when the first request has been received.
        running: All servers that run.
    """

    running: ClassVar[set[ScriptedServer]] = set()

    def __init__(self, *scripts: Script) -> None:
        self._scripts = scripts
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopped = False
        self.requests: list[Received] = []
        self.peers: list[Peer] = []
        self.received_any = asyncio.Event()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        self.running.add(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        self.running.discard(self)
        self._is_stopped = True
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # A task that was cancelled before its first step has not closed its connection.
        for peer in self.peers:
            peer.drop()
        # On Windows, asyncio misses the end of a connection that was reset while it was accepted.
        if sys.platform != "win32":
            await self._server.wait_closed()

    async def wait_closed(self, connection: int = 0) -> None:
        """Wait until the client has closed a connection, which has to happen soon."""
        async with asyncio.timeout(SOON_S):
            await self.peers[connection].client_closed.wait()

    async def settle(self) -> None:
        """Wait until each script waits for its client or has closed its connection."""
        async with asyncio.timeout(SOON_S):
            while not all(peer.is_waiting or peer.is_closed for peer in self.peers):  # noqa: ASYNC110
                await asyncio.sleep(0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_stopped:
            writer.transport.abort()
            return
        peer = Peer(len(self.peers), reader, writer, self._record)
        self.peers.append(peer)
        task = asyncio.ensure_future(self._serve(peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _record(self, request: Received) -> None:
        self.requests.append(request)
        self.received_any.set()

    async def _serve(self, peer: Peer) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                await self._scripts[min(peer.number, len(self._scripts) - 1)](peer)
        finally:
            await peer.close()


async def get_unused_url() -> str:
    """Return the URL of a port on which no server listens."""
    async with ScriptedServer() as server:
        return server.base_url


# --- bytes ----------------------------------------------------------------------------------


def make_head(
    status: int = 200, *, content_type: str | None = None, length: int | None = None, more: str = ""
) -> bytes:
    """Make the head of a response; without a length the body is chunked."""
    lines = [f"HTTP/1.1 {status} Whatever"]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    lines.append("Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n" + more + "\r\n").encode()


def make_stream_head() -> bytes:
    """Make the head of a stream with repeated headers, as SDK 2.2.1 sends it."""
    doubled = "Cache-Control: no-cache\r\nConnection: keep-alive\r\n"
    return make_head(
        content_type="text/event-stream",
        more=f"Content-Type: text/event-stream\r\n{doubled}{doubled}Server: oatpp/1.3.0\r\n",
    )


def encode_chunk(data: bytes) -> bytes:
    """Encode one chunk of a chunked body."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def make_response(
    status: int, body: bytes, *, content_type: str | None = "application/json", closes: bool = False
) -> bytes:
    """Make a complete response. With `closes`, it says that the connection ends with it."""
    more = "Connection: close\r\n" if closes else ""
    return make_head(status, content_type=content_type, length=len(body), more=more) + body


def make_error_json(message: str) -> bytes:
    """Make an error as the handlers of SDK 2.x do."""
    error = {"code": None, "message": message, "param": None, "type": "invalid_request_error"}
    return json.dumps({"error": error}).encode()


def encode_event(**members: Any) -> bytes:
    """Encode an event with these members."""
    return b"data: " + json.dumps(members).encode() + b"\n\n"


def encode_choice(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    """Encode an event with one choice."""
    return encode_event(choices=[{"delta": delta, "finish_reason": finish_reason, "index": 0}])


def encode_token(text: str) -> bytes:
    """Encode an event with text."""
    return encode_choice({"content": text})


ROLE = encode_choice({"role": "assistant", "content": ""})
STOP = encode_choice({}, "stop")
USAGE = encode_event(
    choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
)


def encode_events(*texts: str) -> tuple[bytes, ...]:
    """Encode the events of a complete answer in the order of SDK 2.2.1."""
    return (ROLE, *map(encode_token, texts), STOP, USAGE, DONE)


# --- scripts --------------------------------------------------------------------------------


def answer_all(*texts: str) -> Script:
    """Answer every request of the connection as a healthy service does."""

    async def serve(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(
                make_stream_head(), *map(encode_chunk, encode_events(*texts)), LAST_CHUNK
            )

    return serve


def send_once(*parts: bytes, stay: bool = False) -> Script:
    """Answer one request with these bytes, then close, or stay until the client leaves."""

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(*parts)
        if stay:
            await peer.wait_closed()

    return serve


def send_stream(*pieces: bytes, stay: bool = False) -> Script:
    """Answer with the head of a stream and these chunks, without the end of the body."""
    return send_once(make_stream_head(), *map(encode_chunk, pieces), stay=stay)


def send_forever(first: bytes, repeated: bytes, *, pause_s: float = 0) -> Script:
    """Answer with `first`, then with `repeated` for as long as the client listens."""

    async def script(peer: Peer) -> None:
        await peer.request()
        listening = asyncio.ensure_future(peer.wait_closed())
        try:
            await peer.send(first)
            while not listening.done():
                await peer.send(repeated)
                await asyncio.sleep(pause_s)
        finally:
            listening.cancel()
            peer.client_closed.set()

    return script


def send_slowly(parts: Iterable[bytes]) -> Script:
    """Answer with each part in its own packet."""

    async def script(peer: Peer) -> None:
        await peer.request()
        for part in parts:
            await peer.send(part)
            await asyncio.sleep(0)

    return script


async def stay_silent(peer: Peer) -> None:
    """Accept the request and send nothing."""
    await peer.request()
    await peer.wait_closed()


async def hang_up(peer: Peer) -> None:
    """Close the connection instead of answering."""
    await peer.request()


async def break_off(peer: Peer) -> None:
    """Reset the connection instead of answering."""
    await peer.request()
    peer.reset()


def close_on_reuse(script: Script) -> Script:
    """Answer the first request and close the connection at the second; then run `script`."""

    async def first(peer: Peer) -> None:
        if peer.number:
            await script(peer)
        await peer.request()
        await peer.send(make_stream_head(), *map(encode_chunk, encode_events("Hello")), LAST_CHUNK)
        await peer.request()

    return first


def on_request(is_expected: Callable[[Received], bool], then: Script, otherwise: Script) -> Script:
    """Run `then` if the first request of a connection is expected, else `otherwise`."""

    async def script(peer: Peer) -> None:
        received = await peer.request()
        peer.put_back(received)
        await (then if is_expected(received) else otherwise)(peer)

    return script


def on_route(route: str, fault: Script, healthy: Callable[[str], bytes]) -> Script:
    """Run `fault` for the paths that contain `route`, and answer all others with `healthy`."""

    async def script(peer: Peer) -> None:
        while route not in (received := await peer.request()).path:
            await peer.send(healthy(received.path))
        peer.put_back(received)
        await fault(peer)

    return script
