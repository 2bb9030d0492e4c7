"""The answers of OpenAI's routes, as the description shows them.

The handlers encode these shapes by hand where it saves time; `tests/gateway/test_openapi.py`
compares what they send.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from foundry_api.gateway.usage import ResponseUsage
from foundry_api.types.messages import FinishReason, Usage

__all__ = [
    "ChatCompletion",
    "ChatCompletionChunk",
    "DeletedResponse",
    "EmbeddingList",
    "ErrorResponse",
    "InputItemList",
    "ModelList",
    "ModelObject",
    "ResponseEvent",
    "ResponseObject",
    "TextCompletion",
    "TextCompletionChunk",
    "TranscriptEvent",
    "TranscriptionObject",
]

# The last one only if the request has `functions`.
ChatFinishReason = FinishReason | Literal["function_call"]


class ErrorBody(msgspec.Struct):
    """What is wrong.

    Attributes:
        message: What happened and what to do.
        type: The kind of the error.
        param: The member of the request that is to blame, such as `messages[3].content`.
        code: The cause, for programs.
    """

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(msgspec.Struct):
    """An error in OpenAI's shape."""

    error: ErrorBody


class CalledFunction(msgspec.Struct):
    """The function in a tool call.

    Attributes:
        name: Its name.
        arguments: Its arguments, a JSON object as text.
    """

    name: str
    arguments: str


class CalledTool(msgspec.Struct):
    """A call of a tool that the model asks for."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class CalledToolDelta(CalledTool):
    """A call of a tool in a chunk; it is complete.

    Attributes:
        index: Its position among the calls of the answer.
    """

    index: int


class ChatAnswer(msgspec.Struct, kw_only=True):
    """The message of the model.

    Attributes:
        content: The text; null beside tool calls.
        refusal: Why the model refuses.
        reasoning_content: What the model thought before it answered.
        tool_calls: The functions to call.
        function_call: The function to call, if the request has `functions`.
    """

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    annotations: list[Any]
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[CalledTool] | msgspec.UnsetType = msgspec.UNSET
    function_call: CalledFunction | msgspec.UnsetType = msgspec.UNSET


class ChatChoice(msgspec.Struct):
    """One answer."""

    index: int
    message: ChatAnswer
    finish_reason: ChatFinishReason
    logprobs: None


class CompletionHead(msgspec.Struct):
    """What all completions and chunks begin with.

    Attributes:
        id: Unique; all chunks of a stream share it.
        created: Seconds since the epoch.
        model: The model as it was requested.
    """

    id: str
    created: int
    model: str
    system_fingerprint: None


class ChatCompletion(CompletionHead):
    """The answer of `POST /v1/chat/completions`."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(msgspec.Struct, kw_only=True):
    """What a chunk adds to a message; the first one of a choice has the role."""

    role: Literal["assistant"] | msgspec.UnsetType = msgspec.UNSET
    content: str | msgspec.UnsetType = msgspec.UNSET
    refusal: str | msgspec.UnsetType = msgspec.UNSET
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[CalledToolDelta] | msgspec.UnsetType = msgspec.UNSET
    function_call: CalledFunction | msgspec.UnsetType = msgspec.UNSET


class ChatChunkChoice(msgspec.Struct):
    """What a chunk adds to one answer."""

    index: int
    delta: ChatDelta
    logprobs: None
    finish_reason: ChatFinishReason | None


class ChatCompletionChunk(CompletionHead, kw_only=True):
    """The data of an event of `POST /v1/chat/completions`; the last event is `[DONE]`.

    Attributes:
        usage: With `stream_options.include_usage`: null, and the counts in a last chunk.
    """

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET


class TextChoice(msgspec.Struct):
    """One text."""

    index: int
    text: str
    logprobs: None
    finish_reason: FinishReason


class TextCompletion(CompletionHead):
    """The answer of `POST /v1/completions`."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: Usage


class TextChunkChoice(msgspec.Struct):
    """What a chunk adds to one text."""

    index: int
    text: str
    logprobs: None
    finish_reason: FinishReason | None


class TextCompletionChunk(CompletionHead, kw_only=True):
    """The data of an event of `POST /v1/completions`; the last event is `[DONE]`.

    Attributes:
        usage: With `stream_options.include_usage`: null, and the counts in a last chunk.
    """

    object: Literal["text_completion"]
    choices: list[TextChunkChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET


class EmbeddingObject(msgspec.Struct):
    """The vector of a text.

    Attributes:
        embedding: Numbers; with `encoding_format: base64`, little-endian 32-bit floats in base64.
    """

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(msgspec.Struct):
    """The tokens of the texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct):
    """The answer of `POST /v1/embeddings`."""

    object: Literal["list"]
    model: str
    data: list[EmbeddingObject]
    usage: EmbeddingUsage


class ModelObject(msgspec.Struct):
    """A model that can be called."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(msgspec.Struct):
    """The models on this machine, each by alias and by id."""

    object: Literal["list"]
    data: list[ModelObject]


class DurationUsage(msgspec.Struct):
    """The length of a recording."""

    type: Literal["duration"]
    seconds: int


class TranscriptSegment(msgspec.Struct):
    """A part of a recording; there is one, as the engine returns no times."""

    id: int
    start: float
    end: float
    text: str


class TranscriptionObject(msgspec.Struct, kw_only=True):
    """The answer of `POST /v1/audio/transcriptions`; with `verbose_json` with the later members."""

    text: str
    usage: DurationUsage | msgspec.UnsetType = msgspec.UNSET
    task: Literal["transcribe"] | msgspec.UnsetType = msgspec.UNSET
    language: str | msgspec.UnsetType = msgspec.UNSET
    duration: float | msgspec.UnsetType = msgspec.UNSET
    segments: list[TranscriptSegment] | msgspec.UnsetType = msgspec.UNSET


class TranscriptEvent(msgspec.Struct, kw_only=True):
    """The data of an event of a transcription; the last event is `[DONE]`."""

    type: Literal["transcript.text.delta", "transcript.text.done"]
    delta: str | msgspec.UnsetType = msgspec.UNSET
    text: str | msgspec.UnsetType = msgspec.UNSET


class OutputText(msgspec.Struct, tag_field="type", tag="output_text"):
    """Text of an answer."""

    text: str
    annotations: list[Any]
    logprobs: list[Any]


class OutputRefusal(msgspec.Struct, tag_field="type", tag="refusal"):
    """Why the model refuses."""

    refusal: str


class ReasoningText(msgspec.Struct, tag_field="type", tag="reasoning_text"):
    """What the model thought."""

    text: str


ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputMessage(msgspec.Struct, tag_field="type", tag="message"):
    """A message of the model."""

    id: str
    role: Literal["assistant"]
    status: ItemStatus
    content: list[OutputText | OutputRefusal]


class OutputReasoning(msgspec.Struct, tag_field="type", tag="reasoning"):
    """What the model thought before it answered."""

    id: str
    status: ItemStatus
    content: list[ReasoningText]
    summary: list[Any]


class OutputCall(msgspec.Struct, tag_field="type", tag="function_call"):
    """A function to call.

    Attributes:
        arguments: Its arguments, a JSON object as text.
    """

    id: str
    call_id: str
    name: str
    arguments: str
    status: ItemStatus


class ResponseError(msgspec.Struct):
    """Why a response failed."""

    code: str
    message: str


class IncompleteDetails(msgspec.Struct):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens", "content_filter"]


class ResponseObject(msgspec.Struct):
    """A response. Many members are what the request had."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    output: list[OutputMessage | OutputReasoning | OutputCall]
    usage: ResponseUsage | None
    model: str
    instructions: str | None
    previous_response_id: str | None
    max_output_tokens: int | None
    temperature: float | None
    top_p: float | None
    text: dict[str, Any]
    tools: list[dict[str, Any]]
    tool_choice: str | dict[str, Any]
    parallel_tool_calls: bool
    reasoning: dict[str, Any] | None
    metadata: dict[str, str]
    background: bool
    store: bool
    truncation: Literal["auto", "disabled"]
    service_tier: str


class ResponseEvent(msgspec.Struct, kw_only=True):
    """The data of an event of `POST /v1/responses`; each kind has some of the members.

    Attributes:
        type: Such as `response.output_text.delta`; also the name of the event.
        sequence_number: Counts the events from 0.
        response: In the first events and the last one.
    """

    type: str
    sequence_number: int
    response: ResponseObject | msgspec.UnsetType = msgspec.UNSET
    item: OutputMessage | OutputReasoning | OutputCall | msgspec.UnsetType = msgspec.UNSET
    part: OutputText | OutputRefusal | ReasoningText | msgspec.UnsetType = msgspec.UNSET
    item_id: str | msgspec.UnsetType = msgspec.UNSET
    output_index: int | msgspec.UnsetType = msgspec.UNSET
    content_index: int | msgspec.UnsetType = msgspec.UNSET
    delta: str | msgspec.UnsetType = msgspec.UNSET
    text: str | msgspec.UnsetType = msgspec.UNSET
    refusal: str | msgspec.UnsetType = msgspec.UNSET
    name: str | msgspec.UnsetType = msgspec.UNSET
    arguments: str | msgspec.UnsetType = msgspec.UNSET
    logprobs: list[Any] | msgspec.UnsetType = msgspec.UNSET
    code: str | msgspec.UnsetType = msgspec.UNSET
    message: str | msgspec.UnsetType = msgspec.UNSET
    param: str | msgspec.UnsetType | None = msgspec.UNSET


class InputTokens(msgspec.Struct):
    """The answer of `POST /v1/responses/input_tokens`: an estimate."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class DeletedResponse(msgspec.Struct):
    """The answer of `DELETE /v1/responses/{id}`."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class ResponseList(msgspec.Struct):
    """A page of the stored responses of a key."""

    object: Literal["list"]
    data: list[ResponseObject]
    has_more: bool
    first_id: str | None
    last_id: str | None


class InputItemList(msgspec.Struct):
    """A page of the items of an input."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    has_more: bool
    first_id: str | None
    last_id: str | None
