"""Messages as OpenAI's own answers and libraries have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from foundry_api.errors import InvalidRequest
from foundry_api.values import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["turns"]

_UNREAD = {"refusal", "annotations", "audio", "function_call", "name", "reasoning_content"}
"""Members that OpenAI's answers have, and that no Foundry service reads."""


def turns(messages: object) -> list[Any]:
    """Messages without what no service reads, for the client to check the rest.

    Raises:
        InvalidRequest: They are no list.
    """
    if not isinstance(messages, list):
        raise InvalidRequest(f"messages is {shown(messages)}, not a list", field="messages")
    return [_turn(each) for each in cast("list[object]", messages)]


def _turn(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    told = cast("Mapping[str, Any]", message)
    turn = {
        name: value for name, value in told.items() if value is not None and name not in _UNREAD
    }
    if turn.get("role") == "developer":
        turn["role"] = "system"
    return turn
