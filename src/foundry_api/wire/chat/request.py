"""The body of a chat request: options, constraints and tools, natively or in the prompt."""

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

    from foundry_api.types.messages import ChatRequest, Constraint, ToolDefinition
    from foundry_api.wire.chat.events import ChatDecoder

__all__ = [
    "DEFAULT_MAX_TOKENS",
    "add_tool_prompt",
    "add_tool_recovery",
    "apply_constraint",
    "encode",
    "get_output_limit",
    "get_tool_names",
    "inline_tool_history",
    "make_chat_body",
    "make_readable_schema",
    "offers_tools",
    "prompt_for_constraint",
]

# Where the SDK's services truncate an answer if the request has no limit.
DEFAULT_MAX_TOKENS = 2048

encode = msgspec.json.Encoder().encode


def make_chat_body(request: ChatRequest, model: str) -> dict[str, Any]:
    """Make the body of a streamed chat completion; `model` is the name the service uses."""
    body: dict[str, Any] = {
        **request.extra,
        "model": model,
        "messages": request.messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.seed is not None:
        body["seed"] = request.seed
    if request.stop:
        body["stop"] = request.stop
    if not request.tools or not offers_tools(request):
        return body
    if request.tools_in_prompt:
        body["messages"] = add_tool_prompt(inline_tool_history(request.messages), request.tools)
    else:
        body["tools"] = [{"type": "function", "function": tool} for tool in request.tools]
        choice = request.tool_choice
        if choice in {"auto", "required"}:
            body["tool_choice"] = choice
        elif choice is not None:
            body["tool_choice"] = {"type": "function", "function": {"name": choice}}
    return body


def offers_tools(request: ChatRequest) -> bool:
    """Return whether the model may call tools."""
    # With "none", SDK 2.2.1 leaves the tools out of the prompt. So it is done for all generations.
    return bool(request.tools) and request.tool_choice != "none"


def get_tool_names(request: ChatRequest) -> tuple[str, ...]:
    """Return the names of the tools that the model may call."""
    return tuple(tool.name for tool in request.tools) if offers_tools(request) else ()


def add_tool_recovery(stream: ChatDecoder, model_id: str, request: ChatRequest) -> ChatDecoder:
    """Wrap a decoder so that it finds tool calls in the text, if the request offers tools."""
    if not offers_tools(request):
        return stream
    # Many patterns are compiled, which calls without tools do not need.
    from foundry_api.wire.chat.tool_call_parser import ToolCallRecovery  # noqa: PLC0415

    tools = {tool.name: tool.parameters for tool in request.tools}
    return ToolCallRecovery(stream, model_id, tools)


def get_output_limit(request: ChatRequest, default: int = DEFAULT_MAX_TOKENS) -> int:
    """Return the number of tokens at which the service truncates the answer."""
    # If a request has both limits, the services apply this one.
    limit = request.extra.get("max_completion_tokens") or request.max_tokens
    return limit if isinstance(limit, int) else default


# Hermes' format, in which most models were trained to call tools.
_PROTOCOL = """\
You may call one or more functions to assist with the user query.
The functions, each with the JSON schema of its arguments:
<tools>
{tools}
</tools>
To call a function, answer with a JSON object within <tool_call></tool_call> tags:
<tool_call>{{"name": <function-name>, "arguments": <args-json-object>}}</tool_call>
If no function is needed, answer as usual."""


def apply_constraint(body: dict[str, Any], constraint: Constraint | None) -> dict[str, Any]:
    """Return a body whose response format makes SDK 2.1 enforce the constraint."""
    if constraint is None:
        # A response format in the caller's own `extra`. The engine takes OpenAI's wrapper around
        # the schema for the schema itself, which then allows any JSON.
        match body.get("response_format"):
            case {"type": "json_schema", "json_schema": {"schema": schema}}:
                pass
            case {"type": "json_schema", "json_schema": schema}:
                pass
            case _:
                return body
        response_format = {"type": "json_schema", "json_schema": make_readable_schema(schema)}
    else:
        grammar = _make_grammar(constraint)
        response_format = {"type": "lark_grammar", "lark_grammar": grammar}
    return {**body, "response_format": response_format}


def prompt_for_constraint(request: ChatRequest) -> tuple[Message, ...]:
    """Return the messages with a schema or choices described in the system message."""
    # A grammar means nothing to a model. `Capabilities.check` rejects it for these generations.
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


def make_readable_schema(schema: Any) -> Any:
    """Prepare a caller's schema for the engine; leave an invalid one for the service to reject."""
    # The engine schema bounds what the JSON may contain, so that every answer ends.
    from foundry_api.structured.engine_schema import make_engine_schema  # noqa: PLC0415 - as above

    try:
        return schema if "x-guidance" in schema else make_engine_schema(schema)
    except (AttributeError, TypeError, ValueError, RecursionError, GrammarError):
        return schema


def add_tool_prompt(
    messages: Sequence[Message], tools: Sequence[ToolDefinition]
) -> tuple[Message, ...]:
    """Return the messages with the tools described in the system message."""
    definitions = [
        msgspec.json.encode({"type": "function", "function": tool}).decode() for tool in tools
    ]
    protocol = _PROTOCOL.format(tools="\n".join(definitions))
    if messages[0].role != "system":
        return (Message("system", protocol), *messages)
    first, *rest = messages
    return (Message("system", f"{first.content}\n\n{protocol}"), *rest)


def inline_tool_history(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages with tool calls as assistant text and tool results as user text."""
    names = {call.id: call.function.name for turn in messages for call in turn.tool_calls}
    inlined: list[Message] = []
    for message in messages:
        if message.role == "tool":
            name = names.get(message.tool_call_id or "", "the tool")
            inlined.append(Message("user", f"{name} returned:\n{message.content}"))
        elif message.tool_calls:
            parts = [message.content] if message.content else []
            for call in message.tool_calls:
                name = msgspec.json.encode(call.function.name).decode()
                arguments = call.function.arguments
                parts.append(f'<tool_call>{{"name": {name}, "arguments": {arguments}}}</tool_call>')
            inlined.append(Message(message.role, "\n".join(parts)))
        else:
            inlined.append(message)
    return tuple(inlined)
