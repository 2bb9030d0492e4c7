"""What an answer has to look like: as the engine of 2.1 takes it, and in words for the others.

(foundry-local-service.md, 4.3)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.types.errors import GrammarError
from foundry_api.types.messages import (
    ChoiceConstraint,
    GrammarConstraint,
    JsonSchemaConstraint,
    Message,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.types.messages import ChatRequest, Constraint, ToolCall, ToolDefinition

__all__ = [
    "add_tool_prompt",
    "apply_constraint",
    "inline_tool_history",
    "make_readable_schema",
    "prompt_for_constraint",
]


def apply_constraint(body: dict[str, Any], constraint: Constraint | None) -> dict[str, Any]:
    """A body whose answer the engine will keep to the constraint, or to its own response format."""
    if constraint is None:
        return _strip(body)
    return {
        **body,
        "response_format": {"type": "lark_grammar", "lark_grammar": _make_grammar(constraint)},
    }


def prompt_for_constraint(request: ChatRequest) -> tuple[Message, ...]:
    """The conversation, with what the answer has to look like in its system turn.

    A grammar would mean nothing to a model; `Capabilities.check` refuses it.
    """
    if not isinstance(request.constraint, JsonSchemaConstraint | ChoiceConstraint):
        return request.messages
    from foundry_api.structured.repair import add_instructions  # noqa: PLC0415 - few calls need it

    return add_instructions(request.messages, request.constraint)


def _make_grammar(constraint: Constraint) -> str:
    if isinstance(constraint, GrammarConstraint):
        return constraint.lark
    from foundry_api.structured.engine_schema import make_choice_grammar, make_schema_grammar  # noqa: PLC0415 - as above

    if isinstance(constraint, ChoiceConstraint):
        return make_choice_grammar(constraint.choices)
    return make_schema_grammar(constraint.schema)


def _strip(body: dict[str, Any]) -> dict[str, Any]:
    """The caller's own schema as the engine takes it, without the wrapper of OpenAI's form.

    The engine takes the wrapper for a schema that allows anything.
    """
    match body.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            pass
        case {"type": "json_schema", "json_schema": schema}:
            pass
        case _:
            return body
    response_format = {"type": "json_schema", "json_schema": make_readable_schema(schema)}
    return {**body, "response_format": response_format}


def make_readable_schema(schema: Any) -> Any:
    """A schema that a caller wrote into a body, with what lets answers end.

    What is no schema stays as it is: the service says what is wrong with it.
    """
    from foundry_api.structured.engine_schema import make_engine_schema  # noqa: PLC0415 - as above

    try:
        return schema if "x-guidance" in schema else make_engine_schema(schema)
    except (AttributeError, TypeError, ValueError, RecursionError, GrammarError):
        return schema


_PROTOCOL = """\
You may call one or more functions to assist with the user query.
The functions, each with the JSON schema of its arguments:
<tools>
{tools}
</tools>
To call a function, answer with a JSON object within <tool_call></tool_call> tags:
<tool_call>{{"name": <function-name>, "arguments": <args-json-object>}}</tool_call>
If no function is needed, answer as usual."""


def add_tool_prompt(
    messages: Sequence[Message], tools: Sequence[ToolDefinition]
) -> tuple[Message, ...]:
    """The same conversation with the tools in its system turn."""
    listed = [
        msgspec.json.encode({"type": "function", "function": tool}).decode() for tool in tools
    ]
    protocol = _PROTOCOL.format(tools="\n".join(listed))
    if messages[0].role != "system":
        return (Message("system", protocol), *messages)
    first, *rest = messages
    return (Message("system", f"{first.content}\n\n{protocol}"), *rest)


def inline_tool_history(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The same conversation, with tool calls in the assistant's words and results in the user's."""
    names = {call.id: call.function.name for turn in messages for call in turn.tool_calls}
    return tuple(_inline_message(message, names) for message in messages)


def _inline_message(message: Message, names: dict[str, str]) -> Message:
    if message.role == "tool":
        name = names.get(message.tool_call_id or "", "the tool")
        return Message("user", f"{name} returned:\n{message.content}")
    if message.tool_calls:
        parts = (message.content, *map(_format_call, message.tool_calls))
        return Message(message.role, "\n".join(part for part in parts if part))
    return message


def _format_call(call: ToolCall) -> str:
    """A call as models write it that were trained on Hermes' format, which most use."""
    name = msgspec.json.encode(call.function.name).decode()
    return f'<tool_call>{{"name": {name}, "arguments": {call.function.arguments}}}</tool_call>'
