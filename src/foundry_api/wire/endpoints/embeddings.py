"""Embeddings on the wire: `POST /v1/embeddings`, alike in all generations that have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.types.errors import ProtocolError
from foundry_api.types.messages import Usage
from foundry_api.types.results import Vector
from foundry_api.wire.chat.events import parse_usage
from foundry_api.wire.dialects.base import BAD_JSON

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["EMBEDDINGS_ROUTE", "decode_embeddings", "make_embeddings_body"]

EMBEDDINGS_ROUTE = "/v1/embeddings"


class _Item(msgspec.Struct):
    embedding: Vector
    index: int


class _EmbeddingsResponse(msgspec.Struct):
    data: list[_Item]
    usage: Any = None


_RESPONSE_DECODER = msgspec.json.Decoder(_EmbeddingsResponse)


def make_embeddings_body(model_id: str, texts: Sequence[str]) -> bytes:
    """The body that asks for the vectors of some texts."""
    return msgspec.json.encode({"model": model_id, "input": texts})


def decode_embeddings(body: bytes, count: int) -> tuple[tuple[Vector, ...], Usage | None]:
    """The vectors in the order of the texts, and the tokens, where they were counted.

    The SDK's services send zeros for that (foundry-local-service.md, 1D).

    Raises:
        ProtocolError: There are not as many as there were texts, or they differ in length.
    """
    try:
        response = _RESPONSE_DECODER.decode(body)
    except BAD_JSON as error:
        raise ProtocolError(f"the answer holds no embeddings: {error}") from error
    items = sorted(response.data, key=lambda item: item.index)
    if [item.index for item in items] != list(range(count)):
        raise ProtocolError(f"{count} texts were sent, and {len(items)} embeddings came back")
    vectors = tuple(item.embedding for item in items)
    if len({len(vector) for vector in vectors}) != 1 or not vectors[0]:
        raise ProtocolError("the embeddings that came back are empty, or differ in length")
    reported_usage = parse_usage(response.usage)
    usage = None
    if reported_usage is not None and reported_usage.prompt_tokens:
        usage = Usage(reported_usage.prompt_tokens, 0, reported_usage.total_tokens)
    return vectors, usage
