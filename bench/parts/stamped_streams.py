"""Many streams of the stamped tokens of `server.py`, and how long each was on its way.

Raw connections: a client that needs as much processor time as the gateway would measure itself.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import NamedTuple
from urllib.parse import urlsplit

from parts import server

__all__ = ["measure_delays"]

STAMP = re.compile(rb'"content": ?"(\d+):(\d+) "')
END = b"0\r\n\r\n"


class _Arrival(NamedTuple):
    at_ns: int
    delay_ns: int


class _Stream(asyncio.Protocol):
    def __init__(self, request: bytes) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.numbers: list[int] = []
        self.arrivals: list[_Arrival] = []
        self._request = request
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - asyncio declares the base class
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now, end = time.monotonic_ns(), 0
        received = self._rest + data
        for stamp in STAMP.finditer(received):
            self.numbers.append(int(stamp[1]))
            self.arrivals.append(_Arrival(now, now - int(stamp[2])))
            end = stamp.end()
        self._rest = received[end:]
        if self._rest.endswith(END) and self._transport is not None:
            self._transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def measure_delays(url: str, token: str, streams: int, spread_s: float) -> list[float]:
    """Return the delays of the chunks in seconds, in order of their size.

    The streams start within `spread_s`. Only the chunks count that arrive while all of them run.
    """
    address = urlsplit(url)
    body = b'{"model":"%s","messages":[{"role":"user","content":"stamped"}],"stream":true}'
    body %= server.MODEL.encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\n"
    head += f"Content-Type: application/json\r\nAuthorization: Bearer {token}\r\n"
    request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    opened: list[_Stream] = []
    for number in range(streams):
        await asyncio.sleep(started_at + spread_s * number / streams - loop.time())
        _, stream = await loop.create_connection(
            lambda: _Stream(request), address.hostname, address.port
        )
        opened.append(stream)
    await asyncio.gather(*(stream.ended for stream in opened))
    for stream in opened:  # none was lost or reordered
        assert stream.numbers == list(range(server.STAMPED)), stream.numbers  # noqa: S101
    first_ns = max(stream.arrivals[0].at_ns for stream in opened)
    last_ns = min(stream.arrivals[-1].at_ns for stream in opened)
    return sorted(
        arrival.delay_ns / 1e9
        for stream in opened
        for arrival in stream.arrivals
        if first_ns <= arrival.at_ns <= last_ns
    )
