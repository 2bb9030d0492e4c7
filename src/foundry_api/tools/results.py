"""The results of tool calls."""

from __future__ import annotations

from typing import Any

import msgspec

from foundry_api.types.messages import Completion, Message, ToolCall, Usage
from foundry_api.types.serialization import ShortResult

__all__ = ["ToolResult", "ToolRun"]


class ToolResult(ShortResult, msgspec.Struct, frozen=True, kw_only=True):
    """The result of one tool call.

    Attributes:
        call: The call as the model wrote it.
        arguments: The decoded arguments; None if they could not be decoded.
        value: The return value of the tool; None if the call failed.
        error: The exception of a failed call: the tool's own, `TimeoutError`, `LookupError` for an
            unknown tool, or `ValueError` for invalid arguments; None if the call succeeded.
        content: The result or error as text, as sent to the model.
        duration_s: Duration of the call in seconds.
        turn: Number of the turn, from 1.
    """

    call: ToolCall
    arguments: dict[str, Any] | None
    value: Any = None
    error: BaseException | None = None
    content: str
    duration_s: float
    turn: int

    @property
    def name(self) -> str:
        """The name of the tool, as the model wrote it."""
        return self.call.function.name


class ToolRun(ShortResult, msgspec.Struct, frozen=True, kw_only=True):
    """A conversation with tools, up to the answer without tool calls.

    Attributes:
        completion: The last answer.
        messages: The conversation with all calls, their results and the last answer. Append a
            message to continue it.
        calls: The executed calls, in order.
        turns: Number of requests to the model.
        usage: Tokens of all turns.
    """

    completion: Completion[None]
    messages: tuple[Message, ...]
    calls: tuple[ToolResult, ...]
    turns: int
    usage: Usage

    @property
    def content(self) -> str:
        """The text of the last answer."""
        return self.completion.content
