"""Tool calls that come in pieces, put together.

By id, because 2.0 restarts the index at 0 in every chunk (foundry-local-service.md, 4.4); a piece
without an id belongs to the call that its index named last, as in OpenAI's streams.
"""

from __future__ import annotations

import msgspec

from foundry_api.messages import FunctionCall, ToolCall

__all__ = ["ToolCallDelta", "ToolCallsInPieces"]


class FunctionDelta(msgspec.Struct):
    """What a piece adds to the function of a call."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(msgspec.Struct):
    """A piece of a call."""

    index: int = 0
    id: str | None = None
    function: FunctionDelta | None = None


class ToolCallsInPieces:
    """Collects the pieces of the calls of one answer."""

    def __init__(self) -> None:
        self._calls: dict[str, FunctionDelta] = {}
        self._ids: dict[int, str] = {}

    def __len__(self) -> int:
        """How many calls have begun, and were not taken."""
        return len(self._calls)

    def add(self, delta: ToolCallDelta) -> None:
        """One more piece."""
        if delta.id:
            self._ids[delta.index] = delta.id
        call_id = self._ids.setdefault(delta.index, f"call_{len(self._calls)}")
        call = self._calls.setdefault(call_id, FunctionDelta("", ""))
        if delta.function is not None:
            call.name = (call.name or "") + (delta.function.name or "")
            call.arguments = (call.arguments or "") + (delta.function.arguments or "")

    def take(self) -> tuple[ToolCall, ...]:
        """The calls, in the order in which they began; they are complete at the answer's end."""
        calls, self._calls = self._calls, {}
        return tuple(
            ToolCall(call_id, FunctionCall(call.name or "", call.arguments or ""))
            for call_id, call in calls.items()
        )
