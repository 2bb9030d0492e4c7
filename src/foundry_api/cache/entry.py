"""What is kept of an answer: enough to give it again whole, or piece by piece as it came."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.messages import Chunk, Completion, FinishReason, Generation, ToolCall, Usage
from foundry_api.wire.dialects.reasoning import attributed

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
        reasoning: Its reasoning.
        tool_calls: Its calls of tools.
        refusal: Its refusal.
    """

    content: str
    raw: bytes = b""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str = ""

    @classmethod
    def of(cls, chunk: Chunk) -> Piece:
        """What is kept of a chunk."""
        return cls(chunk.content, chunk.raw, chunk.reasoning, chunk.tool_calls, chunk.refusal)

    def chunk(self, model: str) -> Chunk:
        """The chunk again."""
        return Chunk(
            self.content,
            model,
            raw=self.raw,
            reasoning=self.reasoning,
            tool_calls=self.tool_calls,
            refusal=self.refusal,
            cached=True,
        )


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
        pieces: All chunks but the last.
        ending: The data of the events that are in no other chunk.
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
    def of(cls, chunks: Iterable[Chunk], whole: Completion[Any], *, at: float) -> Entry:
        """What is kept of an answer.

        Args:
            chunks: All but the last.
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
        """All chunks but the last, cut as they came."""
        return [piece.chunk(self.model) for piece in self.pieces]

    def completion(self, timings: Timings) -> Completion[None]:
        """The whole answer.

        Args:
            timings: Of the call that is answered with it.
        """
        reasoning, content = attributed(
            "".join(piece.reasoning for piece in self.pieces),
            "".join(piece.content for piece in self.pieces),
        )
        return Completion(
            content=content,
            reasoning=reasoning,
            refusal="".join(piece.refusal for piece in self.pieces),
            tool_calls=tuple(call for piece in self.pieces for call in piece.tool_calls),
            parsed=None,
            model=self.model,
            service=self.service,
            generation=self.generation,
            finish_reason=self.finish_reason,
            usage=self.usage,
            timings=timings,
            attempts=(),
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
