"""The body of a chat completion request, and the call that it becomes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from foundry_api.gateway.checks import check_depth, make_invalid, make_missing
from foundry_api.gateway.errors import RequestError
from foundry_api.gateway.generation import Generation
from foundry_api.gateway.openai.sampling import (
    CompletionsBody,
    MaxTokens,
    make_options,
    refuse_members,
    refuse_unsupported,
)
from foundry_api.gateway.tools import add_tools, make_tool
from foundry_api.types.messages import FunctionCall, Message, ToolCall

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foundry_api.structured.output_spec import OutputSpec
    from foundry_api.types.messages import ToolDefinition

__all__ = ["ANY_OBJECT", "ChatBody", "make_generation"]

MAX_MESSAGES = 4096
# Of the arguments that have another name; see `name_member`.
_MEMBERS = {
    "prompt": "messages",
    "tools": "tools[].function",
    "response_model": "response_format.json_schema.schema",
    "grammar": "response_format.lark_grammar",
    "choice": "response_format.choice[]",
}
# What `json_object` asks for. As a schema it is enforced or validated with every generation, and
# leaves a model no white space to fill its answer with.
ANY_OBJECT: dict[str, Any] = {"type": "object"}


class TextPart(msgspec.Struct, tag_field="type", tag="text"):
    text: str


class RefusalPart(msgspec.Struct, tag_field="type", tag="refusal"):
    refusal: str


class ImagePart(msgspec.Struct, tag_field="type", tag="image_url"):
    pass


class AudioPart(msgspec.Struct, tag_field="type", tag="input_audio"):
    pass


class FilePart(msgspec.Struct, tag_field="type", tag="file"):
    pass


Part = TextPart | RefusalPart | ImagePart | AudioPart | FilePart


class FunctionCallBody(msgspec.Struct):
    name: str
    arguments: str


class ToolCallBody(msgspec.Struct):
    id: str
    function: FunctionCallBody


class MessageBody(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    tool_calls: list[ToolCallBody] | None = None
    tool_call_id: str | None = None
    function_call: FunctionCallBody | None = None
    name: str | None = None


class FunctionBody(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(msgspec.Struct):
    function: FunctionBody
    type: Literal["function"] = "function"


class SchemaBody(msgspec.Struct):
    name: str | None = None
    schema: dict[str, Any] | None = None


class ResponseFormat(msgspec.Struct):
    """A response format of OpenAI, or the engine's `lark_grammar`, or `choice`, which is ours."""

    type: Literal["text", "json_object", "json_schema", "lark_grammar", "choice"]
    json_schema: SchemaBody | None = None
    lark_grammar: str | None = None
    choice: list[str] | None = None


class ChatBody(CompletionsBody, kw_only=True):
    """The JSON body of `POST /v1/chat/completions`. Null means the default.

    Attributes:
        messages: The conversation.
        max_completion_tokens: As `max_tokens`, which it overrides.
        tools: Functions that the model may call.
        tool_choice: `auto`, `none`, `required`, a function to call, or the tools that are allowed.
        parallel_tool_calls: False returns only the first tool call; default: true.
        functions: The older form of `tools`. The answer has its form too: one `function_call`.
        function_call: The older form of `tool_choice`.
        response_format: The form of the answer: any text, a JSON object, or a JSON schema.
        logprobs: Refused: the engine returns none.
        top_logprobs: Refused: the engine returns none.
        modalities: Only `text`.
        audio: Refused: the engine generates none.
        moderation: Refused: the gateway runs none.
        prediction: Refused: the engine takes none.
        web_search_options: Refused: the engine cannot search the web.
    """

    LONGEST_LISTS: ClassVar = {"messages": MAX_MESSAGES}

    messages: Annotated[
        list[MessageBody], Meta(extra_json_schema={"minItems": 1, "maxItems": MAX_MESSAGES})
    ]
    max_completion_tokens: MaxTokens | None = None
    tools: list[ToolBody] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionBody] | None = None
    function_call: str | dict[str, Any] | None = None
    response_format: ResponseFormat | None = None
    # What the engine cannot do.
    logprobs: bool | None = None
    top_logprobs: int | None = None
    modalities: list[str] | None = None
    audio: Any = None
    moderation: Any = None
    prediction: Any = None
    web_search_options: Any = None


def make_generation(body: ChatBody, model: str) -> Generation:
    """Validate a request.

    Raises:
        RequestError: A member is missing, invalid, or asks for what the engine cannot do.
    """
    if not body.messages:
        raise make_invalid("messages", "messages is empty.")
    if len(body.messages) > MAX_MESSAGES:
        raise make_invalid(
            "messages", f"messages holds {len(body.messages)} messages; {MAX_MESSAGES} are allowed."
        )
    _refuse_unsupported(body)
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    options = make_options(body, model, max_tokens=limit, stop=body.stop)
    strict_tools: dict[str, OutputSpec] = {}
    tools = _make_tools(body, strict_tools)
    if body.function_call is not None:
        add_tools(options, tools, body.function_call, field="function_call")
    else:
        add_tools(options, tools, body.tool_choice)
    return Generation(
        model=model,
        messages=tuple(
            [_make_message(index, message) for index, message in enumerate(body.messages)]
        ),
        options=options,
        schema=_get_schema(body),
        choice=_get_choice(body),
        grammar=_get_grammar(body),
        strict_tools=strict_tools,
        # The older form of an answer has room for one.
        max_calls=1 if body.functions or body.parallel_tool_calls is False else None,
        members=_name_members(body),
    )


def _name_members(body: ChatBody) -> Mapping[str, str]:
    """Return the member that each argument of the client was made of; see `name_member`."""
    if body.max_completion_tokens is None and not body.functions and body.function_call is None:
        return _MEMBERS
    members = {**_MEMBERS}
    if body.max_completion_tokens is not None:
        members["max_tokens"] = "max_completion_tokens"
    if body.functions:
        members["tools"] = "functions[]"
    if body.function_call is not None:
        members["tool_choice"] = "function_call"
    return members


def _refuse_unsupported(body: ChatBody) -> None:
    refuse_unsupported(body)
    if body.tools and body.functions:
        raise make_invalid("functions", "functions is the older form of tools. Send one of them.")
    modalities = [name for name in body.modalities or () if name != "text"]
    refuse_members(
        (
            ("logprobs", body.logprobs, "The engine returns no log probabilities."),
            ("top_logprobs", body.top_logprobs, "The engine returns no log probabilities."),
            # Even without options, these ask for something.
            ("audio", body.audio is not None, "The engine generates no audio."),
            ("moderation", body.moderation is not None, "The gateway has no moderation."),
            (
                "prediction",
                body.prediction is not None,
                "The engine takes no predicted output.",
            ),
            (
                "web_search_options",
                body.web_search_options is not None,
                "The engine cannot search the web.",
            ),
            ("modalities", modalities, "The engine generates text only."),
        )
    )


def _make_message(index: int, body: MessageBody) -> Message:
    content = body.content
    if not isinstance(content, str):
        content = _join_parts(f"messages[{index}].content", content)
    if body.role == "user":
        return Message("user", content)
    if body.role in {"system", "developer"}:
        return Message("system", content)
    if body.role == "assistant":
        calls = [
            ToolCall(call.id, FunctionCall(call.function.name, call.function.arguments))
            for call in body.tool_calls or ()
        ]
        if body.function_call is not None:
            function = body.function_call
            calls.append(ToolCall(function.name, FunctionCall(function.name, function.arguments)))
        return Message("assistant", content, tuple(calls))
    # The old `function` role names the function; its call got the same name as its id above.
    call_id = body.tool_call_id if body.role == "tool" else body.name
    if not call_id:
        missing = "tool_call_id" if body.role == "tool" else "name"
        raise make_missing(f"messages[{index}].{missing}")
    return Message("tool", content, tool_call_id=call_id)


def _join_parts(field: str, content: list[Part] | None) -> str:
    if content is None:
        return ""
    texts: list[str] = []
    for index, part in enumerate(content):
        if isinstance(part, TextPart):
            texts.append(part.text)
        elif isinstance(part, RefusalPart):
            texts.append(part.refusal)
        else:
            kind = "images" if isinstance(part, ImagePart) else "audio and files"
            raise RequestError(
                400,
                "unsupported_content",
                f"{field}[{index}]: chat models here take text only, no {kind}. "
                "Send a part of type text.",
                param=f"{field}[{index}]",
            )
    return "".join(texts)


def _make_tools(body: ChatBody, strict_tools: dict[str, OutputSpec]) -> list[ToolDefinition]:
    if not body.tools:
        return [
            make_tool(f"functions[{index}].parameters", one.name, one.description, one.parameters)
            for index, one in enumerate(body.functions or ())
        ]
    return [
        make_tool(
            f"tools[{index}].function.parameters",
            tool.function.name,
            tool.function.description,
            tool.function.parameters,
            strict_tools if tool.function.strict else None,
        )
        for index, tool in enumerate(body.tools)
    ]


def _get_schema(body: ChatBody) -> dict[str, Any] | None:
    response_format = body.response_format
    if response_format is None or response_format.type in {"text", "lark_grammar", "choice"}:
        return None
    if response_format.type == "json_object":
        return ANY_OBJECT
    wrapper = response_format.json_schema
    if wrapper is None or wrapper.schema is None:
        raise make_missing("response_format.json_schema.schema")
    check_depth("response_format.json_schema.schema", wrapper.schema)
    return wrapper.schema


def _get_choice(body: ChatBody) -> tuple[str, ...]:
    response_format = body.response_format
    if response_format is None or response_format.type != "choice":
        return ()
    if not response_format.choice:
        raise make_missing("response_format.choice")
    return tuple(response_format.choice)


def _get_grammar(body: ChatBody) -> str | None:
    response_format = body.response_format
    if response_format is None or response_format.type != "lark_grammar":
        return None
    if not response_format.lark_grammar:
        raise make_missing("response_format.lark_grammar")
    return response_format.lark_grammar
