"""Base of the dialects of C# services: the CLI's up to 0.10, and SDK 1.x."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from foundry_api.wire.chat.reasoning import opens_block_in_prompt
from foundry_api.wire.chat.request import (
    DEFAULT_MAX_TOKENS,
    add_tool_recovery,
    encode,
    get_output_limit,
    get_tool_names,
    inline_tool_history,
    make_chat_body,
    prompt_for_constraint,
)
from foundry_api.wire.chat.stop_strings import StopStringFilter
from foundry_api.wire.chat.stream import ChatStream
from foundry_api.wire.dialects.base import refuse_removal

if TYPE_CHECKING:
    from foundry_api.types.messages import ChatRequest
    from foundry_api.types.models import Model
    from foundry_api.wire.chat.events import ChatDecoder
    from foundry_api.wire.dialects.base import Catalog, ServiceClient
    from foundry_api.wire.transport import Request

__all__ = ["IDS_DECODER", "LISTING_DECODER", "CSharpDialect", "ListedModel"]

_ROUTE = "/v1/chat/completions"


class ListedModel(msgspec.Struct):
    """A model in the response of `/v1/models`."""

    id: str
    parent: str | None = None  # the alias


class ModelListing(msgspec.Struct):
    data: list[ListedModel]


LISTING_DECODER = msgspec.json.Decoder(ModelListing)
IDS_DECODER: msgspec.json.Decoder[list[str]] = msgspec.json.Decoder(list[str])


class CSharpDialect:
    """The chat protocol of the C# core, as probed on SDK 1.2.4."""

    manages_calls: bool = False
    _has_finish_reasons: ClassVar[bool] = True
    _default_limit: ClassVar[int] = DEFAULT_MAX_TOKENS
    _accepts_tools: ClassVar[bool] = True

    def __init__(self, client: ServiceClient) -> None:
        self._client = client

    async def find_by_alias(self, name: str) -> Model | None:
        del name  # every alias is listed
        return None

    async def remove(self, model: Model) -> int:
        del model
        raise refuse_removal(self._client)

    @property
    def catalogs(self) -> tuple[Catalog, ...]:
        return ("public",)

    def make_path(self, catalog: Catalog, route: str) -> str:
        del catalog
        return route

    def get_model_name(self, model: Model) -> str:
        return model.id

    def build_chat_request(self, model: Model, request: ChatRequest) -> Request:
        return self._client.build_post(_ROUTE, encode(self._make_body(model, request)))

    def make_chat_decoder(self, model: Model, request: ChatRequest) -> ChatDecoder:
        stream = ChatStream(
            model.id,
            # The services report `stop` for most truncated answers; the limit distinguishes them.
            limit=get_output_limit(request, self._default_limit),
            has_finish_reasons=self._has_finish_reasons,
            tools=get_tool_names(request),
            in_reasoning=opens_block_in_prompt(model.id),
        )
        # The services ignore stop strings.
        decoder = StopStringFilter(stream, request.stop) if request.stop else stream
        return add_tool_recovery(decoder, model.id, request)

    def build_non_streaming_request(self, model: Model, request: ChatRequest) -> Request:
        # A failed stream is a 200 whose body breaks off without a byte. The same request without
        # streaming gets an error message.
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
