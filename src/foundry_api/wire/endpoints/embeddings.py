"""Bodies of `POST /v1/embeddings`, which are the same in all generations that have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.types.errors import ProtocolError
from foundry_api.types.messages import Usage
from foundry_api.types.results import Vector
from foundry_api.wire.chat.events import parse_usage
from foundry_api.wire.errors import NOT_JSON

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
    return msgspec.json.encode({"model": model_id, "input": texts})


def decode_embeddings(body: bytes, count: int) -> tuple[tuple[Vector, ...], Usage | None]:
    """Return the vectors in the order of the `count` texts, and the usage if it was counted."""
    try:
        response = _RESPONSE_DECODER.decode(body)
    except NOT_JSON as error:
        raise ProtocolError(f"the answer contains no embeddings: {error}") from error
    items = sorted(response.data, key=lambda item: item.index)
    if [item.index for item in items] != list(range(count)):
        raise ProtocolError(f"{count} texts were sent, but {len(items)} embeddings were returned")
    vectors = tuple(item.embedding for item in items)
    if len({len(vector) for vector in vectors}) != 1 or not vectors[0]:
        raise ProtocolError("the returned embeddings are empty, or differ in length")
    # The SDK's services do not count the tokens of embeddings: they always send zeros.
    reported_usage = parse_usage(response.usage)
    usage = None
    if reported_usage is not None and reported_usage.prompt_tokens:
        usage = Usage(reported_usage.prompt_tokens, 0, reported_usage.total_tokens)
    return vectors, usage
