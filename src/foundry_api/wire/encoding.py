"""Bodies that come compressed although nobody asked for it, as some proxies send them.

What claims to be compressed and is not is passed on as it is. The expansion is bounded: what comes
out at once, and by how much all of it may be larger than what came in.
"""

from __future__ import annotations

import zlib
from typing import Final

from foundry_api.types.errors import ProtocolError, StreamInterrupted

__all__ = ["SUPPORTED_ENCODINGS", "BodyDecompressor"]

SUPPORTED_ENCODINGS: Final = frozenset({"gzip", "x-gzip", "deflate"})
"""The encodings that are read; another one is refused."""

MAX_BLOCK_BYTES: Final = 2**18
"""Bytes that come out at once at most."""

RATIO_CHECK_FROM_BYTES: Final = 4 * 2**20
"""Bytes of which nobody asks how well they were compressed."""

MAX_RATIO: Final = 250
"""By how much a longer body may expand. Events of one answer make about 30, a bomb 1000."""

_MAX_REPLAY_BYTES: Final = 2**16
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP, _ZLIB, _RAW = 31, 15, -15


class BodyDecompressor:
    """Decodes one body while it arrives.

    Args:
        coding: `gzip`, `x-gzip` or `deflate`; the last one with zlib's head or without.
        service: Base URL of who sends it.
    """

    def __init__(self, coding: str, service: str) -> None:
        self._coding = coding
        self._service = service
        self._formats = [_ZLIB, _RAW] if coding == "deflate" else [_GZIP]
        self._decoder = zlib.decompressobj(self._formats.pop(0))
        self._replay = b""
        self._pending = b""
        self._has_more_output = False
        self._is_plain = False
        self._bytes_in = self._bytes_out = 0

    @property
    def is_drained(self) -> bool:
        """Whether all that was fed was taken."""
        return not (self._pending or self._has_more_output)

    def feed(self, block: bytes) -> None:
        """More of the body as it comes."""
        self._bytes_in += len(block)
        self._pending += block
        if not self._bytes_out and not self._is_plain and len(self._replay) < _MAX_REPLAY_BYTES:
            self._replay += block

    def read(self) -> bytes:
        """Some of the body itself; nothing if more of it has to come first.

        Raises:
            ProtocolError: It is damaged, or expands beyond the bounds.
        """
        while not self.is_drained:
            if self._is_plain:
                out, self._pending = self._pending, b""
                return out
            if out := self._decode():
                return out
        return b""

    def finish(self) -> bytes:
        """Nothing, at the end of a body that is whole.

        Raises:
            StreamInterrupted: It ended before its encoding did.
        """
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
            self._end_member()
        return out

    def _end_member(self) -> None:
        rest = self._decoder.unused_data
        if rest.startswith(_GZIP_MAGIC):  # a file of several, one behind the other
            self._decoder = zlib.decompressobj(_GZIP)
            self._pending = rest
        else:
            self._pending = b""

    def _restart(self, error: zlib.error) -> None:
        """Read what was damaged from the beginning as something else.

        Raises:
            ProtocolError: Too much was read of it as it claimed to be.
        """
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
