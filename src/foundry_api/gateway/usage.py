"""Tokens, as OpenAI's responses and batches count them."""

from __future__ import annotations

import msgspec

__all__ = ["InputDetails", "OutputDetails", "ResponseUsage"]


class InputDetails(msgspec.Struct):
    """Details of the tokens of an input."""

    cached_tokens: int


class OutputDetails(msgspec.Struct):
    """Details of the tokens of an answer."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct):
    """The tokens of a response, or of the answers of a batch."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int
