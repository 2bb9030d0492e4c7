"""The body of a request of the Messages API, and the call that it becomes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

import msgspec
from msgspec import Meta

from foundry_api.gateway.anthropic.errors import THREAD_UNSUPPORTED
from foundry_api.gateway.checks import check_depth, check_text, make_invalid
from foundry_api.gateway.errors import RequestError
from foundry_api.gateway.generation import Generation
from foundry_api.gateway.openai.sampling import MaxTokens, Temperature, TopP, refuse_members
from foundry_api.gateway.tools import add_tools, make_tool
from foundry_api.types.messages import FunctionCall, Message, ToolCall

if TYPE_CHECKING:
    from foundry_api.core.options import ChatOptions
    from foundry_api.structured.output_spec import OutputSpec
    from foundry_api.types.messages import ToolDefinition

__all__ = ["CountBody", "MessagesBody", "make_generation", "make_prompt"]

MAX_MESSAGES = 4096
MAX_TOP_K = 2**31 - 1
# Of the arguments that have another name. The messages of a call are not those of the request.
_MEMBERS = {
    "prompt": "messages",
    "messages": "messages",
    "stop": "stop_sequences[]",
    "response_model": "output_config.format.schema",
}


class Text(msgspec.Struct, tag_field="type", tag="text"):
    text: str


class ToolUse(msgspec.Struct, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


class Image(msgspec.Struct, tag_field="type", tag="image"):
    pass


class Document(msgspec.Struct, tag_field="type", tag="document"):
    pass


class SearchResult(msgspec.Struct, tag_field="type", tag="search_result"):
    pass


class Thinking(msgspec.Struct, tag_field="type", tag="thinking"):
    pass


class RedactedThinking(msgspec.Struct, tag_field="type", tag="redacted_thinking"):
    pass


class ToolResult(msgspec.Struct, tag_field="type", tag="tool_result"):
    tool_use_id: str
    content: str | list[Text | Image | Document | SearchResult] | None = None
    is_error: bool | None = None


Block = Text | ToolUse | ToolResult | Image | Document | SearchResult | Thinking | RedactedThinking


class MessageBody(msgspec.Struct):
    role: Literal["user", "assistant"]
    content: str | list[Block]


class ToolBody(msgspec.Struct):
    name: str
    input_schema: dict[str, Any] | None = None
    description: str | None = None
    type: str | None = None
    strict: bool | None = None


class ToolChoice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class OutputFormat(msgspec.Struct):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct):
    format: OutputFormat | None = None


class CountBody(msgspec.Struct, kw_only=True):
    """The JSON body of `POST /v1/messages/count_tokens`.

    Attributes:
        messages: The conversation.
        model: Alias or id of a model; default: that of the gateway's configuration.
        system: Instructions.
        tools: Functions that the model may call.
    """

    LONGEST_LISTS: ClassVar = {"messages": MAX_MESSAGES}

    messages: Annotated[
        list[MessageBody], Meta(extra_json_schema={"minItems": 1, "maxItems": MAX_MESSAGES})
    ]
    model: str | None = None
    system: str | list[Text] | None = None
    tools: list[ToolBody] | None = None


class MessagesBody(CountBody, kw_only=True):
    """The JSON body of `POST /v1/messages`.

    Attributes:
        max_tokens: Limit of the answer in tokens; lowered if the context has less room.
        temperature: Default: the model's own.
        top_p: Default: the model's own.
        stop_sequences: Up to four strings that end the answer.
        stream: Whether to send events as they are generated.
        top_k: From how many tokens each one is sampled; default: the model's own.
        tool_choice: Whether and which tools are called.
        output_config: The form of the answer: a JSON schema.
        thread: Refused: the gateway stores no conversations.
        container: Refused: the gateway runs no code.
        mcp_servers: Refused: the gateway calls no servers.
        compaction: Refused: the gateway shortens no conversations.
    """

    max_tokens: MaxTokens
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    tool_choice: ToolChoice | None = None
    top_k: Annotated[int, Meta(extra_json_schema={"minimum": 1})] | None = None
    output_config: OutputConfig | None = None
    # What the engine or the gateway cannot do.
    thread: Any = None
    container: Any = None
    mcp_servers: list[Any] | None = None
    compaction: Any = None


def make_prompt(body: CountBody, model: str) -> Generation:
    """Return the conversation and the tools of a request.

    Raises:
        RequestError: A member is invalid, or asks for what the engine cannot do.
    """
    if not 0 < len(body.messages) <= MAX_MESSAGES:
        raise make_invalid(
            "messages",
            f"messages holds {len(body.messages)} messages; 1 to {MAX_MESSAGES} are allowed.",
        )
    messages: list[Message] = []
    if body.system:
        system = body.system
        text = system if isinstance(system, str) else "\n\n".join(part.text for part in system)
        check_text("system", text)
        messages.append(Message("system", text))
    for index, message in enumerate(body.messages):
        messages += _make_messages(f"messages[{index}].content", message)
    options: ChatOptions = {"model": model}
    strict_tools: dict[str, OutputSpec] = {}
    if body.tools:
        options["tools"] = [
            make_tool(
                f"tools[{index}].input_schema",
                tool.name,
                tool.description,
                _get_input_schema(index, tool),
                strict_tools if tool.strict else None,
            )
            for index, tool in enumerate(body.tools)
        ]
    return Generation(
        model=model,
        messages=tuple(messages),
        options=options,
        strict_tools=strict_tools,
        members=_MEMBERS,
    )


def make_generation(body: MessagesBody, model: str) -> Generation:
    """Validate a request.

    Raises:
        RequestError: As `make_prompt`.
    """
    if body.thread is not None:
        raise RequestError(
            400,
            THREAD_UNSUPPORTED,
            "The gateway stores no conversations. Send all messages, without thread.",
            param="thread",
        )
    refuse_members(
        (
            ("container", body.container is not None, "The gateway runs no code."),
            ("mcp_servers", body.mcp_servers, "The gateway calls no servers."),
            ("compaction", body.compaction is not None, "The gateway shortens no conversations."),
        )
    )
    prompt = make_prompt(body, model)
    options: ChatOptions = {**prompt.options, "max_tokens": body.max_tokens}
    if body.temperature is not None:
        options["temperature"] = body.temperature
    if body.top_p is not None:
        options["top_p"] = body.top_p
    if body.stop_sequences:
        options["stop"] = body.stop_sequences
    if body.top_k is not None:
        if not 1 <= body.top_k <= MAX_TOP_K:
            raise make_invalid(
                "top_k", f"top_k is {body.top_k}, but must be from 1 to {MAX_TOP_K}."
            )
        # Where other servers read it, and where the engine does.
        options["extra"] = {"top_k": body.top_k, "metadata": {"top_k": str(body.top_k)}}
    if (choice := body.tool_choice) is not None:
        tools = cast("list[ToolDefinition]", prompt.options.get("tools") or [])
        add_tools(options, tools, _get_choice(choice))
    schema = None
    if body.output_config is not None and body.output_config.format is not None:
        schema = body.output_config.format.schema
        check_depth("output_config.format.schema", schema)
    return Generation(
        model=model,
        messages=prompt.messages,
        options=options,
        schema=schema,
        strict_tools=prompt.strict_tools,
        max_calls=1 if choice and choice.disable_parallel_tool_use else None,
        members=_MEMBERS,
    )


def _get_input_schema(index: int, tool: ToolBody) -> dict[str, Any] | None:
    if tool.type not in {None, "custom"}:
        raise RequestError(
            400,
            "unsupported_parameter",
            f"tools[{index}]: the gateway has no tool of type {tool.type!r}. Send a tool with an "
            "input_schema.",
            param=f"tools[{index}].type",
        )
    return tool.input_schema


def _get_choice(choice: ToolChoice) -> str:
    if choice.type == "tool":
        if not choice.name:
            raise make_invalid("tool_choice.name", "tool_choice.name is missing.")
        return choice.name
    return "required" if choice.type == "any" else choice.type


def _make_messages(field: str, body: MessageBody) -> list[Message]:
    """Return a message; the results of tools in it are messages of their own."""
    if isinstance(body.content, str):
        check_text(field, body.content)
        if body.role == "user":
            _require_text(field, body.content)
        return [Message(body.role, body.content)]
    messages: list[Message] = []
    texts: list[str] = []
    calls: list[ToolCall] = []
    for index, block in enumerate(body.content):
        place = f"{field}[{index}]"
        match block:
            case Text():
                check_text(f"{place}.text", block.text)
                texts.append(block.text)
            case ToolUse():
                arguments = msgspec.json.encode(block.input).decode()
                calls.append(ToolCall(block.id, FunctionCall(block.name, arguments)))
            case ToolResult():
                messages.append(
                    Message("tool", _join_result(place, block), tool_call_id=block.tool_use_id)
                )
            case Thinking() | RedactedThinking():
                pass  # models do not read their earlier thoughts
            case _:
                raise _make_unsupported(place, block)
    text = "".join(texts)
    if body.role == "user" and not messages and not calls:
        _require_text(field, text)
    if calls or not messages or text.strip():
        messages.append(Message(body.role, text, tuple(calls)))
    return messages


def _require_text(field: str, text: str) -> None:
    if not text.strip():
        raise make_invalid(field, f"{field} is empty.")


def _join_result(field: str, block: ToolResult) -> str:
    if block.content is None or isinstance(block.content, str):
        check_text(f"{field}.content", block.content or "")
        return block.content or ""
    texts: list[str] = []
    for index, part in enumerate(block.content):
        if not isinstance(part, Text):
            raise _make_unsupported(f"{field}.content[{index}]", part)
        check_text(f"{field}.content[{index}].text", part.text)
        texts.append(part.text)
    return "".join(texts)


def _make_unsupported(field: str, block: msgspec.Struct) -> RequestError:
    kind = block.__struct_config__.tag
    return RequestError(
        400,
        "unsupported_content",
        f"{field}: chat models here take text only, no {kind}. Send a block of type text.",
        param=field,
    )
