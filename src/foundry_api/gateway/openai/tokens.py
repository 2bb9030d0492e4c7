"""Estimates of the tokens of a request, before the service counts them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.types.messages import Message

__all__ = ["estimate_prompt_tokens", "estimate_text_tokens"]

CHARACTERS_PER_TOKEN = 4
# Markers of a chat template around each message.
TOKENS_PER_MESSAGE = 4


def estimate_text_tokens(text: str) -> int:
    """Estimate the tokens of a text; at least one."""
    return max(1, len(text) // CHARACTERS_PER_TOKEN)


def estimate_prompt_tokens(messages: Iterable[Message]) -> int:
    """Estimate the tokens of a conversation."""
    return sum(estimate_text_tokens(message.content) + TOKENS_PER_MESSAGE for message in messages)
