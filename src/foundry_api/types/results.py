"""Results of the Responses API, embeddings, transcriptions and raw requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from foundry_api.types.errors import ProtocolError
from foundry_api.types.messages import (
    AttemptRecord,
    FunctionCall,
    ServiceGeneration,
    Timings,
    ToolCall,
    Usage,
)
from foundry_api.types.serialization import Headers, ShortResult

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Embeddings",
    "RawResponse",
    "Response",
    "ResponseEvent",
    "ResponseItem",
    "ResponsePage",
    "ResponseStatus",
    "Transcription",
    "TranscriptionChunk",
    "Vector",
]

ResponseStatus = Literal["completed", "incomplete", "failed", "in_progress", "cancelled", "queued"]


class ResponseItem(ShortResult, msgspec.Struct, frozen=True, kw_only=True):
    """One item of a response's output or input.

    Attributes:
        type: `message`, `function_call`, `function_call_output`, `reasoning`, or another type of a
            newer service.
        id: The item's id in the service.
        status: `completed` or `incomplete`; None if the service does not report it.
        role: For a message, its role.
        text: The text of the parts, or the output of a function.
        reasoning: For a message, the reasoning in its text, if the service does not separate them.
        refusal: For a message, the model's refusal.
        call_id: For a function call and its output, the id that connects them.
        name: For a function call, the function's name.
        arguments: For a function call, a JSON object as text.
        raw: The complete item as sent by the service.
    """

    type: str
    id: str = ""
    status: str | None = None
    role: str | None = None
    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    call_id: str | None = None
    name: str | None = None
    arguments: str = ""
    raw: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class Response(ShortResult, msgspec.Struct, frozen=True, kw_only=True):
    """One response of a model.

    Attributes:
        id: The response's id; later responses can be chained to it if it is stored.
        status: `completed`, or `incomplete` for a truncated response, even if the service reports
            it as completed. A `failed` one is raised, unless it was fetched from the store.
        model: The id of the model that answered.
        output: The messages, function calls and reasoning of the model, in order.
        output_text: The text of all messages.
        usage: Token counts; None if the service does not count them.
        error: For a failed response that was fetched from the store, its error.
        incomplete_reason: Why it was truncated, such as `max_output_tokens`; else None.
        instructions: The instructions sent before the input.
        previous_response_id: The id of the response that this one is chained to.
        stored: Whether the service stores it, until it is deleted or evicted by newer ones.
        metadata: The caller's labels.
        created_at: Seconds since the epoch, by the service's clock.
        service: The base URL of the service that answered.
        service_generation: The generation of the service.
        timings: Durations of the call; None for a response that was fetched from the store.
        attempts: The HTTP requests, the successful one last.
        raw: The complete object as sent by the service.
    """

    id: str
    status: ResponseStatus
    model: str
    service: str
    service_generation: ServiceGeneration
    output: tuple[ResponseItem, ...] = ()
    usage: Usage | None = None
    error: str | None = None
    incomplete_reason: str | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    stored: bool = False
    metadata: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    created_at: int = 0
    timings: Timings | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    raw: bytes = b""

    @property
    def output_text(self) -> str:
        """The text of all messages."""
        return "".join(item.text for item in self.output if item.type == "message")

    @property
    def reasoning(self) -> str:
        """The model's reasoning, from reasoning items and from messages."""
        return "".join(
            item.text if item.type == "reasoning" else item.reasoning for item in self.output
        )

    @property
    def refusal(self) -> str:
        """The model's refusal; empty if there is none."""
        return "".join(item.refusal for item in self.output)

    @property
    def function_calls(self) -> tuple[ToolCall, ...]:
        """The function calls requested by the model."""
        return tuple(
            ToolCall(item.call_id or item.id, FunctionCall(item.name or "", item.arguments))
            for item in self.output
            if item.type == "function_call"
        )


class ResponseEvent(ShortResult, msgspec.Struct, frozen=True, kw_only=True):
    """One event of a streamed response.

    Attributes:
        type: The service's event type, such as `response.output_text.delta`. The last event is
            `response.completed` or `response.incomplete`; a failure is raised.
        text: For a text delta, the new text; else empty.
        reasoning: For a reasoning delta, the new text; for a text delta, the reasoning in it if the
            service does not separate them; else empty.
        refusal: For a refusal delta, the new text; else empty.
        item: For an event about an item, the item.
        response: For an event about the response, its present state; complete in the last event.
        raw: The event's data as sent by the service.
    """

    type: str
    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    item: ResponseItem | None = None
    response: Response | None = None
    raw: bytes = b""


class ResponsePage(ShortResult, msgspec.Struct, frozen=True, kw_only=True):
    """A page of stored responses.

    Attributes:
        responses: The responses, in the requested order.
        has_more: Whether there is a next page: list again with `after=` the last response's id.
    """

    responses: tuple[Response, ...]
    has_more: bool = False


# The embedding of one text. The services normalize it to length 1 (1.2.4, 2.0.1 and 2.2.1 do).
Vector = tuple[float, ...]


class Embeddings(ShortResult, msgspec.Struct, frozen=True, kw_only=True):
    """The embeddings of one or several texts. Iterating gives the vectors in the texts' order.

    Attributes:
        vectors: One vector per text, in order, all of the same length.
        model: The id of the model.
        service: The base URL of the service that answered; the last one if there were several.
        service_generation: The generation of the service.
        usage: Token counts of all texts; None if the service does not count them, as those of the
            SDK do not.
        timings: Durations of the call, without a time to first token.
        attempts: The HTTP requests, including failed ones, in the order of the texts.
    """

    vectors: tuple[Vector, ...]
    model: str
    service: str
    service_generation: ServiceGeneration
    usage: Usage | None
    timings: Timings
    attempts: tuple[AttemptRecord, ...]

    @property
    def dimensions(self) -> int:
        """The number of dimensions of a vector."""
        return len(self.vectors[0])

    def __len__(self) -> int:
        return len(self.vectors)

    def __iter__(self) -> Iterator[Vector]:
        return iter(self.vectors)

    def __getitem__(self, index: int) -> Vector:
        return self.vectors[index]


class Transcription(ShortResult, msgspec.Struct, frozen=True, kw_only=True):
    """The transcription of an audio file.

    Attributes:
        text: The transcribed text.
        model: The id of the model.
        service: The base URL of the service that answered.
        service_generation: The generation of the service.
        timings: Durations of the call; `tokens_per_second` is None, as no service counts tokens.
        attempts: The HTTP requests, the successful one last.
        raw: The data of each event, or the complete body.
    """

    text: str
    model: str
    service: str
    service_generation: ServiceGeneration
    timings: Timings
    attempts: tuple[AttemptRecord, ...]
    raw: tuple[bytes, ...] = ()


class TranscriptionChunk(ShortResult, msgspec.Struct, frozen=True):
    """A chunk of a streamed transcription.

    Attributes:
        text: The new text; empty in the last chunk.
        model: The id of the model.
        timings: Durations of the call; in the last chunk only.
        attempts: The HTTP requests; in the last chunk only.
        raw: The event's data as sent by the service.
    """

    text: str
    model: str
    timings: Timings | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    raw: bytes = b""


class RawResponse(ShortResult, msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP response of the service.

    Attributes:
        status: The HTTP status, below 400; other responses are raised as errors.
        headers: The headers; names are case-insensitive, and the first of duplicates applies.
        body: The body.
        service: The base URL of the service that answered.
        attempts: The HTTP requests, the successful one last.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    service: str
    attempts: tuple[AttemptRecord, ...] = ()

    def __post_init__(self) -> None:
        """Make the header names case-insensitive, also after `from_dict`."""
        if not isinstance(self.headers, Headers):
            msgspec.structs.force_setattr(self, "headers", Headers(self.headers))

    def json(self) -> Any:
        """Decode the body as JSON.

        Returns:
            The decoded value.

        Raises:
            ProtocolError: The body is not JSON.
        """
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"the answer is not JSON: {error}", service=self.service) from error

    @property
    def text(self) -> str:
        """The body decoded as UTF-8, with invalid bytes replaced."""
        return self.body.decode("utf-8", "replace")
