"""Convert messages, tools and schemas from and to LangChain's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool

from foundry_api.types.errors import InvalidRequest, StructuredOutputError
from foundry_api.types.messages import FunctionCall, Message, ToolCall, ToolDefinition
from foundry_api.types.values import format_value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_core.language_models import LanguageModelInput
    from langchain_core.messages import InvalidToolCall
    from langchain_core.messages.ai import UsageMetadata
    from langchain_core.messages.tool import ToolCall as LangChainToolCall

    from foundry_api.types.messages import Chunk, Completion, FinishReason, Usage

__all__ = [
    "PARSED",
    "add_metadata",
    "get_parsed",
    "to_ai_chunk",
    "to_ai_message",
    "to_definition",
    "to_messages",
    "to_response_model",
    "to_tool_choice",
    "with_raw",
]


PROVIDER = "foundry-local"
# The key of the parsed value in additional_kwargs, as in LangChain's other models.
PARSED = "parsed"

# Types of content blocks that are text, or that repeat other fields of the message.
TEXT_PARTS = {"text", "reasoning", "thinking", "tool_call", "tool_use"}


def to_messages(messages: Iterable[BaseMessage]) -> list[Message]:
    """Convert a conversation from LangChain. Raises InvalidRequest for other content than text."""
    return [_to_message(message) for message in messages]


def _to_message(message: BaseMessage) -> Message:
    text = _get_text(message)
    match message:
        case HumanMessage():
            return Message("user", text)
        case SystemMessage():
            return Message("system", text)
        case AIMessage():
            calls = tuple(
                ToolCall(call["id"] or "", FunctionCall(call["name"], json.dumps(call["args"])))
                for call in message.tool_calls
            )
            return Message("assistant", text, tool_calls=calls)
        case ToolMessage():
            return Message("tool", text, tool_call_id=message.tool_call_id)
        case ChatMessage(role=("system" | "user" | "assistant") as role):
            return Message(role, text)
        case ChatMessage():
            raise InvalidRequest(
                f"a message has the role {format_value(message.role)}, which models here do not "
                "know",
                field="messages",
                hint="The roles are system, user, assistant and tool.",
            )
        case _:
            raise InvalidRequest(
                f"a message of the type {message.type!r} cannot be sent", field="messages"
            )


def _get_text(message: BaseMessage) -> str:
    content: Any = message.content
    blocks: list[Any] = [] if isinstance(content, str) else content
    kinds = {str(block.get("type")) for block in blocks if not isinstance(block, str)}
    if unreadable := sorted(kinds - TEXT_PARTS):
        raise InvalidRequest(
            f"a message has content of the type {unreadable[0]!r}, and only text can be sent",
            field="messages",
        )
    return str(message.text)


def to_ai_message(completion: Completion[Any]) -> AIMessage:
    calls: list[LangChainToolCall] = []
    invalid: list[InvalidToolCall] = []
    for call in completion.tool_calls:
        name, text = call.function.name, call.function.arguments
        try:
            calls.append(tool_call(name=name, args=json.loads(text), id=call.id))
        except ValueError as error:
            invalid.append(invalid_tool_call(name=name, args=text, id=call.id, error=str(error)))
    return AIMessage(
        content=completion.content,
        additional_kwargs=_additional_kwargs(
            completion.reasoning, completion.refusal, completion.parsed
        ),
        tool_calls=calls,
        invalid_tool_calls=invalid,
        usage_metadata=_to_usage(completion.usage),
        response_metadata=_make_metadata(completion.model, completion.finish_reason),
    )


def to_ai_chunk(chunk: Chunk, index: int) -> AIMessageChunk:
    """Convert a chunk; `index` is the number of tool calls in the chunks before it."""
    # LangChain merges chunks of tool calls that have the same index.
    calls = [
        tool_call_chunk(
            name=call.function.name, args=call.function.arguments, id=call.id, index=number
        )
        for number, call in enumerate(chunk.tool_calls, start=index)
    ]
    message = AIMessageChunk(
        content=chunk.content,
        additional_kwargs=_additional_kwargs(chunk.reasoning, chunk.refusal, chunk.parsed),
        tool_call_chunks=calls,
    )
    if chunk.finish_reason is not None and chunk.usage is not None:
        message.usage_metadata = _to_usage(chunk.usage)
        message.response_metadata = _make_metadata(chunk.model, chunk.finish_reason)
        message.chunk_position = "last"
    return message


def _additional_kwargs(reasoning: str, refusal: str, parsed: Any) -> dict[str, Any]:
    kwargs = {
        "reasoning_content": reasoning or None,
        "refusal": refusal or None,
        PARSED: parsed,
    }
    return {name: value for name, value in kwargs.items() if value is not None}


def _to_usage(usage: Usage) -> UsageMetadata:
    return {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


def _make_metadata(model: str, finish_reason: FinishReason) -> dict[str, Any]:
    return {"model_name": model, "finish_reason": finish_reason, "model_provider": PROVIDER}


def to_definition(tool: Any) -> ToolDefinition:
    function = convert_to_openai_tool(tool)["function"]
    return ToolDefinition(
        name=function["name"],
        description=function.get("description", ""),
        parameters=function.get("parameters", {}),
    )


def to_tool_choice(tool_choice: str | bool | dict[str, Any] | None) -> str | None:  # noqa: FBT001 - LangChain's own
    """Convert LangChain's `tool_choice`."""
    match tool_choice:
        case True | "any":
            return "required"
        case False | None:
            return None
        case {"function": {"name": str(name)}} | str(name):
            return name
        case _:
            return str(tool_choice)


def to_response_model(schema: Any) -> Any:
    """Convert a schema of LangChain, which may be a function definition of OpenAI's."""
    if isinstance(schema, type) or not hasattr(schema, "get"):
        return schema
    return schema.get("function", schema).get("parameters", schema)


def add_metadata(schema: Any) -> dict[str, Any]:
    """Describe a schema for LangChain's tracers."""
    try:
        json_schema: Any = convert_to_json_schema(schema)
    except (ValueError, TypeError):  # LangChain does not know the type
        json_schema = repr(schema)
    return {"kwargs": {"method": "json_schema"}, "schema": json_schema}


def get_parsed(message: BaseMessage) -> Any:
    return message.additional_kwargs.get(PARSED)


def with_raw(model: Runnable[LanguageModelInput, AIMessage]) -> Runnable[LanguageModelInput, Any]:
    """Make a model return a dict with the answer, its value, and the error of an invalid one."""

    def invoke(prompt: Any, config: RunnableConfig) -> dict[str, Any]:
        try:
            return _make_success(model.invoke(prompt, config))
        except StructuredOutputError as error:
            return _make_failure(error)

    async def ainvoke(prompt: Any, config: RunnableConfig) -> dict[str, Any]:
        try:
            return _make_success(await model.ainvoke(prompt, config))
        except StructuredOutputError as error:
            return _make_failure(error)

    return RunnableLambda(invoke, ainvoke)


def _make_success(message: BaseMessage) -> dict[str, Any]:
    return {"raw": message, "parsed": get_parsed(message), "parsing_error": None}


def _make_failure(error: StructuredOutputError) -> dict[str, Any]:
    return {"raw": AIMessage(error.partial), "parsed": None, "parsing_error": error}
