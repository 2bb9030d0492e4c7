"""The response to a request, whose head is sent together with the first bytes of its body."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import HttpVersion10, web
from aiohttp.helpers import rfc822_formatted_time

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

__all__ = ["Response"]

_REASONS = {int(status): status.phrase for status in HTTPStatus}
_WITHOUT_BODY = frozenset({204, 304})


class Response(web.StreamResponse):
    """A response to a request.

    Args:
        head: The headers, to which those of the connection are added.
        body: The body; None if it is written in parts.
        status: The HTTP status.
    """

    # aiohttp's own copies the headers into a multidict and builds its head in steps, each of which
    # reads what a handler may have changed. That takes as long as everything else of a response, so
    # this one only has what aiohttp's connection uses: `prepare`, `write_eof` and `keep_alive`.

    def __init__(self, head: dict[str, str], body: bytes | None = None, status: int = 200) -> None:
        self.head = head
        self.body = body
        self._status, self._reason = status, _REASONS.get(status, "")
        self._writer: AbstractStreamWriter | None = None
        self._has_body = status not in _WITHOUT_BODY

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Make the head for a request, unless that was done before. It waits for the body."""
        if self._writer is not None:
            return self._writer
        self._writer = writer = request.writer
        head, version = self.head, request.version
        keep_alive = request.keep_alive and self._keep_alive is not False
        if self.body is not None and self._has_body:
            head["Content-Length"] = str(len(self.body))
        self._has_body = self._has_body and request.method != "HEAD"
        if self.body is None and self._has_body and "Content-Length" not in head:
            if version == HttpVersion10:
                keep_alive = False  # only the end of the connection ends the body
            else:
                head["Transfer-Encoding"] = "chunked"
                writer.enable_chunking()
        head["Date"] = rfc822_formatted_time()
        if version == HttpVersion10:
            if keep_alive:
                head["Connection"] = "keep-alive"
        elif not keep_alive:
            head["Connection"] = "close"
        self._keep_alive = keep_alive
        line = f"HTTP/{version.major}.{version.minor} {self._status} {self._reason}"
        await writer.write_headers(line, head)  # type: ignore[arg-type] # it reads their items only
        return writer

    async def write(self, data: bytes) -> None:  # type: ignore[override] # no other kinds of bytes
        """Send a part of the body; wait while the client's buffer is full."""
        if self._writer is not None:
            await self._writer.write(data)

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the body, or its last part, and what ends it."""
        if self._writer is not None and not self._eof_sent:
            self._eof_sent = True
            await self._writer.write_eof((self.body or data) if self._has_body else b"")
