"""Tools in the prompt, for generations that know none: as models were told that learned Hermes'.

Most models that call tools were trained on this format or understand it. Their calls come back as
text (see `text_calls`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from foundry_api.messages import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.messages import ToolDefinition

__all__ = ["with_tools"]

_PROTOCOL = """\
You may call one or more functions to assist with the user query.
The functions, each with the JSON schema of its arguments:
<tools>
{tools}
</tools>
To call a function, answer with a JSON object within <tool_call></tool_call> tags:
<tool_call>{{"name": <function-name>, "arguments": <args-json-object>}}</tool_call>
If no function is needed, answer as usual."""


def with_tools(messages: Sequence[Message], tools: Sequence[ToolDefinition]) -> tuple[Message, ...]:
    """The same conversation with the tools in its system turn."""
    listed = [
        msgspec.json.encode({"type": "function", "function": tool}).decode() for tool in tools
    ]
    protocol = _PROTOCOL.format(tools="\n".join(listed))
    if messages[0].role != "system":
        return (Message("system", protocol), *messages)
    first, *rest = messages
    return (Message("system", f"{first.content}\n\n{protocol}"), *rest)
