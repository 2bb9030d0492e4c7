"""What came of calling tools."""

from __future__ import annotations

from typing import Any

import msgspec

from foundry_api.types.messages import Completion, Message, ToolCall, Usage
from foundry_api.types.serialization import ShortResult

__all__ = ["ToolResult", "ToolRun"]


class ToolResult(ShortResult, msgspec.Struct, frozen=True, kw_only=True):
    """One call of a tool that a model wanted.

    Attributes:
        call: What the model wanted.
        arguments: What it gave, as JSON has it; None where that could not be read.
        value: What the tool gave back; None where it failed.
        error: Why it failed: what the tool itself raised, `TimeoutError`, `LookupError` for a tool
            that there is not, `ValueError` for arguments that do not fit; None where it did not.
        content: What the model was told.
        duration_s: Seconds that the tool took.
        turn: In which round, from 1.
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
        """The tool's name, as the model wrote it."""
        return self.call.function.name


class ToolRun(ShortResult, msgspec.Struct, frozen=True, kw_only=True):
    """A conversation with tools, up to the answer that wanted no more of them.

    Attributes:
        completion: The last answer.
        messages: The whole conversation, with every call, its result and the last answer; a next
            question may be put behind it.
        calls: The calls that were made, in order.
        turns: How often the model was asked.
        usage: Tokens of all rounds together.
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
