"""Chat completions of the C# services: the CLI's up to 0.10, and SDK 1.x, probed on 1.2.4.

They share one core (foundry-local-service.md, 1A to 1C): stop strings are ignored, a cut answer is
called `stop`, and a stream that fails is a 200 that breaks off without a byte, so the same request
is made once more without streaming to learn why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from foundry_api.wire.dialects.openai import (
    DEFAULT_MAX_TOKENS,
    ChatStream,
    chat_body,
    encode,
    output_limit,
)
from foundry_api.wire.dialects.stops import Stopped
from foundry_api.wire.dialects.tool_history import inlined

if TYPE_CHECKING:
    from foundry_api.messages import ChatRequest, Model
    from foundry_api.wire.dialects.base import ChatDecoder, Wire
    from foundry_api.wire.transport import Request

__all__ = ["CSharpChat"]

_ROUTE = "/v1/chat/completions"


class CSharpChat:
    """The part of a C# service's dialect that is about chat completions.

    Args:
        wire: How to reach it.
    """

    _says_why: ClassVar[bool] = True
    _default_limit: ClassVar[int] = DEFAULT_MAX_TOKENS
    _sees_tool_turns: ClassVar[bool] = True

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def chat_request(self, model: Model, request: ChatRequest) -> Request:
        """A streamed chat completion; stop strings are left out, as they are ignored."""
        return self._wire.post(_ROUTE, encode(self._body(model, request)))

    def chat_decoder(self, model: Model, request: ChatRequest) -> ChatDecoder:
        """A decoder that ends the answer at a stop string, and tells a cut answer from a whole."""
        limit = output_limit(request, self._default_limit)
        stream = ChatStream(model.id, limit=limit, says_why=self._says_why)
        return Stopped(stream, request.stop) if request.stop else stream

    def plain_request(self, model: Model, request: ChatRequest) -> Request:
        """The same without streaming, whose errors have a message."""
        body = self._body(model, request)
        for name in ("stream", "stream_options"):
            del body[name]
        return self._wire.post(_ROUTE, encode(body))

    def _body(self, model: Model, request: ChatRequest) -> dict[str, Any]:
        body = chat_body(request, model.id)
        body.pop("stop", None)
        if not self._sees_tool_turns:
            body["messages"] = inlined(request.messages)
        return body
