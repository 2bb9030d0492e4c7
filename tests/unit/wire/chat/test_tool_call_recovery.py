"""Tool calls are found in the text of streams of each generation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.types.errors import ServerError, ToolCallError
from foundry_api.types.messages import ChatRequest, Chunk, Message, ToolDefinition
from foundry_api.wire.chat.request import add_tool_recovery
from foundry_api.wire.chat.stream import ChatStream
from foundry_api.wire.chat.tool_call_parser import ToolCallRecovery

if TYPE_CHECKING:
    from collections.abc import Sequence

CALL = '<tool_call>{"name": "clock", "arguments": {"city": "Bern"}}</tool_call>'
NATIVE = {
    "index": 0,
    "id": "a1",
    "type": "function",
    "function": {"name": "clock", "arguments": '{\n  "city": "Bern"\n}'},
}


def event(delta: dict[str, Any], finish: str | None = None, **more: object) -> bytes:
    members = {"choices": [{"delta": delta, "finish_reason": finish}], **more}
    return b"data: " + json.dumps(members).encode() + b"\n\n"


def text_events(*pieces: str) -> list[bytes]:
    return [event({"content": piece}) for piece in pieces]


def ended(reason: str = "stop", tokens: int = 9) -> list[bytes]:
    usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
    return [event({}, reason, usage=usage), b"data: [DONE]\n\n"]


def decoded(events: Sequence[bytes]) -> tuple[list[Chunk], ToolCallRecovery]:
    decoder = ToolCallRecovery(ChatStream("m"), "m", ["clock"])
    return [chunk for block in events for chunk in decoder.feed(block)], decoder


def text_of(chunks: Sequence[Chunk]) -> str:
    return "".join(chunk.content for chunk in chunks)


def calls_of(chunks: Sequence[Chunk]) -> list[tuple[str, Any]]:
    calls = [call for chunk in chunks for call in chunk.tool_calls]
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls]


CALLED = [("clock", {"city": "Bern"})]


@given(cut=st.integers(0, len(CALL)))
def test_call_in_the_text_is_a_call(cut: int) -> None:
    chunks, decoder = decoded([*text_events("Let me see. ", CALL[:cut], CALL[cut:]), *ended()])
    assert (text_of(chunks), calls_of(chunks)) == ("Let me see. ", CALLED)
    assert decoder.done
    assert decoder.finish().finish_reason == "tool_calls"


def test_raw_events_belong_to_their_chunks() -> None:
    events = text_events("Hm. ", CALL[:20], CALL[20:])
    chunks, _ = decoded([*events, *ended()])
    raw = b"\n".join(chunk.raw for chunk in chunks)
    assert [f"data: {line}\n\n".encode() for line in raw.decode().split("\n")] == events


def test_call_sent_twice_by_sdk_1_is_one() -> None:
    """It sends the call as text first, then as a call with reformatted arguments."""
    twice = event({"content": "", "tool_calls": [NATIVE]}, "tool_calls")
    chunks, decoder = decoded([*text_events(*CALL), twice, *ended("stop")])
    assert (text_of(chunks), calls_of(chunks)) == ("", CALLED)
    assert decoder.finish().finish_reason == "tool_calls"


def test_equal_calls_stay_two() -> None:
    native = event({"tool_calls": [NATIVE, {**NATIVE, "index": 1, "id": "a2"}]}, "tool_calls")
    chunks, _ = decoded([native, *ended("tool_calls")])
    assert calls_of(chunks) == CALLED * 2
    chunks, _ = decoded([*text_events(CALL), native, *ended()])
    assert calls_of(chunks) == CALLED * 2


def test_answer_without_a_call_is_unchanged() -> None:
    chunks, decoder = decoded([*text_events("a <b", "> {c}"), *ended("length")])
    assert text_of(chunks) == "a <b> {c}"
    assert decoder.finish().finish_reason == "length"


def test_truncated_answer_with_a_call_stays_truncated() -> None:
    chunks, decoder = decoded([*text_events(CALL, " and"), *ended("length")])
    assert calls_of(chunks) == CALLED
    assert decoder.finish().finish_reason == "length"


@pytest.mark.parametrize("text", ['<tool_call>{"name": }</tool_call>', '<tool_call>{"name": "clo'])
def test_malformed_call_is_an_error_with_its_text(text: str) -> None:
    decoder = ToolCallRecovery(ChatStream("m"), "m", ["clock"])
    chunks = (
        chunk for block in [*text_events("Well. ", text), *ended()] for chunk in decoder.feed(block)
    )
    assert next(chunks).content == "Well. "
    with pytest.raises(ToolCallError) as caught:
        next(chunks)
    assert text.startswith(caught.value.text)
    assert not caught.value.retryable


def test_text_before_an_error_is_returned() -> None:
    decoder = ToolCallRecovery(ChatStream("m"), "m", ["clock"])
    list(decoder.feed(text_events(CALL[:15])[0]))
    failing = decoder.feed(b'data: {"error":{"message":"it failed","type":"server_error"}}\n\n')
    assert next(failing).content == CALL[:15]
    with pytest.raises(ServerError):
        next(failing)


def test_withheld_answer_is_an_error() -> None:
    """2.0 drops the text of a malformed call from a stream and reports `stop`."""
    _, decoder = decoded(ended(tokens=41))
    with pytest.raises(ToolCallError, match="an answer of 41 tokens"):
        decoder.finish()
    _, decoder = decoded(ended(tokens=1))  # the end token alone
    assert decoder.finish().finish_reason == "stop"


def test_only_requests_with_tools_are_searched() -> None:
    tool = ToolDefinition(name="clock")
    messages = (Message("user", "x"),)
    stream = ChatStream("m")
    assert add_tool_recovery(stream, "m", ChatRequest(messages=messages)) is stream
    none = ChatRequest(messages=messages, tools=(tool,), tool_choice="none")
    assert add_tool_recovery(stream, "m", none) is stream
    assert (
        add_tool_recovery(stream, "m", ChatRequest(messages=messages, tools=(tool,))) is not stream
    )


def test_endless_brackets_are_a_typed_error() -> None:
    """Each piece repeats the name and looks like the beginning of another call."""
    call = {"index": 0, "function": {"name": "clock", "arguments": "{"}}
    piece = f"data: {json.dumps({'choices': [{'delta': {'tool_calls': [call]}}]})}\n\n".encode()
    decoder = ToolCallRecovery(ChatStream("m"), "m", {"clock": {}})
    chunks = [chunk for _ in range(20_000) for chunk in decoder.feed(piece)]
    chunks += decoder.feed(b"data: [DONE]\n\n")
    (found,) = [call for chunk in chunks for call in chunk.tool_calls]
    assert found.function.arguments == "{" * 20_000
