"""What the Responses API answers."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from foundry_api.messages import Attempt, FunctionCall, Generation, Timings, ToolCall, Usage
from foundry_api.results import ShortResult

__all__ = ["Response", "ResponseEvent", "ResponseItem", "ResponsePage", "ResponseStatus"]

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
        raw: The whole item, as the service sent it.
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
        instructions: What the model was told ahead of the input.
        previous_response_id: What it is chained to.
        stored: Whether the service keeps it, until it is deleted or pushed out by newer ones.
        metadata: The caller's own labels.
        created_at: Seconds since the epoch, by the service's clock.
        service: The base URL of the service that answered.
        generation: Which generation of Foundry Local that is.
        timings: Where the time went; None for one that was fetched from the store.
        attempts: The HTTP requests made, the successful one last.
        raw: The whole object, as the service sent it.
    """

    id: str
    status: ResponseStatus
    model: str
    service: str
    generation: Generation
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
    attempts: tuple[Attempt, ...] = ()
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
