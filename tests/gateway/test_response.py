"""How a response ends, and its connection with it, in each version of HTTP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
import pytest

from gateway.serving import CHAT, make_body, serve
from gateway.test_streaming import ANSWERS
from support.fake_transport import FakeTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ORIGIN = "https://app.example"
# By version and `Connection` of the request: whether the connection stays open.
KEPT = {("1.0", ""): False, ("1.0", "keep-alive"): True, ("1.1", ""): True, ("1.1", "close"): False}
# By name: the request line, further headers, the status, and how the body ends.
FORMS = {
    "complete": (f"POST {CHAT}", "", 200, "length"),
    "stream": (f"POST {CHAT}", "", 200, "end"),
    "head": ("HEAD /healthz", "", 200, "head"),
    "no content": ("OPTIONS /v1/models", f"Origin: {ORIGIN}\r\n", 204, "none"),
    "unchanged": ("GET /", "If-None-Match: *\r\n", 304, "none"),
    "error": ("GET /v1/nothing", "", 404, "length"),
}


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[str]:
    """The address of a gateway in front of a service with one answer."""
    config, client = {"origins": (ORIGIN,)}, {"transport": FakeTransport(ANSWERS)}
    async with serve(tmp_path, "http://service", config=config, client=client) as served:
        yield urlsplit(served.gateway.url).netloc


async def send(host: str, data: bytes) -> bytes:
    """Send data on one connection; return what arrives until the gateway closes it."""
    reader, writer = await asyncio.open_connection(*host.split(":"))
    writer.write(data)
    async with asyncio.timeout(30):
        received = await reader.read()
    writer.close()
    return received


@pytest.mark.parametrize(("version", "connection"), KEPT)
@pytest.mark.parametrize("form", FORMS)
async def test_a_response_has_an_end(host: str, version: str, connection: str, form: str) -> None:
    target, headers, status, end = FORMS[form]
    body = msgspec.json.encode(make_body("Count", "tiny", stream=form == "stream"))
    headers += f"Connection: {connection}\r\n" if connection else ""
    common = f"HTTP/{version}\r\nHost: {host}\r\n{headers}"
    content = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    request = f"{target} {common}".encode() + (content + body if "POST" in target else b"\r\n")
    last = f"GET /healthz HTTP/{version}\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    received = await send(host, request + (last if KEPT[version, connection] else b""))
    head, _, rest = received.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/{version} {status} ".encode())
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert fields.keys() >= {b"Date", b"Server", b"Content-Type", b"x-request-id"}
    is_kept = KEPT[version, connection]
    if end == "end" and version == "1.0":
        is_kept = False
        assert rest.endswith(b"data: [DONE]\n\n")
        rest = b""
    elif end == "end":
        assert fields[b"Transfer-Encoding"] == b"chunked"
        rest = rest.partition(b"data: [DONE]\n\n\r\n0\r\n\r\n")[2]
    elif end == "none":
        assert not fields.keys() & {b"Content-Length", b"Transfer-Encoding"}
    else:
        length = int(fields[b"Content-Length"])
        assert length
        rest = rest if end == "head" else rest[length:]
    assert fields.get(b"Connection") == {
        ("1.0", True): b"keep-alive",
        ("1.1", False): b"close",
    }.get((version, is_kept))
    assert rest.startswith(f"HTTP/{version} 200 OK\r\n".encode()) is is_kept
    assert bool(rest) is is_kept
