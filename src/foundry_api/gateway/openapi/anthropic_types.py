"""The answers of Anthropic's routes, as the description shows them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = ["AnthropicError", "AnthropicEvent", "AnthropicMessage", "TokenCount"]


class AnthropicErrorBody(msgspec.Struct):
    """What is wrong."""

    type: str
    message: str


class AnthropicError(msgspec.Struct):
    """An error in Anthropic's shape."""

    type: Literal["error"]
    error: AnthropicErrorBody


class TextBlock(msgspec.Struct, tag_field="type", tag="text"):
    """Text of an answer."""

    text: str


class ThinkingBlock(msgspec.Struct, tag_field="type", tag="thinking"):
    """What the model thought; the signature is empty."""

    thinking: str
    signature: str


class ToolUseBlock(msgspec.Struct, tag_field="type", tag="tool_use"):
    """A tool to call."""

    id: str
    name: str
    input: dict[str, Any]


Block = TextBlock | ThinkingBlock | ToolUseBlock
StopReason = Literal["end_turn", "max_tokens", "tool_use", "refusal"]


class AnthropicUsage(msgspec.Struct):
    """The tokens of a message."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int


class AnthropicMessage(msgspec.Struct):
    """The answer of `POST /v1/messages`."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Block]
    stop_reason: StopReason | None
    stop_sequence: None
    usage: AnthropicUsage


class AnthropicEvent(msgspec.Struct, kw_only=True):
    """The data of an event of `POST /v1/messages`; each kind has some of the members."""

    type: Literal[
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "error",
    ]
    message: AnthropicMessage | msgspec.UnsetType = msgspec.UNSET
    index: int | msgspec.UnsetType = msgspec.UNSET
    content_block: Block | msgspec.UnsetType = msgspec.UNSET
    delta: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    usage: AnthropicUsage | msgspec.UnsetType = msgspec.UNSET
    error: AnthropicErrorBody | msgspec.UnsetType = msgspec.UNSET


class TokenCount(msgspec.Struct):
    """The answer of `POST /v1/messages/count_tokens`: an estimate."""

    input_tokens: int
