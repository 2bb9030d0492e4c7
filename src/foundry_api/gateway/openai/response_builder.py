"""Builds a response of the Responses API from chunks, and its events."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.types.messages import Chunk, Message

if TYPE_CHECKING:
    from foundry_api.gateway.errors import RequestError
    from foundry_api.gateway.generation import Answer
    from foundry_api.types.messages import FinishReason, ToolCall, Usage

__all__ = ["ResponseBuilder"]

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of text: its item, its part, and the names of its events."""

    item: str
    id_prefix: str
    part: str
    member: str
    extra: dict[str, Any]

    @property
    def event(self) -> str:
        return f"response.{self.part}"


_REASONING = _Kind("reasoning", "rs", "reasoning_text", "text", {})
_TEXT = _Kind("message", "msg", "output_text", "text", {"logprobs": []})
_REFUSAL = _Kind("message", "msg", "refusal", "refusal", {})


class ResponseBuilder:
    """Turns the chunks of an answer into a response and its events.

    Attributes:
        response: The response so far.
    """

    def __init__(self, head: dict[str, Any]) -> None:
        self.response: dict[str, Any] = {
            **head,
            "status": "in_progress",
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
        }
        self._sequence = 0
        self._kind: _Kind | None = None
        self._item_id = ""
        self._texts: list[str] = []
        self._content: list[str] = []
        self._calls: list[ToolCall] = []
        # Bytes around the text of a delta: it is by far the most frequent event.
        self._delta_start = self._delta_end = b""

    @property
    def message(self) -> Message:
        """The answer as a message of the conversation."""
        return Message("assistant", "".join(self._content), tuple(self._calls))

    def start(self) -> bytes:
        """Return the events that begin a stream."""
        return self._encode("response.created", response=self.response) + self._encode(
            "response.in_progress", response=self.response
        )

    def add(self, chunk: Chunk) -> bytes:
        """Add a chunk and return its events."""
        if chunk.content:
            self._content.append(chunk.content)
            return self._add_text(_TEXT, chunk.content)
        events = b""
        if chunk.reasoning:
            events += self._add_text(_REASONING, chunk.reasoning)
        if chunk.refusal:
            events += self._add_text(_REFUSAL, chunk.refusal)
        for call in chunk.tool_calls:
            events += self._close_item("completed") + self._add_call(call)
        return events

    def add_answer(self, answer: Answer) -> None:
        """Add a complete answer."""
        for chunk in (
            Chunk("", "", reasoning=answer.reasoning),
            Chunk(answer.content, ""),
            Chunk("", "", refusal=answer.refusal, tool_calls=answer.tool_calls),
        ):
            self.add(chunk)

    def finish(self, finish_reason: FinishReason, usage: Usage, now: float) -> bytes:
        """End the response and return its last events."""
        reason = _INCOMPLETE.get(finish_reason)
        status = "incomplete" if reason else "completed"
        events = b""
        if self._kind is None and not self.response["output"]:
            events += self._open_item(_TEXT)  # an empty answer is a message without text
        events += self._close_item(status)
        self.response["status"] = status
        if reason:
            self.response["incomplete_details"] = {"reason": reason}
        else:
            self.response["completed_at"] = int(now)
        self.response["usage"] = {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }
        return events + self._encode(f"response.{status}", response=self.response)

    def fail(self, error: RequestError) -> bytes:
        """End the response with an error, and return the event for it."""
        code = error.code or "server_error"
        self.response["status"] = "failed"
        self.response["error"] = {"code": code, "message": error.message}
        return self._encode("error", code=code, message=error.message, param=error.param)

    def cancel(self) -> None:
        """End the response because it was cancelled."""
        self.response["status"] = "cancelled"

    def _add_text(self, kind: _Kind, text: str) -> bytes:
        events = b""
        if self._kind is not kind:
            events = self._close_item("completed") + self._open_item(kind)
        self._texts.append(text)
        sequence, self._sequence = self._sequence, self._sequence + 1
        return b"%b%b%d%b%b%b" % (
            events,
            self._delta_start,
            sequence,
            self._delta_end,
            msgspec.json.encode(text),
            b"}\n\n",
        )

    def _open_item(self, kind: _Kind) -> bytes:
        self._kind, self._texts = kind, []
        self._item_id = f"{kind.id_prefix}_{secrets.token_hex(12)}"
        event = f"{kind.event}.delta"
        self._delta_start = (
            f'event: {event}\ndata: {{"type":"{event}","sequence_number":'
        ).encode()
        place = msgspec.json.encode({**self._place, **kind.extra})[1:-1]
        self._delta_end = b',%b,"delta":' % place
        item = _make_item(kind, self._item_id, "in_progress", [])
        return self._encode(
            "response.output_item.added", output_index=self._place["output_index"], item=item
        ) + self._encode("response.content_part.added", **self._place, part=_make_part(kind, ""))

    def _close_item(self, status: str) -> bytes:
        kind = self._kind
        if kind is None:
            return b""
        text = "".join(self._texts)
        part, place = _make_part(kind, text), self._place
        item = _make_item(kind, self._item_id, status, [part])
        self._kind = None
        self.response["output"].append(item)
        return (
            self._encode(f"{kind.event}.done", **place, **{kind.member: text}, **kind.extra)
            + self._encode("response.content_part.done", **place, part=part)
            + self._encode(
                "response.output_item.done", output_index=place["output_index"], item=item
            )
        )

    def _add_call(self, call: ToolCall) -> bytes:
        self._calls.append(call)
        index = len(self.response["output"])
        identifier, arguments = f"fc_{secrets.token_hex(12)}", call.function.arguments
        item = {
            "id": identifier,
            "type": "function_call",
            "call_id": call.id,
            "name": call.function.name,
            "arguments": arguments,
            "status": "completed",
        }
        self.response["output"].append(item)
        place = {"item_id": identifier, "output_index": index}
        return (
            self._encode(
                "response.output_item.added",
                output_index=index,
                item={**item, "arguments": "", "status": "in_progress"},
            )
            + self._encode("response.function_call_arguments.delta", **place, delta=arguments)
            + self._encode(
                "response.function_call_arguments.done",
                **place,
                name=call.function.name,
                arguments=arguments,
            )
            + self._encode("response.output_item.done", output_index=index, item=item)
        )

    @property
    def _place(self) -> dict[str, Any]:
        index = len(self.response["output"])
        return {"item_id": self._item_id, "output_index": index, "content_index": 0}

    def _encode(self, event: str, **members: Any) -> bytes:
        sequence, self._sequence = self._sequence, self._sequence + 1
        data = {"type": event, "sequence_number": sequence, **members}
        return b"event: %b\ndata: %b\n\n" % (event.encode(), msgspec.json.encode(data))


def _make_item(
    kind: _Kind, identifier: str, status: str, parts: list[dict[str, Any]]
) -> dict[str, Any]:
    item: dict[str, Any] = {"id": identifier, "type": kind.item, "status": status, "content": parts}
    if kind.item == "reasoning":
        return {**item, "summary": []}
    return {**item, "role": "assistant"}


def _make_part(kind: _Kind, text: str) -> dict[str, Any]:
    part: dict[str, Any] = {"type": kind.part, kind.member: text}
    return {**part, "annotations": [], "logprobs": []} if kind is _TEXT else part
