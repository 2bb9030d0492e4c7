"""Tools that a model calls: they cannot be described, called, or brought to an end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.errors.base import FoundryError
from foundry_api.errors.request import InvalidRequest, UnsupportedFeature

if TYPE_CHECKING:
    from foundry_api.messages import ToolCall
    from foundry_api.tools.outcome import ToolRun

__all__ = [
    "ToolCallError",
    "ToolDefinitionError",
    "ToolError",
    "ToolFailed",
    "ToolMarkersMissing",
    "ToolRoundsExceeded",
]


class ToolDefinitionError(InvalidRequest):
    """A function cannot be described to a model as a tool. `field` names the parameter at fault."""

    default_hint = "Give every parameter a type that JSON has, and the function a plain name."


class ToolMarkersMissing(UnsupportedFeature):
    """The model does not name the markers of tool calls, which the service needs to find them."""

    default_hint = "Use a model that was made to call tools, or leave tool_choice out."


class ToolError(FoundryError):
    """Something is wrong about a call of a tool."""


class ToolCallError(ToolError):
    """The model wanted to call a tool, but its call cannot be read.

    Attributes:
        text: What the model wrote, where the service shows it.
        finish_reason: `length` for a call that was cut at the greatest length of the answer; else
            None.
    """

    default_hint = (
        "Ask again, with a higher max_tokens if the call was cut, or use a model that was made to "
        "call tools."
    )

    cut_hint = "Allow more max_tokens."

    def __init__(
        self,
        message: str,
        *,
        text: str = "",
        hint: str | None = None,
        model: str | None = None,
        service: str | None = None,
        status: int | None = None,
        finish_reason: str | None = None,
    ) -> None:
        if hint is None and finish_reason == "length":
            hint = self.cut_hint
        super().__init__(message, hint=hint, model=model, service=service, status=status)
        self.text = text
        self.finish_reason = finish_reason


class ToolFailed(ToolError):
    """A tool could not do what the model called it for; raised where `on_error` is `raise`.

    The exception of the tool, if there is one, is the `__cause__`.

    Attributes:
        call: What the model wanted.
        run: The run so far.
    """

    default_hint = "Correct the tool, or let the model be told of errors: on_error='tell'."

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


class ToolRoundsExceeded(ToolError):
    """The model still wanted to call tools when it had been asked `max_rounds` times.

    Attributes:
        run: The run so far; its last turn is the one that wants more calls, which were not made.
    """

    default_hint = "Allow more max_rounds, or look at run.calls for what keeps the model busy."

    def __init__(
        self, message: str, *, run: ToolRun | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.run = run
