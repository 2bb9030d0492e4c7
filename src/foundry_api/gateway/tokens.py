"""Estimates of the tokens of a request, before the service counts them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foundry_api.tools.definition import ToolLike
    from foundry_api.types.messages import Message

__all__ = ["estimate_prompt_tokens", "estimate_text_tokens"]

# Bytes rather than characters: one character of Chinese or Japanese is about one token.
BYTES_PER_TOKEN = 4
# Markers of a chat template around each message.
TOKENS_PER_MESSAGE = 4


def estimate_text_tokens(text: str) -> int:
    """Estimate the tokens of a text; at least one."""
    return len(text.encode()) // BYTES_PER_TOKEN or 1


def estimate_prompt_tokens(
    messages: Iterable[Message], tools: Sequence[ToolLike] | None = None
) -> int:
    """Estimate the tokens of a conversation, with the tools that are described to the model."""
    tokens = len(msgspec.json.encode(tools)) // BYTES_PER_TOKEN if tools else 0
    for message in messages:
        tokens += TOKENS_PER_MESSAGE + estimate_text_tokens(message.content)
        for call in message.tool_calls:
            tokens += estimate_text_tokens(f"{call.function.name}{call.function.arguments}")
    return tokens
