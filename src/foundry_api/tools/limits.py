"""The bounds of a conversation with tools."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from foundry_api.errors import InvalidRequest

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
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidRequest(f"{name} is {value!r}, not a whole number from 1", field=name)
        if not _is_time(self.tool_timeout):
            raise InvalidRequest(
                f"tool_timeout is {self.tool_timeout!r}, but must be above 0 s",
                field="tool_timeout",
            )
        if self.on_error not in {"tell", "raise"}:
            raise InvalidRequest(
                f"on_error is {self.on_error!r}, but must be tell or raise", field="on_error"
            )


def _is_time(seconds: object) -> bool:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return False
    return seconds > 0 and not math.isnan(seconds)
