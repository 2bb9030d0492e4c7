"""What is kept of an answer: enough to give it again whole, or piece by piece as it came."""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from foundry_api.types.messages import (
    Chunk,
    Completion,
    FinishReason,
    ServiceGeneration,
    ToolCall,
    Usage,
)
from foundry_api.wire.chat.reasoning import split_reasoning

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.types.messages import ChatRequest, Timings

__all__ = [
    "FORMAT",
    "CacheUse",
    "CachedChunk",
    "Entry",
    "answer_key",
    "is_deterministic",
    "may_serve",
    "may_store",
]


FORMAT = 1
LEVEL = 1
"""The events of an answer repeat each other: the fastest compression makes a twentieth of them."""

MAX_BYTES = 512 * 2**20
"""Bound of what is unpacked: an answer of the largest size with its text beside its events."""


class CachedChunk(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
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
    def of(cls, chunk: Chunk) -> CachedChunk:
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
        service_generation: Which generation of Foundry Local that is.
        finish_reason: Why the answer ended.
        usage: Tokens as the service counted them.
        pieces: All chunks but the last.
        ending: The data of the events that are in no other chunk.
    """

    format: int = FORMAT
    at: float
    model: str
    service: str
    service_generation: ServiceGeneration
    finish_reason: FinishReason
    usage: Usage
    pieces: tuple[CachedChunk, ...]
    ending: bytes

    @classmethod
    def of(cls, chunks: Iterable[Chunk], completion: Completion[Any], *, at: float) -> Entry:
        """What is kept of an answer.

        Args:
            chunks: All but the last.
            completion: All of it.
            at: Now, in seconds since the epoch.
        """
        return cls(
            at=at,
            model=completion.model,
            service=completion.service,
            service_generation=completion.service_generation,
            finish_reason=completion.finish_reason,
            usage=completion.usage,
            pieces=tuple(map(CachedChunk.of, chunks)),
            ending=completion.raw[-1],
        )

    @classmethod
    def decoded(cls, data: bytes) -> Entry | None:
        """An entry that was encoded; None for one that is damaged, or of another format."""
        try:
            entry = _DECODER.decode(_decompress(data))
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
        reasoning, content = split_reasoning(
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
            service_generation=self.service_generation,
            finish_reason=self.finish_reason,
            usage=self.usage,
            timings=timings,
            attempts=(),
            cached=True,
            raw=(*(piece.raw for piece in self.pieces), self.ending),
        )


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Entry)


def _decompress(data: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    unpacked = unpacking.decompress(data, MAX_BYTES)
    if not unpacking.eof:
        raise zlib.error("it breaks off, or is too large")
    return unpacked


"""Raised whenever a request begins to mean something else on the wire, or an answer here."""

_ENCODER_KEY = msgspec.json.Encoder()


def answer_key(model_id: str, service_generation: ServiceGeneration, request: ChatRequest) -> str:
    """The key under which the answer to a request is kept: 64 hexadecimal digits.

    It is made of every member of the request, so that a new one cannot be forgotten. It tells
    nothing of what was asked.

    Args:
        model_id: The model that answers, as its name was resolved.
        service_generation: The service that answers.
        request: What is asked.
    """
    members = {name: getattr(request, name) for name in request.__struct_fields__}
    options = {
        name: _canonical(name, value) for name, value in members.items() if _is_default(name, value)
    }
    identity = (FORMAT, model_id, service_generation, sorted(options.items()))
    return hashlib.sha256(_ENCODER_KEY.encode(identity)).hexdigest()


def _is_default(name: str, value: object) -> bool:
    """Whether a member is more than its default, so that new members leave the old keys alone."""
    if value is None or value is False or value in ((), {}):
        return False
    return (name, value) != ("tool_choice", "auto")


def _canonical(name: str, value: Any) -> Any:
    """One spelling for all that mean the same.

    The order of members matters below the first level: the engine writes tools and schemas into
    the prompt as they are, and fills in a schema's properties one after another.
    """
    if name == "stop":
        return sorted(set(value))
    if name == "extra":
        return sorted(value.items())
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, msgspec.Struct):
        return type(value).__name__, value
    return value


CacheUse = Literal["auto", "always", "never"]

KEPT: frozenset[FinishReason] = frozenset({"stop", "length", "tool_calls"})
"""The answer ended by itself, or at the bound that is part of its key."""


def may_serve(request: ChatRequest, use: CacheUse, *, only_deterministic: bool) -> bool:
    """Whether a call may be answered from the cache, and its answer kept there.

    Args:
        request: What is asked.
        use: What the caller says of this call.
        only_deterministic: Whether `auto` means only calls that have one answer.
    """
    if use == "auto":
        return not only_deterministic or is_deterministic(request)
    return use == "always"


def is_deterministic(request: ChatRequest) -> bool:
    """Whether the engine is to give the same answer each time: temperature 0, or a seed."""
    return _requested(request, "temperature") == 0 or _requested(request, "seed") is not None


def may_store(finish_reason: FinishReason) -> bool:
    """Whether an answer that ended so is worth keeping. Those that broke off never get here."""
    return finish_reason in KEPT


def _requested(request: ChatRequest, name: str) -> object:
    """What the body will say: the caller's own arguments win over `extra`."""
    value: object = getattr(request, name)
    return request.extra.get(name) if value is None else value
