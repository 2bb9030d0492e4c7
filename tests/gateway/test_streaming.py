"""How streams are written to the connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
import pytest

from gateway.serving import serve
from gateway.shapes import parse_events
from support.fake_transport import FakeTransport

if TYPE_CHECKING:
    from pathlib import Path


def encode_event(**members: object) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(members)


def encode_choice(finish_reason: str | None = None, **delta: str) -> bytes:
    return encode_event(choices=[{"index": 0, "delta": delta, "finish_reason": finish_reason}])


USAGE = {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
ANSWER = (
    b"".join(encode_choice(content=text) for text in ("One", " two", " three"))
    + encode_choice("stop")
    + encode_event(choices=[], usage=USAGE)
    + b"data: [DONE]\n\n"
)
ANSWERS = {
    "/status": (200, b'{"endpoints":[],"modelCachePath":"/x","pid":1}'),
    "/catalogs/local/v1/models": (200, b'{"object":"list","data":[{"id":"tiny:1"}]}'),
    "/catalogs/local/models/loaded": (200, b'["tiny:1"]'),
    "/catalogs/local/v1/chat/completions": (200, ANSWER),
}
MESSAGES = [{"role": "user", "content": "Count"}]


async def read_pieces(url: str, path: str, body: dict[str, Any]) -> list[bytes]:
    """Make a call; return the pieces in which the body of the response was sent."""
    address, data = urlsplit(url), msgspec.json.encode(body)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n".encode()
        + data
    )
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
    pieces: list[bytes] = []
    while size := int(await reader.readline(), 16):
        pieces.append((await reader.readexactly(size + 2))[:-2])
    writer.close()
    return pieces


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/completions", {"prompt": "Count"}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 9}),
        ("/v1/responses", {"input": "Count"}),
    ],
)
async def test_events_that_arrived_together_are_sent_together(
    tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    """A write costs more than the tokens in it."""
    client = {"transport": FakeTransport(ANSWERS)}
    async with serve(tmp_path, "http://service", client=client) as served:
        request = {"model": "tiny", "stream": True, **body}
        pieces = await read_pieces(served.gateway.url, path, request)
    assert len(pieces) == 2  # the text, and the end
    assert all(text in pieces[0] for text in (b'"One"', b'" two"', b'" three"'))
    events = parse_events(b"".join(pieces).decode())
    assert len(events) > 4
