"""Decompression of response bodies, which some proxies compress though it was not requested."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from foundry_api.types.errors import ProtocolError, StreamInterrupted

if TYPE_CHECKING:
    from foundry_api.wire.transport import Response

__all__ = ["SUPPORTED_ENCODINGS", "BodyDecompressor", "DecodedResponse", "decode_body"]

SUPPORTED_ENCODINGS: Final = frozenset({"gzip", "x-gzip", "deflate"})

MAX_BLOCK_BYTES: Final = 2**18  # limit for the result of one `read`

# Smaller bodies may expand by any factor. Beyond, the events of a chat stream expand about
# 30 times and a decompression bomb 1000 times.
RATIO_CHECK_FROM_BYTES: Final = 4 * 2**20
MAX_RATIO: Final = 250

_MAX_REPLAY_BYTES: Final = 2**16
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP, _ZLIB, _RAW = 31, 15, -15  # values of zlib's wbits


class BodyDecompressor:
    """Decodes a body while it arrives. One that turns out not to be compressed is passed on."""

    def __init__(self, coding: str, service: str) -> None:
        self._coding = coding
        self._service = service
        # "deflate" is ambiguous: some servers send it without zlib's header.
        self._formats = [_ZLIB, _RAW] if coding == "deflate" else [_GZIP]
        self._decoder = zlib.decompressobj(self._formats.pop(0))
        self._replay = b""  # the beginning of the body, in case the format turns out to be wrong
        self._pending = b""
        self._has_more_output = False
        self._is_plain = False
        self._bytes_in = self._bytes_out = 0

    @property
    def is_drained(self) -> bool:
        return not (self._pending or self._has_more_output)

    def feed(self, block: bytes) -> None:
        self._bytes_in += len(block)
        self._pending += block
        if not self._bytes_out and not self._is_plain and len(self._replay) < _MAX_REPLAY_BYTES:
            self._replay += block

    def read(self) -> bytes:
        """Return some of the decoded body, or b"" if more input is needed."""
        while not self.is_drained:
            if self._is_plain:
                out, self._pending = self._pending, b""
                return out
            if out := self._decode():
                return out
        return b""

    def finish(self) -> bytes:
        """Return b"" at the end of the body; raise if the compressed data is incomplete."""
        if self._bytes_in and not self._is_plain and not self._decoder.eof:
            raise StreamInterrupted(
                f"the answer ended within its {self._coding}", service=self._service
            )
        return b""

    def _decode(self) -> bytes:
        try:
            out = self._decoder.decompress(self._pending, MAX_BLOCK_BYTES)
        except zlib.error as error:
            self._restart(error)
            return b""
        self._pending = self._decoder.unconsumed_tail
        self._has_more_output = len(out) == MAX_BLOCK_BYTES and not self._decoder.eof
        self._bytes_out += len(out)
        if self._bytes_out:
            self._replay = b""
        if (
            self._bytes_out > RATIO_CHECK_FROM_BYTES
            and self._bytes_out > MAX_RATIO * self._bytes_in
        ):
            raise ProtocolError(
                f"the answer's {self._coding} expands to more than {MAX_RATIO} times its size",
                service=self._service,
            )
        if self._decoder.eof:
            # A gzip body may have several members. Anything else at the end is padding.
            rest = self._decoder.unused_data
            self._pending = rest if rest.startswith(_GZIP_MAGIC) else b""
            if self._pending:
                self._decoder = zlib.decompressobj(_GZIP)
        return out

    def _restart(self, error: zlib.error) -> None:
        """Decode the body from its beginning in the next format; raise if there is none left."""
        is_gzip = self._replay.startswith(_GZIP_MAGIC)
        if is_gzip or not self._replay or self._bytes_in > len(self._replay):
            raise ProtocolError(
                f"the answer's {self._coding} is damaged", service=self._service
            ) from error
        self._has_more_output = False
        self._pending = self._replay
        if self._formats:
            self._decoder = zlib.decompressobj(self._formats.pop(0))
        else:
            self._is_plain = True


class DecodedResponse:
    """Decompresses the body of a response. Some proxies compress though we send `identity`."""

    def __init__(self, response: Response, coding: str, service: str) -> None:
        self.status, self.headers = response.status, response.headers
        self._response = response
        self._decompressor = BodyDecompressor(coding, service)

    @property
    def ended(self) -> bool:
        return self._response.ended and self._decompressor.is_drained

    async def read(self) -> bytes:
        decompressor = self._decompressor
        while not (piece := decompressor.read()):
            block = await self._response.read()
            if not block:
                return decompressor.finish()
            decompressor.feed(block)
        return piece

    def close(self) -> None:
        self._response.close()


def decode_body(response: Response, service: str) -> Response:
    """Return a response with its body decompressed. `service` is its base URL, for errors."""
    coding = response.headers["Content-Encoding"].strip().lower()
    if coding not in SUPPORTED_ENCODINGS:
        return response
    return DecodedResponse(response, coding, service)
