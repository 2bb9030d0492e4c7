"""What the C# services share: the CLI's up to 0.10, and SDK 1.x, probed on 1.2.4.

They share one core (foundry-local-service.md, 1A to 1C): stop strings are ignored, a cut answer is
called `stop`, and a stream that fails is a 200 that breaks off without a byte, so the same request
is made once more without streaming to learn why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from foundry_api.wire.chat.reasoning import opens_block_in_prompt
from foundry_api.wire.chat.request import inline_tool_history, prompt_for_constraint
from foundry_api.wire.chat.stop_strings import StopStringFilter
from foundry_api.wire.chat.stream import (
    DEFAULT_MAX_TOKENS,
    ChatStream,
    encode,
    get_output_limit,
    get_tool_names,
    make_chat_body,
)
from foundry_api.wire.chat.tool_call_parser import with_tool_recovery

if TYPE_CHECKING:
    from foundry_api.types.messages import ChatRequest
    from foundry_api.types.models import Model
    from foundry_api.wire.chat.events import ChatDecoder
    from foundry_api.wire.dialects.base import Catalog, ServiceClient
    from foundry_api.wire.transport import Request

__all__ = ["IDS_DECODER", "LISTING_DECODER", "CSharpDialect", "ListedModel"]

_ROUTE = "/v1/chat/completions"


class ListedModel(msgspec.Struct):
    """A model as `/v1/models` lists it; `parent` is its alias."""

    id: str
    parent: str | None = None


class ModelListing(msgspec.Struct):
    """The answer of `/v1/models`."""

    data: list[ListedModel]


LISTING_DECODER = msgspec.json.Decoder(ModelListing)
IDS_DECODER: msgspec.json.Decoder[list[str]] = msgspec.json.Decoder(list[str])


class CSharpDialect:
    """What the dialects of the C# services share.

    Args:
        wire: How to reach it.
    """

    _explains_errors: ClassVar[bool] = True
    _default_limit: ClassVar[int] = DEFAULT_MAX_TOKENS
    _accepts_tools: ClassVar[bool] = True

    def __init__(self, client: ServiceClient) -> None:
        self._client = client

    async def find_by_alias(self, name: str) -> Model | None:
        """None: every alias is listed."""
        del name
        return None

    @property
    def catalogs(self) -> tuple[Catalog, ...]:
        """Its only one."""
        return ("public",)

    def make_path(self, catalog: Catalog, route: str) -> str:
        """The route itself."""
        del catalog
        return route

    def build_chat_request(self, model: Model, request: ChatRequest) -> Request:
        """A streamed chat completion; stop strings are left out, as they are ignored."""
        return self._client.build_post(_ROUTE, encode(self._make_body(model, request)))

    def make_chat_decoder(self, model: Model, request: ChatRequest) -> ChatDecoder:
        """A decoder that ends the answer at a stop string, and tells a cut answer from a whole."""
        limit = get_output_limit(request, self._default_limit)
        stream = ChatStream(
            model.id,
            limit=limit,
            explains_errors=self._explains_errors,
            tools=get_tool_names(request),
            in_reasoning=opens_block_in_prompt(model.id),
        )
        decoder = StopStringFilter(stream, request.stop) if request.stop else stream
        return with_tool_recovery(decoder, model.id, request)

    def non_streaming_request(self, model: Model, request: ChatRequest) -> Request:
        """The same without streaming, whose errors have a message."""
        body = self._make_body(model, request)
        for name in ("stream", "stream_options"):
            del body[name]
        return self._client.build_post(_ROUTE, encode(body))

    def _make_body(self, model: Model, request: ChatRequest) -> dict[str, Any]:
        messages = prompt_for_constraint(request)
        if not self._accepts_tools:
            messages = inline_tool_history(messages)
        request = msgspec.structs.replace(
            request,
            messages=messages,
            tools_in_prompt=request.tools_in_prompt or not self._accepts_tools,
        )
        body = make_chat_body(request, model.id)
        body.pop("stop", None)
        return body
