"""Odd events of a stream lose neither text nor end nor error messages."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from foundry_api.types import errors
from foundry_api.types.messages import Usage
from foundry_api.wire.chat.stream import ChatStream
from foundry_api.wire.errors import extract_error_message, parse_stream_error

DONE = b"data: [DONE]\n\n"


def data(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def choice(**members: Any) -> bytes:
    return data({"choices": [members]})


def text(content: str, index: int = 0) -> bytes:
    return choice(delta={"content": content}, index=index)


def answer(*events: bytes) -> tuple[str, str, Usage]:
    """Return text, finish reason and usage of a stream of "Hello" and these events."""
    stream = ChatStream("m")
    chunks = [chunk for event in (text("Hello"), *events) for chunk in stream.feed(event)]
    ending = stream.finish()
    return "".join(chunk.content for chunk in chunks), ending.finish_reason, ending.usage


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (choice(delta=None, finish_reason="stop"), "stop"),
        (choice(finish_reason="length"), "length"),
        (choice(delta={}, finish_reason="eos"), "stop"),
        (choice(delta={}, finish_reason="STOP"), "stop"),
        (choice(delta={}, finish_reason=""), "stop"),
        (choice(delta={}, finish_reason="null"), "stop"),
        (choice(delta={}, finish_reason=True), "stop"),
        (choice(delta={}, finish_reason="function_call"), "tool_calls"),
        (choice(delta={}, finish_reason="max_tokens"), "length"),
        (choice(delta={}, finish_reason="SAFETY"), "content_filter"),
        (choice(delta={"content": None, "tool_calls": None}, finish_reason="stop"), "stop"),
        (choice(delta={}, index=None, finish_reason="length"), "length"),
        (choice(delta={}, index="0", finish_reason="length"), "length"),
        (choice(delta=[], finish_reason="length"), "length"),
        (choice(delta={"role": 3}, finish_reason="length", logprobs=7), "length"),
        (choice(delta={}, finish_reason="max_new_tokens"), "length"),
        (choice(delta={}, finish_reason="Content-Filter"), "content_filter"),
        (data({"choices": None}), "stop"),
        (data({"choices": {}}), "stop"),
        (data([]), "stop"),
        (data(None), "stop"),
        (b'data: {"choices": [], "usage": {"prompt_tokens": NaN}}\n\n', "stop"),
        (b'data: {"choices": [], "usage": {"prompt_tokens": 1e999}}\n\n', "stop"),
        (data({"choices": [None]}), "stop"),
        (data({}), "stop"),
        (b"data:\n\n", "stop"),
    ],
)
def test_odd_last_event_does_not_lose_the_answer(last: bytes, reason: str) -> None:
    assert answer(last, DONE)[:2] == ("Hello", reason)


@pytest.mark.parametrize(
    "mark",
    [b"data: [DONE]", b"data:[DONE]", b"data: [DONE] ", b"data:  [DONE]\t", b'data: "[DONE]"'],
)
def test_end_mark_in_any_notation(mark: bytes) -> None:
    stream = ChatStream("m")
    list(stream.feed(text("Hello") + mark + b"\n\n" + text(" again")))
    assert stream.done
    assert stream.finish().finish_reason == "stop"


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, Usage()),
        ({"prompt_tokens": None, "completion_tokens": 2}, Usage(0, 2, 0)),
        ({"prompt_tokens": 1.0, "completion_tokens": 2.7, "total_tokens": 3}, Usage(1, 2, 3)),
        ({"prompt_tokens": "1", "completion_tokens": "two", "total_tokens": -3}, Usage(1, 0, 0)),
        ({}, Usage()),
        ([], Usage()),
        ("many", Usage()),
    ],
)
def test_valid_parts_of_usage_are_read(usage: object, expected: Usage) -> None:
    last = data({"choices": [], "usage": usage})
    assert answer(choice(delta={}, finish_reason="stop"), last, DONE) == ("Hello", "stop", expected)


def test_first_of_several_mixed_answers_counts() -> None:
    both = data(
        {
            "choices": [
                {"index": 1, "delta": {"content": "B"}},
                {"index": 0, "delta": {"content": "!"}, "finish_reason": "length"},
            ]
        }
    )
    end = choice(index=1, delta={}, finish_reason="stop")
    assert answer(text("No", 1), both, text("No", 1), end, DONE)[:2] == ("Hello!", "length")


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": " you"}, {"type": "text", "text": "!"}]
    assert answer(choice(delta={"content": parts}), DONE)[0] == "Hello you!"


def test_other_members_of_a_text_event_are_read() -> None:
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}
    stream = ChatStream("m")
    chunks = list(stream.feed(text("x") + choice(delta={"content": "y", "tool_calls": [call]})))
    chunks += stream.feed(choice(delta={}, finish_reason="tool_calls"))
    assert "".join(chunk.content for chunk in chunks) == "xy"
    assert [call.id for chunk in chunks for call in chunk.tool_calls] == ["a"]


def test_reasoning_and_refusal_are_not_text() -> None:
    stream = ChatStream("m")
    events = choice(delta={"reasoning": "Hm."}) + choice(delta={"refusal": "I may not."})
    chunks = list(stream.feed(events + choice(finish_reason="stop", delta={"content": ""})))
    pieces = [(chunk.content, chunk.reasoning, chunk.refusal) for chunk in chunks]
    assert pieces == [("", "Hm.", ""), ("", "", "I may not.")]


@pytest.mark.parametrize("reason", ["stop", "length"])
@pytest.mark.parametrize(
    "last", [b"data: {\n\n", b"data: ping\n\n", data(3), choice(delta={"content": 3})]
)
def test_invalid_event_after_the_end_is_ignored(reason: str, last: bytes) -> None:
    content, found, _ = answer(choice(delta={}, finish_reason=reason), last, DONE)
    assert (content, found) == ("Hello", reason)


@pytest.mark.parametrize(
    ("piece", "expected"),
    [
        (choice(message={"role": "assistant", "content": " you"}), " you"),
        (choice(message={"content": [{"type": "text", "text": " you"}]}), " you"),
        (choice(text=" you"), " you"),
        (choice(delta=" you"), " you"),
        (choice(delta={"content": {"type": "text", "text": " you"}}), " you"),
        (data({"choices": {"delta": {"content": " you"}}}), " you"),
        (b'data: {"choices": [{"delta": {"content": " \\ud83d"}}]}\n\n', " \ufffd"),
        (b'data: {"choices": [{"delta": {"content": " \xff"}}]}\n\n', " \ufffd"),
        (b'data: {"choices": [{"delta": {"content": " x"}, "logprobs": NaN}]}\n\n', " x"),
        (b'{"choices": [{"delta": {"content": " you"}}]}\n\n', " you"),
    ],
)
def test_text_is_read_in_any_shape(piece: bytes, expected: str) -> None:
    assert answer(piece, DONE)[0] == f"Hello{expected}"


def test_reasoning_in_text_parts() -> None:
    parts = [{"type": "thinking", "thinking": [{"text": "Hm."}]}, {"type": "text", "text": "Yes."}]
    stream = ChatStream("m")
    chunks = list(stream.feed(choice(delta={"content": parts})))
    assert [(chunk.reasoning, chunk.content) for chunk in chunks] == [("Hm.", ""), ("", "Yes.")]


def test_complete_completion_keeps_its_tool_calls() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    stream = ChatStream("m")
    (chunk,) = stream.feed(choice(message=message, finish_reason="tool_calls"))
    assert [(call.id, call.function.name) for call in chunk.tool_calls] == [("a", "f")]


@pytest.mark.parametrize(
    "event",
    [
        choice(delta={}, finish_reason="error", error={"message": "boom", "code": 502}),
        choice(delta={"content": ""}, error={"message": "boom"}),
        b'error: {"message": "boom"}\n\n',
        b'{"error": {"message": "boom"}}\n',
        b'data: {"error": {"message": "boom"}, "t": NaN}\n\n',
        data({"Error": {"Message": "boom"}}),
        data({"error_code": 1, "error_message": "boom"}),
    ],
)
def test_error_message_is_found_in_any_shape(event: bytes) -> None:
    with pytest.raises(errors.ServerError, match="boom"):
        answer(event)


@pytest.mark.parametrize("reason", ["error", "abort", "Cancelled"])
def test_aborted_answer_is_interrupted(reason: str) -> None:
    with pytest.raises(errors.StreamInterrupted, match=reason):
        answer(choice(delta={}, finish_reason=reason))


@pytest.mark.parametrize(
    "value",
    [
        3,
        [1],
        "x",
        {"choices": "x"},
        {"choices": [{"delta": {"content": 3}}]},
        {"choices": [{"delta": [{"content": "x"}]}]},
    ],
)
def test_meaningless_event_is_an_error(value: object) -> None:
    with pytest.raises(errors.ProtocolError):
        answer(data(value))


@pytest.mark.parametrize(
    "value",
    [
        {"error": {"message": "boom", "type": None}},
        {"error": {"message": "boom"}},
        {"error": {"message": "boom", "type": ["x"], "code": None}},
        {"error": "boom"},
        {"error": ["boom"]},
        {"error": {"error": {"message": "boom"}}},
        {"error": True, "message": "boom"},
        {"object": "error", "message": "boom"},
        {"type": "error", "message": "boom"},
        {"type": "error", "error": {"type": "api_error", "message": "boom"}},
        {"message": "boom"},
        {"detail": "boom"},
        {"detail": [{"loc": ["body"], "msg": "boom"}]},
        {"errors": [{"message": "boom"}]},
        {"choices": [], "error": {"message": "boom", "code": 500}},
        {"choices": [{"delta": {"content": "x"}}], "error": "boom"},
    ],
)
def test_stream_error_keeps_its_message_and_is_not_retried(value: object) -> None:
    with pytest.raises(errors.ServerError) as caught:
        answer(data(value))
    assert caught.value.message == "boom"
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "event",
    [b'{"message":"boom"}', b"boom", b'"boom"', b'["boom"]', b'{"choices":[],"error":"boom"}'],
)
def test_event_named_error_is_an_error(event: bytes) -> None:
    with pytest.raises(errors.ServerError) as caught:
        answer(b"event: error\ndata: " + event + b"\n\n")
    assert caught.value.message == "boom"


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        ({"type": "BadRequestError", "code": 400}, errors.InvalidRequest),
        ({"type": "invalid_request_error"}, errors.InvalidRequest),
        ({"code": "400"}, errors.InvalidRequest),
        ({"code": 404}, errors.InvalidRequest),
        ({"type": "overloaded_error"}, errors.ServiceOverloaded),
        ({"code": 503}, errors.ServiceOverloaded),
        ({"code": "context_length_exceeded"}, errors.ContextOverflow),
        ({"code": 200}, errors.ServerError),
    ],
)
def test_code_and_type_classify_an_error(
    members: dict[str, Any], kind: type[errors.FoundryError]
) -> None:
    for value in ({"error": {"message": "boom", **members}}, {"object": "error", **members}):
        assert type(parse_stream_error(msgspec.json.encode(value))) is kind


def test_server_error_is_retryable() -> None:
    failure = parse_stream_error(b'{"error":{"message":"boom","type":"server_error"}}')
    assert failure is not None
    assert failure.retryable


def test_error_message_search_is_bounded() -> None:
    deep: Any = "boom"
    for _ in range(9):
        deep = {"error": deep}
    assert extract_error_message(deep) == ""
    assert extract_error_message({"error": None, "message": " boom "}) == "boom"
    assert extract_error_message({"code": 3}) == ""
