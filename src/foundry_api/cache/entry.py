"""What is kept of an answer: enough to give it again whole, or piece by piece as it came."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import msgspec

from foundry_api.messages import Attempt, Chunk, Completion, FinishReason, Generation, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.messages import Timings

__all__ = ["Entry", "Piece"]

FORMAT = 1
LEVEL = 1
"""The events of an answer repeat each other: the fastest compression makes a twentieth of them."""

MAX_BYTES = 512 * 2**20
"""Bound of what is unpacked: an answer of the largest size with its text beside its events."""


class Piece(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What came in one chunk.

    Attributes:
        content: Its text.
        raw: The event's data as the service sent it.
    """

    content: str
    raw: bytes = b""

    @classmethod
    def of(cls, chunk: Chunk) -> Piece:
        """What is kept of a chunk."""
        return cls(chunk.content, chunk.raw)

    def chunk(self, model: str) -> Chunk:
        """The chunk again."""
        return Chunk(self.content, model, raw=self.raw)


class Entry(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """An answer as it is kept. What belongs to the call that made it is not: attempts, timings.

    Attributes:
        format: What the rest means.
        at: When it was made, in seconds since the epoch.
        model: The id of the model that answered.
        service: The base URL of the service that answered.
        generation: Which generation of Foundry Local that is.
        finish_reason: Why the answer ended.
        usage: Tokens as the service counted them.
        pieces: All chunks with text.
        ending: The data of the events without text.
    """

    format: int = FORMAT
    at: float
    model: str
    service: str
    generation: Generation
    finish_reason: FinishReason
    usage: Usage
    pieces: tuple[Piece, ...]
    ending: bytes

    @classmethod
    def of(cls, chunks: Iterable[Chunk], whole: Completion, *, at: float) -> Entry:
        """What is kept of an answer.

        Args:
            chunks: Those with text.
            whole: All of it.
            at: Now, in seconds since the epoch.
        """
        return cls(
            at=at,
            model=whole.model,
            service=whole.service,
            generation=whole.generation,
            finish_reason=whole.finish_reason,
            usage=whole.usage,
            pieces=tuple(map(Piece.of, chunks)),
            ending=whole.raw[-1],
        )

    @classmethod
    def decoded(cls, data: bytes) -> Entry | None:
        """An entry that was encoded; None for one that is damaged, or of another format."""
        try:
            entry = _DECODER.decode(_unpacked(data))
        except (zlib.error, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return entry if entry.format == FORMAT else None

    def encoded(self) -> bytes:
        """The entry as bytes."""
        return zlib.compress(_ENCODER.encode(self), LEVEL)

    def chunks(self) -> list[Chunk]:
        """The chunks with text, cut as they came."""
        return [piece.chunk(self.model) for piece in self.pieces]

    def completion(self, timings: Timings, attempts: tuple[Attempt, ...] = ()) -> Completion:
        """The whole answer.

        Args:
            timings: Of the call that is answered with it.
            attempts: Of the call that is answered with it.
        """
        return Completion(
            content="".join(piece.content for piece in self.pieces),
            model=self.model,
            service=self.service,
            generation=self.generation,
            finish_reason=self.finish_reason,
            usage=self.usage,
            timings=timings,
            attempts=attempts,
            cached=True,
            raw=(*(piece.raw for piece in self.pieces), self.ending),
        )


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Entry)


def _unpacked(data: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    unpacked = unpacking.decompress(data, MAX_BYTES)
    if not unpacking.eof:
        raise zlib.error("it breaks off, or is too large")
    return unpacked
