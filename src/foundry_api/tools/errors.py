"""Errors of tools: of their definitions, and of their calls with the run so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.types.errors import InvalidRequest, ToolError

if TYPE_CHECKING:
    from foundry_api.tools.results import ToolRun
    from foundry_api.types.messages import ToolCall

__all__ = ["MaxTurnsExceeded", "ToolDefinitionError", "ToolFailed"]


class ToolDefinitionError(InvalidRequest):
    """A function cannot be described as a tool. `field` names the invalid parameter."""

    default_hint = "Give every parameter a type that JSON has, and the function a plain name."


class ToolFailed(ToolError):
    """A tool call failed, and `on_error` is `raise`.

    The exception of the tool, if there is one, is the `__cause__`.

    Attributes:
        call: The failed call.
        run: The run so far.
    """

    default_hint = "Correct the tool, or return errors to the model: on_error='return'."

    def __init__(
        self,
        message: str,
        *,
        call: ToolCall | None = None,
        run: ToolRun | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.call = call
        self.run = run


class MaxTurnsExceeded(ToolError):
    """The model still calls tools after `max_turns` turns.

    Attributes:
        run: The run so far. The calls of its last answer were not executed.
    """

    default_hint = "Allow more max_turns, or look at run.calls for what keeps the model busy."

    def __init__(
        self, message: str, *, run: ToolRun | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.run = run
