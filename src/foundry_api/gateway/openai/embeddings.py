"""`POST /v1/embeddings`."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from foundry_api.gateway.checks import check_text
from foundry_api.gateway.errors import RequestError, name_member
from foundry_api.gateway.limits.admission import Work
from foundry_api.gateway.tokens import estimate_text_tokens
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.messages import Usage

if TYPE_CHECKING:
    from aiohttp import web

    from foundry_api.gateway.exchange import Exchange
    from foundry_api.types.results import Vector

__all__ = ["EmbeddingsBody", "create_embeddings", "read_texts"]

MAX_TEXTS = 2048
# Of one request to the engine, which embeds all of it also after the client has left. More would
# save little: the engine embeds one text after the other.
TEXTS_PER_REQUEST = 8


class EmbeddingsBody(msgspec.Struct, kw_only=True):
    """The JSON body of `POST /v1/embeddings`. Null means the default.

    Attributes:
        input: A text, or up to 2,048. Tokens are refused.
        model: Alias or id of a model; default: that of the gateway's configuration.
        encoding_format: `float` without it.
        dimensions: Refused: vectors have the model's own size.
    """

    input: str | list[str | int | list[int]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


async def create_embeddings(exchange: Exchange) -> web.StreamResponse:
    """Embed one text or several."""
    context = exchange.context
    body = await exchange.read_json(EmbeddingsBody)
    model = exchange.require_model(body.model)
    texts = read_texts(body)
    tokens = sum(estimate_text_tokens(text) for text in texts)
    work = Work(
        model=model,
        prompt_tokens=tokens,
        max_tokens=0,
        body_bytes=exchange.request.content_length or 0,
    )
    async with exchange.admit(work) as ticket:
        try:
            embeddings = await context.client.embed(
                texts, model=model, batch_size=TEXTS_PER_REQUEST, **exchange.time_options
            )
        except InvalidRequest as error:
            name_member(error, {"prompt": "input", "texts": "input[]"})
            raise
        usage = embeddings.usage or Usage(tokens, 0, tokens)
        ticket.settle(usage)
    # OpenAI's own clients ask for base64; without a format, its API answers with numbers.
    encode = _encode_base64 if body.encoding_format == "base64" else list
    return exchange.respond_json(
        {
            "object": "list",
            "model": model,
            "data": [
                {"object": "embedding", "index": index, "embedding": encode(vector)}
                for index, vector in enumerate(embeddings.vectors)
            ],
            "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.total_tokens},
        }
    )


def read_texts(body: EmbeddingsBody) -> list[str]:
    """Return the texts of a request.

    Raises:
        RequestError: They are invalid, or the request asks for what the engine cannot do.
    """
    if body.dimensions is not None:
        raise RequestError(
            400,
            "unsupported_parameter",
            "The engine returns vectors of the model's own size. Leave dimensions out.",
            param="dimensions",
        )
    inputs: list[Any] = [body.input] if isinstance(body.input, str) else list(body.input)
    if not 0 < len(inputs) <= MAX_TEXTS:
        raise RequestError(
            400,
            "invalid_value",
            f"input holds {len(inputs)} texts; 1 to {MAX_TEXTS} are allowed.",
            param="input",
        )
    for index, text in enumerate(inputs):
        if not isinstance(text, str):
            raise RequestError(
                400,
                "unsupported_parameter",
                "The engine takes texts, not tokens. Send strings "
                "(LangChain: check_embedding_ctx_length=False).",
                param="input",
            )
        name = "input" if isinstance(body.input, str) else f"input[{index}]"
        if not text.strip():
            raise RequestError(400, "invalid_value", f"{name} is empty.", param=name)
        check_text(name, text)
    return inputs


def _encode_base64(vector: Vector) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
