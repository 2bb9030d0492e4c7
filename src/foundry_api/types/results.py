"""The result types of the Responses API."""

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
        type: `message`, `function_call`, `function_call_output`, `reasoning`, or what a newer
            service has.
        id: Names it within the service.
        status: Whether it is whole; None where the service does not say.
        role: Of a message, who speaks.
        text: The text of its parts; of a function's output, that.
        reasoning: Of a message, what the model thought ahead of its text in the same parts, where
            the service does not tell them apart.
        refusal: Of a message, why the model refuses to answer.
        call_id: Of a function call and its output, what connects the two.
        name: Of a function call, the function.
        arguments: Of a function call, a JSON object as text.
        raw: The complete item, as the service sent it.
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
        id: Names it; what a later one is chained to, if it was stored.
        status: `completed`, or `incomplete` for one that was cut, also where the service itself
            calls that completed. A `failed` one is raised, unless it was fetched from the store.
        model: The id of the model that answered.
        output: What the model made, in order: messages, function calls, reasoning.
        output_text: The text of all messages together.
        usage: Tokens; None where the service did not count them.
        error: Of a failed one that was fetched from the store, why.
        incomplete_reason: Why it was cut, such as `max_output_tokens`; else None.
        instructions: The instructions sent before the input.
        previous_response_id: What it is chained to.
        stored: Whether the service keeps it, until it is deleted or pushed out by newer ones.
        metadata: The caller's own labels.
        created_at: Seconds since the epoch, by the service's clock.
        service: The base URL of the service that answered.
        service_generation: Which generation of Foundry Local that is.
        timings: Where the time went; None for one that was fetched from the store.
        attempts: The HTTP requests made, the successful one last.
        raw: The complete object, as the service sent it.
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
        """The text of all messages together."""
        return "".join(item.text for item in self.output if item.type == "message")

    @property
    def reasoning(self) -> str:
        """What the model thought, in items of its own or ahead of its answer."""
        return "".join(
            item.text if item.type == "reasoning" else item.reasoning for item in self.output
        )

    @property
    def refusal(self) -> str:
        """Why the model refuses to answer; empty if it does not."""
        return "".join(item.refusal for item in self.output)

    @property
    def function_calls(self) -> tuple[ToolCall, ...]:
        """The functions that the model wants called."""
        return tuple(
            ToolCall(item.call_id or item.id, FunctionCall(item.name or "", item.arguments))
            for item in self.output
            if item.type == "function_call"
        )


class ResponseEvent(ShortResult, msgspec.Struct, frozen=True, kw_only=True):
    """One event of a response that is streamed.

    Attributes:
        type: The service's own name, such as `response.output_text.delta`. The last one is
            `response.completed` or `response.incomplete`; a failure is raised.
        text: Of a text delta, the new text; else empty.
        reasoning: Of a reasoning delta, the new text, and the reasoning of a text delta whose
            service does not tell them apart; else empty.
        refusal: Of a refusal's delta, the new text; else empty.
        item: Of an event about an item, that.
        response: Of an event about the response, as it stood then; the last one's is whole.
        raw: The event's data, as the service sent it.
    """

    type: str
    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    item: ResponseItem | None = None
    response: Response | None = None
    raw: bytes = b""


class ResponsePage(ShortResult, msgspec.Struct, frozen=True, kw_only=True):
    """Some of the stored responses.

    Attributes:
        responses: In the order that was asked for.
        has_more: Whether others follow: ask again with `after` the last one's id.
    """

    responses: tuple[Response, ...]
    has_more: bool = False


Vector = tuple[float, ...]
"""One text as numbers. The services scale them to length 1 (probed on 1.2.4, 2.0.1 and 2.2.1)."""


class Embeddings(ShortResult, msgspec.Struct, frozen=True, kw_only=True):
    """The vectors of one or several texts. Iterates over them, in the order of the texts.

    Attributes:
        vectors: One for each text, in order; all of one length.
        model: The id of the model that made them.
        service: The base URL of the service that answered; of several, the last one's.
        service_generation: Which generation of Foundry Local that is.
        usage: Tokens of all texts; None where the service does not count them, which none of the
            SDK's does.
        timings: Where the time went. There is no first token.
        attempts: The HTTP requests made, failed ones too, in the order of the texts.
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
        """How many numbers a vector has."""
        return len(self.vectors[0])

    def __len__(self) -> int:
        return len(self.vectors)

    def __iter__(self) -> Iterator[Vector]:
        return iter(self.vectors)

    def __getitem__(self, index: int) -> Vector:
        return self.vectors[index]


class Transcription(ShortResult, msgspec.Struct, frozen=True, kw_only=True):
    """What is said in a recording.

    Attributes:
        text: What is said.
        model: The id of the model that listened.
        service: The base URL of the service that answered.
        service_generation: Which generation of Foundry Local that is.
        timings: Where the time went; tokens per second are unknown, as no service counts them.
        attempts: The HTTP requests made, the successful one last.
        raw: The data of every event, or the whole body, as the service sent it.
    """

    text: str
    model: str
    service: str
    service_generation: ServiceGeneration
    timings: Timings
    attempts: tuple[AttemptRecord, ...]
    raw: tuple[bytes, ...] = ()


class TranscriptionChunk(ShortResult, msgspec.Struct, frozen=True):
    """A piece of a transcription.

    Attributes:
        text: The new text; empty in the last one.
        model: The id of the model that listens.
        timings: Set on the last one only.
        attempts: Set on the last one only.
        raw: The event's data as the service sent it.
    """

    text: str
    model: str
    timings: Timings | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    raw: bytes = b""


class RawResponse(ShortResult, msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it came.

    Attributes:
        status: The HTTP status, below 400: others are raised.
        headers: Its headers; names compare without case, of doubled ones the first counts.
        body: Its bytes.
        service: The base URL of the service that answered.
        attempts: The HTTP requests made, the successful one last.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    service: str
    attempts: tuple[AttemptRecord, ...] = ()

    def __post_init__(self) -> None:
        """Have headers that compare without case, wherever they come from."""
        if not isinstance(self.headers, Headers):
            msgspec.structs.force_setattr(self, "headers", Headers(self.headers))

    def json(self) -> Any:
        """The body, decoded.

        Raises:
            ProtocolError: It is not JSON.
        """
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"the answer is not JSON: {error}", service=self.service) from error

    @property
    def text(self) -> str:
        """The body as UTF-8; what is none is replaced."""
        return self.body.decode("utf-8", "replace")
