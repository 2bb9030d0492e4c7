"""The bounds of a conversation with tools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from foundry_api.errors import InvalidRequest
from foundry_api.values import as_float, as_int, as_text, shown

__all__ = ["OnError", "ToolLimits"]

OnError = Literal["tell", "raise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolLimits:
    """How far a model may go.

    Attributes:
        max_rounds: How often it is asked at most.
        parallel: How many calls of a round run at once.
        tool_timeout: Seconds that one call may take.
        on_error: Whether a call that fails is told to the model or raised.

    Raises:
        InvalidRequest: One cannot be kept; `.field` names it.
    """

    max_rounds: int
    parallel: int
    tool_timeout: float
    on_error: OnError

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        for name in ("max_rounds", "parallel"):
            value = getattr(self, name)
            number = as_int(value)
            if number is None or number < 1:
                raise InvalidRequest(
                    f"{name} is {shown(value)}, not a whole number from 1", field=name
                )
            object.__setattr__(self, name, number)
        seconds = as_float(self.tool_timeout)
        if seconds is None or not seconds > 0:
            raise InvalidRequest(
                f"tool_timeout is {shown(self.tool_timeout)}, but must be above 0 s",
                field="tool_timeout",
            )
        object.__setattr__(self, "tool_timeout", seconds)
        if as_text(self.on_error) not in {"tell", "raise"}:
            raise InvalidRequest(
                f"on_error is {shown(self.on_error)}, but must be tell or raise", field="on_error"
            )
