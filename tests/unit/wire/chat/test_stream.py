"""A stream is decoded into text, reasoning and tool calls."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from foundry_api.types.errors import ServerError, StreamInterrupted
from foundry_api.types.messages import Chunk, FunctionCall, ToolCall
from foundry_api.wire.chat.reasoning import split_reasoning
from foundry_api.wire.chat.stop_strings import StopStringFilter
from foundry_api.wire.chat.stream import ChatStream

STOP = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


def event(**delta: Any) -> bytes:
    return b"data: " + msgspec.json.encode({"choices": [{"delta": delta}]}) + b"\n\n"


def piece(index: int, arguments: str, call_id: str | None = None, name: str | None = None) -> Any:
    return {"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}


def fed(*blocks: bytes) -> list[Chunk]:
    stream = ChatStream("tiny:1")
    return [chunk for block in blocks for chunk in stream.feed(block)]


def test_separate_reasoning_stays_separate() -> None:
    chunks = fed(event(reasoning_content="Hm. "), event(content="Yes"), event(content="!"), STOP)
    assert [(chunk.reasoning, chunk.content) for chunk in chunks] == [
        ("Hm. ", ""),
        ("", "Yes"),
        ("", "!"),
    ]


def test_marker_split_over_events_is_not_text() -> None:
    texts = ["<th", "ink>", "Hm", ".</", "think>", "\n", "Yes", " <think>"]
    chunks = fed(*(event(content=text) for text in texts), STOP, DONE)
    assert "".join(chunk.reasoning for chunk in chunks) == "Hm."
    assert "".join(chunk.content for chunk in chunks) == "Yes <think>"


def test_no_event_is_lost_from_the_raw_data() -> None:
    blocks = [event(content=text) for text in ("<thi", "nk>a", "</think>", "b")]
    stream = ChatStream("tiny:1")
    chunks = [chunk for block in (*blocks, STOP, DONE) for chunk in stream.feed(block)]
    raw = b"\n".join([*(chunk.raw for chunk in chunks), stream.finish().raw])
    assert raw.count(b'"delta"') == 5


def test_partial_marker_at_the_end_is_text() -> None:
    assert [chunk.content for chunk in fed(event(content="<thi"), STOP)] == ["<thi"]


def test_held_back_text_precedes_an_error() -> None:
    stream = ChatStream("tiny:1")
    list(stream.feed(event(content="<thi")))
    chunks = stream.feed(b'data: {"error":{"message":"it broke"}}\n\n')
    assert next(chunks).content == "<thi"
    with pytest.raises(ServerError):
        next(chunks)


def test_tool_calls_are_joined_by_index() -> None:
    (chunk,) = fed(
        event(tool_calls=[piece(0, "", "a", "add")]),
        event(tool_calls=[piece(0, '{"x":'), piece(1, "{}", "b", "now")]),
        event(tool_calls=[piece(0, "1}")]),
        STOP,
        DONE,
    )
    assert chunk.content == ""
    assert chunk.tool_calls == (
        ToolCall("a", FunctionCall("add", '{"x":1}')),
        ToolCall("b", FunctionCall("now", "{}")),
    )


def test_tool_calls_are_distinguished_by_id() -> None:
    (chunk,) = fed(
        event(tool_calls=[piece(0, '{"x":1}', "a", "add")]),
        event(tool_calls=[piece(0, '{"x":2}', "b", "add")]),
        STOP,
    )
    assert [call.function.arguments for call in chunk.tool_calls] == ['{"x":1}', '{"x":2}']


def test_tool_calls_of_an_aborted_answer_are_dropped() -> None:
    stream = ChatStream("tiny:1")
    assert list(stream.feed(event(tool_calls=[piece(0, '{"x":', "a", "add")]))) == []
    with pytest.raises(StreamInterrupted):
        stream.finish()


def test_held_back_pieces_are_counted() -> None:
    stream = ChatStream("tiny:1")
    list(stream.feed(event(tool_calls=[piece(0, '{"x":', "a", "add")])))
    assert stream.chunk_count == 1


def test_stop_strings_apply_to_the_answer_only() -> None:
    stopped = StopStringFilter(ChatStream("tiny:1"), ["END"])
    blocks = [event(reasoning_content="END"), event(content="yes EN"), event(content="D no")]
    chunks = [chunk for block in blocks for chunk in stopped.feed(block)]
    assert [(chunk.reasoning, chunk.content) for chunk in chunks] == [("END", ""), ("", "yes ")]
    assert stopped.done


def calls_in(*pieces: Any, tools: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    stream = ChatStream("tiny:1", tools=tools)
    events = b"".join(event(tool_calls=[each]) for each in pieces)
    chunks = [*stream.feed(events), *stream.feed(STOP)]
    calls = [call for chunk in chunks for call in chunk.tool_calls]
    assert len({call.id for call in calls}) == len(calls)
    return [(call.function.name, call.function.arguments) for call in calls]


PIECES: list[tuple[list[Any], list[tuple[str, str]]]] = [
    ([piece(0, "{}", None, "f"), piece(0, "{}", None, "g")], [("f", "{}"), ("g", "{}")]),
    ([piece(0, "", None, "f"), piece(0, "", None, "g")], [("f", ""), ("g", "")]),
    (
        [piece(0, '{"a":1}', None, "f"), piece(0, '{"a":2}', None, "f")],
        [("f", '{"a":1}'), ("f", '{"a":2}')],
    ),
    (
        [piece(0, '{"a"', None, "f"), piece(0, ":", None, "f"), piece(0, "1}", "", "f")],
        [("f", '{"a":1}')],
    ),
    (
        [piece(0, '{"a"', "x", "f"), piece(0, ":1}", "x", "f"), piece(0, "", "x", "f")],
        [("f", '{"a":1}')],
    ),
    ([piece(0, "{}", "x", "f"), piece(1, "{}", "x", "g")], [("f", "{}"), ("g", "{}")]),
    (
        [{**piece(0, '{"a":', "x", "f"), "index": None}, {"index": None, "function": {}}],
        [("f", '{"a":')],
    ),
    (
        [
            {"index": None, "id": "x", "function": {"name": "f", "arguments": '{"a":'}},
            {"index": None, "function": {"arguments": "1}"}},
            {"id": "y", "function": {"name": "g"}},
            {"function": {"arguments": "{}"}},
        ],
        [("f", '{"a":1}'), ("g", "{}")],
    ),
    (
        [{"index": 0, "id": "x", "function": {"name": "f", "arguments": {"a": [1]}}}],
        [("f", '{"a":[1]}')],
    ),
    ([{"index": 0, "id": 7, "function": {"name": "f", "arguments": None}}], [("f", "")]),
    ([None, {"index": 0, "function": {"name": "f", "arguments": "{}"}}], [("f", "{}")]),
    (
        [piece(0, "", "x", "f"), piece(1, "", "y", "g"), piece(0, "{}"), piece(1, "[]")],
        [("f", "{}"), ("g", "[]")],
    ),
]


@pytest.mark.parametrize(("pieces", "expected"), PIECES)
def test_pieces_of_tool_calls_are_joined(
    pieces: list[Any], expected: list[tuple[str, str]]
) -> None:
    assert calls_in(*pieces) == expected


def test_name_in_pieces_is_joined() -> None:
    tools = ("get_weather", "get", "clock")
    parts = [piece(0, "", "x", "clo"), piece(0, "", None, "ck"), piece(0, "{}")]
    assert calls_in(*parts, tools=tools) == [("clock", "{}")]
    grown = [piece(0, "", "x", "get_w"), piece(0, "", "x", "get_weather"), piece(0, "{}")]
    assert calls_in(*grown, tools=tools) == [("get_weather", "{}")]
    assert calls_in(piece(0, "", "x", "get"), piece(0, "{}", "y", "clock"), tools=tools) == [
        ("get", ""),
        ("clock", "{}"),
    ]


def test_function_call_is_a_tool_call() -> None:
    (chunk,) = fed(
        event(function_call={"name": "f", "arguments": '{"a":'}),
        event(function_call={"arguments": "1}"}),
        b'data: {"choices":[{"delta":{},"finish_reason":"function_call"}]}\n\n',
    )
    assert [call.function for call in chunk.tool_calls] == [FunctionCall("f", '{"a":1}')]


def opened(*texts: str, reason: str = "stop") -> tuple[str, str]:
    """Return reasoning and text of a model whose prompt opened the block."""
    stream = ChatStream("deepseek-r1:1", in_reasoning=True)
    end = b'data: {"choices":[{"delta":{},"finish_reason":"%b"}]}\n\n' % reason.encode()
    blocks = [*(event(content=text) for text in texts), end, DONE]
    chunks = [chunk for block in blocks for chunk in stream.feed(block)]
    stream.finish()
    return "".join(c.reasoning for c in chunks), "".join(c.content for c in chunks)


def test_block_opened_in_the_prompt_is_reasoning() -> None:
    assert opened("Hm", ". ", "So.\n</th", "ink>\n\n", "Yes") == ("Hm. So.", "Yes")
    assert opened("<think>\nHm.\n</think>", "Yes") == ("Hm.", "Yes")
    assert opened("</think>\n\nYes") == ("", "Yes")


def test_unclosed_block_of_truncated_and_complete_answers() -> None:
    assert opened("Hm", ". So", reason="length") == ("Hm. So", "")
    reasoning, text = opened("Hel", "lo.")
    assert text == "Hello."
    assert split_reasoning(reasoning, text) == ("", "Hello.")


def test_with_separate_reasoning_the_text_is_the_answer() -> None:
    stream = ChatStream("deepseek-r1:1", in_reasoning=True)
    chunks = [
        *stream.feed(event(reasoning_content="Hm.") + event(content="Yes")),
        *stream.feed(STOP),
    ]
    assert [(chunk.reasoning, chunk.content) for chunk in chunks] == [("Hm.", ""), ("", "Yes")]
