"""Bodies that come compressed although nobody asked for it, as some proxies send them.

What claims to be compressed and is not is passed on as it is. The expansion is bounded: what comes
out at once, and by how much all of it may be larger than what came in.
"""

from __future__ import annotations

import zlib
from typing import Final

from foundry_api.types.errors import ProtocolError, StreamInterrupted

__all__ = ["DECODED", "EncodedBody"]

DECODED: Final = frozenset({"gzip", "x-gzip", "deflate"})
"""The encodings that are read; another one is refused."""

STEP: Final = 2**18
"""Bytes that come out at once at most."""

FREE: Final = 4 * 2**20
"""Bytes of which nobody asks how well they were compressed."""

MAX_RATIO: Final = 250
"""By how much a longer body may expand. Events of one answer make about 30, a bomb 1000."""

_KEPT: Final = 2**16
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP, _ZLIB, _RAW = 31, 15, -15


class EncodedBody:
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
        self._begun = b""
        self._pending = b""
        self._full = False
        self._plain = False
        self._in = self._out = 0

    @property
    def drained(self) -> bool:
        """Whether all that was fed was taken."""
        return not (self._pending or self._full)

    def feed(self, block: bytes) -> None:
        """More of the body as it comes."""
        self._in += len(block)
        self._pending += block
        if not self._out and not self._plain and len(self._begun) < _KEPT:
            self._begun += block

    def take(self) -> bytes:
        """Some of the body itself; nothing if more of it has to come first.

        Raises:
            ProtocolError: It is damaged, or expands beyond the bounds.
        """
        while not self.drained:
            if self._plain:
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
        if self._in and not self._plain and not self._decoder.eof:
            raise StreamInterrupted(
                f"the answer ended within its {self._coding}", service=self._service
            )
        return b""

    def _decode(self) -> bytes:
        try:
            out = self._decoder.decompress(self._pending, STEP)
        except zlib.error as error:
            self._begin_anew(error)
            return b""
        self._pending = self._decoder.unconsumed_tail
        self._full = len(out) == STEP and not self._decoder.eof
        self._out += len(out)
        if self._out:
            self._begun = b""
        if self._out > FREE and self._out > MAX_RATIO * self._in:
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

    def _begin_anew(self, error: zlib.error) -> None:
        """Read what was damaged from the beginning as something else.

        Raises:
            ProtocolError: Too much was read of it as it claimed to be.
        """
        is_gzip = self._begun.startswith(_GZIP_MAGIC)
        if is_gzip or not self._begun or self._in > len(self._begun):
            raise ProtocolError(
                f"the answer's {self._coding} is damaged", service=self._service
            ) from error
        self._full = False
        self._pending = self._begun
        if self._formats:
            self._decoder = zlib.decompressobj(self._formats.pop(0))
        else:
            self._plain = True
