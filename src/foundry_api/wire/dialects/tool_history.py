"""Earlier tool calls as plain turns, for SDK 2.0, which drops them from the prompt without a word.

(foundry-local-service.md, 4.4) For the command line's services too, of which it is not known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from foundry_api.messages import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.messages import ToolCall

__all__ = ["inlined"]


def inlined(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The same conversation, with tool calls in the assistant's words and results in the user's."""
    names = {call.id: call.function.name for each in messages for call in each.tool_calls}
    return tuple(_plain(message, names) for message in messages)


def _plain(message: Message, names: dict[str, str]) -> Message:
    if message.role == "tool":
        name = names.get(message.tool_call_id or "", "the tool")
        return Message("user", f"{name} returned:\n{message.content}")
    if message.tool_calls:
        said = (message.content, *map(_call, message.tool_calls))
        return Message(message.role, "\n".join(part for part in said if part))
    return message


def _call(call: ToolCall) -> str:
    """A call as models write it that were trained on Hermes' format, which most use."""
    name = msgspec.json.encode(call.function.name).decode()
    return f'<tool_call>{{"name": {name}, "arguments": {call.function.arguments}}}</tool_call>'
