"""The body of a request of the Responses API, and the conversation that it becomes."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec

from foundry_api.gateway.checks import (
    check_depth,
    check_text,
    make_invalid,
    make_missing,
)
from foundry_api.gateway.errors import RequestError
from foundry_api.gateway.generation import Generation
from foundry_api.gateway.openai.chat_request import ANY_OBJECT
from foundry_api.gateway.openai.sampling import (
    MaxTokens,
    SamplingBody,
    make_options,
    refuse_members,
)
from foundry_api.gateway.tools import add_tools, make_tool
from foundry_api.types.messages import FunctionCall, Message, ToolCall

if TYPE_CHECKING:
    from foundry_api.structured.output_spec import OutputSpec
    from foundry_api.types.messages import ToolDefinition

__all__ = ["ResponseBody", "encode_items", "make_messages", "make_response_generation"]

MAX_ITEMS = 4096
# Of the arguments that have another name. The messages of a call are not the items of the input
# alone.
_MEMBERS = {
    "prompt": "input",
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_model": "text.format.schema",
}
TEXT_PARTS = frozenset({"input_text", "output_text", "text"})


class Part(msgspec.Struct, omit_defaults=True):
    type: str
    text: str | None = None
    refusal: str | None = None


class Item(msgspec.Struct, omit_defaults=True):
    """An item of the input. A message may lack its type."""

    type: str = "message"
    id: str | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None
    status: str | None = None


class Format(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: dict[str, Any] | None = None


class Text(msgspec.Struct):
    format: Format | None = None


class ResponseTool(msgspec.Struct):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseBody(SamplingBody, kw_only=True):
    """The JSON body of `POST /v1/responses`. Null means the default.

    Attributes:
        input: A text, or the items of a conversation.
        instructions: A system message for this response only.
        previous_response_id: The stored response that this one continues.
        max_output_tokens: Limit of the answer in tokens; lowered if the context has less room.
        store: Whether to keep the response; default: true.
        background: Whether to answer at once, and to generate the response afterwards.
        metadata: Returned as it was sent.
        text: The form of the answer.
        tools: Functions that the model may call.
        tool_choice: `auto`, `none`, `required`, a function to call, or the tools that are allowed.
        parallel_tool_calls: False returns only the first tool call; default: true.
        reasoning: Without effect. Returned as it was sent.
        truncation: Without effect: an input that is too long is refused.
        include: Log probabilities are refused, other values have no effect.
        top_logprobs: Refused: the engine returns none.
        conversation: Refused: the gateway stores responses, no conversations.
        prompt: Refused: the gateway stores no prompts.
        moderation: Refused: the gateway runs none.
    """

    LONGEST_LISTS: ClassVar = {"input": MAX_ITEMS}

    input: str | list[Item]
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: MaxTokens | None = None
    store: bool | None = None
    background: bool | None = None
    metadata: dict[str, str] | None = None
    text: Text | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: dict[str, Any] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    # What the engine or the gateway cannot do.
    include: list[str] | None = None
    top_logprobs: int | None = None
    conversation: Any = None
    prompt: Any = None
    moderation: Any = None


def make_response_generation(
    body: ResponseBody, model: str, conversation: tuple[Message, ...]
) -> Generation:
    """Validate a request; the conversation is the stored one with the input.

    Raises:
        RequestError: A member is missing, invalid, or asks for what the engine cannot do.
    """
    _refuse_unsupported(body)
    options = make_options(body, model, max_tokens=body.max_output_tokens)
    strict_tools: dict[str, OutputSpec] = {}
    add_tools(options, _make_tools(body, strict_tools), body.tool_choice)
    if body.instructions:
        check_text("instructions", body.instructions)
    instructions = (Message("system", body.instructions),) if body.instructions else ()
    return Generation(
        model=model,
        messages=(*instructions, *conversation),
        options=options,
        schema=_get_schema(body),
        strict_tools=strict_tools,
        max_calls=1 if body.parallel_tool_calls is False else None,
        members=_MEMBERS,
    )


def _refuse_unsupported(body: ResponseBody) -> None:
    logprobs = [one for one in body.include or () if one.endswith("logprobs")]
    refuse_members(
        (
            ("include", logprobs, "The engine returns no log probabilities."),
            ("top_logprobs", body.top_logprobs, "The engine returns no log probabilities."),
            (
                "conversation",
                body.conversation is not None,
                "The gateway stores responses, no conversations.",
            ),
            ("prompt", body.prompt is not None, "The gateway stores no prompts."),
            ("moderation", body.moderation is not None, "The gateway has no moderation."),
        )
    )


def make_messages(body: ResponseBody) -> tuple[Message, ...]:
    """Return the input as messages.

    Raises:
        RequestError: An item is invalid, or of a kind that the engine does not take.
    """
    if isinstance(body.input, str):
        if not body.input.strip():
            raise make_invalid("input", "input is empty.")
        check_text("input", body.input)
        return (Message("user", body.input),)
    if not 0 < len(body.input) <= MAX_ITEMS:
        raise make_invalid(
            "input", f"input holds {len(body.input)} items; 1 to {MAX_ITEMS} are allowed."
        )
    messages: list[Message] = []
    for index, item in enumerate(body.input):
        field = f"input[{index}]"
        if item.type == "message":
            if item.role is None:
                raise make_missing(f"{field}.role")
            role = "system" if item.role == "developer" else item.role
            content = _join_parts(f"{field}.content", item.content)
            if role == "user" and not content.strip():
                raise make_invalid(f"{field}.content", f"{field}.content is empty.")
            messages.append(Message(role, content))
        elif item.type == "function_call":
            _add_call(messages, _make_call(field, item))
        elif item.type == "function_call_output":
            if not item.call_id:
                raise make_missing(f"{field}.call_id")
            content = _join_parts(f"{field}.output", item.output)
            messages.append(Message("tool", content, tool_call_id=item.call_id))
        elif item.type != "reasoning":  # which models do not read again
            raise RequestError(
                400,
                "unsupported_content",
                f"{field}: the gateway takes no items of type {item.type!r}. Send messages, "
                "function calls and their outputs.",
                param=field,
            )
    return tuple(messages)


def _make_call(field: str, item: Item) -> ToolCall:
    if not item.call_id:
        raise make_missing(f"{field}.call_id")
    if not item.name:
        raise make_missing(f"{field}.name")
    return ToolCall(item.call_id, FunctionCall(item.name, item.arguments or "{}"))


def _add_call(messages: list[Message], call: ToolCall) -> None:
    """Add a call to the assistant's message before it, as one turn has several items."""
    if messages and messages[-1].role == "assistant":
        last = messages[-1]
        messages[-1] = Message("assistant", last.content, (*last.tool_calls, call))
    else:
        messages.append(Message("assistant", "", (call,)))


def _join_parts(field: str, content: str | list[Part] | None) -> str:
    if content is None:
        raise make_missing(field)
    if isinstance(content, str):
        check_text(field, content)
        return content
    texts: list[str] = []
    for index, part in enumerate(content):
        if part.type in TEXT_PARTS and part.text is not None:
            check_text(f"{field}[{index}].text", part.text)
            texts.append(part.text)
        elif part.type == "refusal" and part.refusal is not None:
            check_text(f"{field}[{index}].refusal", part.refusal)
            texts.append(part.refusal)
        else:
            raise RequestError(
                400,
                "unsupported_content",
                f"{field}[{index}]: chat models here take text only, no {part.type}. "
                "Send a part of type input_text.",
                param=f"{field}[{index}]",
            )
    return "".join(texts)


def encode_items(body: ResponseBody) -> tuple[bytes, ...]:
    """Return the items of the input as JSON, each with an id."""
    items = (
        [Item(role="user", content=[Part("input_text", text=body.input)])]
        if isinstance(body.input, str)
        else body.input
    )
    encoded: list[bytes] = []
    for item in items:
        identifier = item.id or f"item_{secrets.token_hex(12)}"
        members = {**msgspec.to_builtins(item), "type": item.type, "id": identifier}
        encoded.append(msgspec.json.encode(members))
    return tuple(encoded)


def _make_tools(body: ResponseBody, strict_tools: dict[str, OutputSpec]) -> list[ToolDefinition]:
    tools: list[ToolDefinition] = []
    for index, tool in enumerate(body.tools or ()):
        if tool.type != "function":
            raise RequestError(
                400,
                "unsupported_parameter",
                f"tools[{index}]: the gateway has no tool of type {tool.type!r}. Send functions.",
                param=f"tools[{index}].type",
            )
        if not tool.name:
            raise make_missing(f"tools[{index}].name")
        tools.append(
            make_tool(
                f"tools[{index}].parameters",
                tool.name,
                tool.description,
                tool.parameters,
                strict_tools if tool.strict else None,
            )
        )
    return tools


def _get_schema(body: ResponseBody) -> dict[str, Any] | None:
    text_format = body.text.format if body.text else None
    if text_format is None or text_format.type == "text":
        return None
    if text_format.type == "json_object":
        return ANY_OBJECT
    if text_format.schema is None:
        raise make_missing("text.format.schema")
    check_depth("text.format.schema", text_format.schema)
    return text_format.schema
