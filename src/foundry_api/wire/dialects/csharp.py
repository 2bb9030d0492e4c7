"""What the C# services share: the CLI's up to 0.10, and SDK 1.x, probed on 1.2.4.

They share one core (foundry-local-service.md, 1A to 1C): stop strings are ignored, a cut answer is
called `stop`, and a stream that fails is a 200 that breaks off without a byte, so the same request
is made once more without streaming to learn why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from foundry_api.wire.chat.reasoning import opens_block_in_prompt
from foundry_api.wire.chat.request import inlined, told
from foundry_api.wire.chat.stop_strings import Stopped
from foundry_api.wire.chat.stream import (
    DEFAULT_MAX_TOKENS,
    ChatStream,
    chat_body,
    encode,
    output_limit,
    tool_names,
)
from foundry_api.wire.chat.tool_call_parser import recovering

if TYPE_CHECKING:
    from foundry_api.types.messages import ChatRequest, Model
    from foundry_api.wire.dialects.base import Catalog, ChatDecoder, Wire
    from foundry_api.wire.transport import Request

__all__ = ["IDS", "LISTING", "CSharpDialect", "Listed"]

_ROUTE = "/v1/chat/completions"


class Listed(msgspec.Struct):
    """A model as `/v1/models` lists it; `parent` is its alias."""

    id: str
    parent: str | None = None


class Listing(msgspec.Struct):
    """The answer of `/v1/models`."""

    data: list[Listed]


LISTING = msgspec.json.Decoder(Listing)
IDS: msgspec.json.Decoder[list[str]] = msgspec.json.Decoder(list[str])


class CSharpDialect:
    """What the dialects of the C# services share.

    Args:
        wire: How to reach it.
    """

    _says_why: ClassVar[bool] = True
    _default_limit: ClassVar[int] = DEFAULT_MAX_TOKENS
    _knows_tools: ClassVar[bool] = True

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def by_alias(self, name: str) -> Model | None:
        """None: every alias is listed."""
        del name
        return None

    @property
    def catalogs(self) -> tuple[Catalog, ...]:
        """Its only one."""
        return ("public",)

    def path(self, catalog: Catalog, route: str) -> str:
        """The route itself."""
        del catalog
        return route

    def chat_request(self, model: Model, request: ChatRequest) -> Request:
        """A streamed chat completion; stop strings are left out, as they are ignored."""
        return self._wire.post(_ROUTE, encode(self._body(model, request)))

    def chat_decoder(self, model: Model, request: ChatRequest) -> ChatDecoder:
        """A decoder that ends the answer at a stop string, and tells a cut answer from a whole."""
        limit = output_limit(request, self._default_limit)
        stream = ChatStream(
            model.id,
            limit=limit,
            says_why=self._says_why,
            tools=tool_names(request),
            block_opened=opens_block_in_prompt(model.id),
        )
        stopped = Stopped(stream, request.stop) if request.stop else stream
        return recovering(stopped, model.id, request)

    def plain_request(self, model: Model, request: ChatRequest) -> Request:
        """The same without streaming, whose errors have a message."""
        body = self._body(model, request)
        for name in ("stream", "stream_options"):
            del body[name]
        return self._wire.post(_ROUTE, encode(body))

    def _body(self, model: Model, request: ChatRequest) -> dict[str, Any]:
        messages = told(request)
        if not self._knows_tools:
            messages = inlined(messages)
        request = msgspec.structs.replace(
            request,
            messages=messages,
            tools_in_prompt=request.tools_in_prompt or not self._knows_tools,
        )
        body = chat_body(request, model.id)
        body.pop("stop", None)
        return body
