"""The stored form of an answer, its key, and which answers are stored."""

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
    "is_deterministic",
    "make_key",
    "may_serve",
    "may_store",
]

# Part of every entry and key. Increase it when a request with the same members is sent differently,
# or when the fields below change.
FORMAT = 1

# The events of an answer are so repetitive that the fastest level shrinks them to a twentieth.
COMPRESSION_LEVEL = 1

# The largest answer with its text and its events. Protects against decompression bombs.
MAX_BYTES = 512 * 2**20

CacheUse = Literal["auto", "always", "never"]

# The answer ended by itself, or at the limit that is part of its key.
STORED_FINISH_REASONS: frozenset[FinishReason] = frozenset({"stop", "length", "tool_calls"})


class CachedChunk(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """The stored form of a chunk. `raw` is the data of its event as the service sent it."""

    content: str
    raw: bytes = b""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str = ""

    @classmethod
    def from_chunk(cls, chunk: Chunk) -> CachedChunk:
        return cls(chunk.content, chunk.raw, chunk.reasoning, chunk.tool_calls, chunk.refusal)

    def to_chunk(self, model: str) -> Chunk:
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
    """The stored form of an answer. Attempts and timings belong to one call and are not stored."""

    format: int = FORMAT
    created_at: float  # seconds since the epoch
    model: str
    service: str
    service_generation: ServiceGeneration
    finish_reason: FinishReason
    usage: Usage
    chunks: tuple[CachedChunk, ...]  # without the last
    final_raw: bytes  # the data of the events that belong to the last chunk

    @classmethod
    def from_answer(
        cls, chunks: Iterable[Chunk], completion: Completion[Any], *, created_at: float
    ) -> Entry:
        """Make an entry of an answer and its chunks without the last."""
        return cls(
            created_at=created_at,
            model=completion.model,
            service=completion.service,
            service_generation=completion.service_generation,
            finish_reason=completion.finish_reason,
            usage=completion.usage,
            chunks=tuple(map(CachedChunk.from_chunk, chunks)),
            final_raw=completion.raw[-1],
        )

    @classmethod
    def decode(cls, data: bytes) -> Entry | None:
        """Return the entry, or None if it is damaged or of another format."""
        try:
            decompressor = zlib.decompressobj()
            encoded = decompressor.decompress(data, MAX_BYTES)
            if not decompressor.eof:  # truncated or too large
                return None
            entry = _ENTRY_DECODER.decode(encoded)
        except (zlib.error, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return entry if entry.format == FORMAT else None

    def encode(self) -> bytes:
        return zlib.compress(_ENTRY_ENCODER.encode(self), COMPRESSION_LEVEL)

    def to_chunks(self) -> list[Chunk]:
        """Return the chunks without the last."""
        return [chunk.to_chunk(self.model) for chunk in self.chunks]

    def to_completion(self, timings: Timings) -> Completion[None]:
        """Return the answer with the timings of the call that gets it."""
        reasoning, content = split_reasoning(
            "".join(chunk.reasoning for chunk in self.chunks),
            "".join(chunk.content for chunk in self.chunks),
        )
        return Completion(
            content=content,
            reasoning=reasoning,
            refusal="".join(chunk.refusal for chunk in self.chunks),
            tool_calls=tuple(call for chunk in self.chunks for call in chunk.tool_calls),
            parsed=None,
            model=self.model,
            service=self.service,
            service_generation=self.service_generation,
            finish_reason=self.finish_reason,
            usage=self.usage,
            timings=timings,
            attempts=(),
            cached=True,
            raw=(*(chunk.raw for chunk in self.chunks), self.final_raw),
        )


_ENTRY_ENCODER = msgspec.msgpack.Encoder()
_ENTRY_DECODER = msgspec.msgpack.Decoder(Entry)
_KEY_ENCODER = msgspec.json.Encoder()


def make_key(model_id: str, service_generation: ServiceGeneration, request: ChatRequest) -> str:
    """Return the cache key of a request: a hash, from which the prompt cannot be read."""
    # All members of the request are included, so that a new member cannot be forgotten. Defaults
    # are left out, so that a new member does not change the keys of stored answers.
    members = {name: getattr(request, name) for name in request.__struct_fields__}
    options = {
        name: _normalize(name, value)
        for name, value in members.items()
        if not (value is None or value is False or value in ((), {}))
        and (name, value) != ("tool_choice", "auto")
    }
    identity = (FORMAT, model_id, service_generation, sorted(options.items()))
    return hashlib.sha256(_KEY_ENCODER.encode(identity)).hexdigest()


def _normalize(name: str, value: Any) -> Any:
    """Return the same value for all spellings with the same meaning."""
    if name == "stop":
        return sorted(set(value))
    if name == "extra":
        # Only the top level is sorted. Below, the order has a meaning: the engine writes tools and
        # schemas into the prompt unchanged, and generates the properties of a schema in order.
        return sorted(value.items())
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, msgspec.Struct):
        return type(value).__name__, value
    return value


def may_serve(request: ChatRequest, use: CacheUse, *, only_deterministic: bool) -> bool:
    """Whether the answer to a request may come from the cache and be stored there."""
    if use == "auto":
        return not only_deterministic or is_deterministic(request)
    return use == "always"


def is_deterministic(request: ChatRequest) -> bool:
    """Whether the request asks for a repeatable answer: temperature 0, or a seed."""

    def get_option(name: str) -> object:
        value: object = getattr(request, name)
        return request.extra.get(name) if value is None else value  # as in the body that is sent

    return get_option("temperature") == 0 or get_option("seed") is not None


def may_store(finish_reason: FinishReason) -> bool:
    return finish_reason in STORED_FINISH_REASONS
