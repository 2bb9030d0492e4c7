"""Answers end at the first stop string in any split of the text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.types.errors import ServerError
from foundry_api.types.messages import Usage
from foundry_api.wire.chat.stop_strings import StopStringFilter
from foundry_api.wire.chat.stream import ChatStream

FEW_LETTERS = st.text(alphabet="ab c", max_size=12)
STOPS = st.lists(st.text(alphabet="ab c", min_size=1, max_size=4), min_size=1, max_size=4)


def event(text: str, **more: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}], **more}).encode()


def stream(*texts: str) -> bytes:
    events = [*map(event, texts), b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}']
    return b"\n\n".join([*events, b"data: [DONE]", b""])


def decoded(stop: list[str], *blocks: bytes) -> tuple[str, StopStringFilter]:
    decoder = StopStringFilter(ChatStream("m"), stop)
    text = ""
    for block in blocks:
        if not decoder.done:
            text += "".join(chunk.content for chunk in decoder.feed(block))
    return text, decoder


@given(texts=st.lists(FEW_LETTERS, max_size=8), stop=STOPS)
def test_text_ends_before_the_first_stop_string(texts: list[str], stop: list[str]) -> None:
    """Return the first complete one, as an engine that checks after every token would find it."""
    text, decoder = decoded(stop, stream(*texts))
    whole, seen = "".join(texts), ""
    expected = whole
    for piece in texts:
        seen += piece
        if hits := [at for each in stop if (at := seen.find(each)) >= 0]:
            expected = whole[: min(hits)]
            break
    assert text == expected
    assert decoder.done
    assert decoder.finish().finish_reason == ("stop" if expected != whole else "length")


@given(texts=st.lists(FEW_LETTERS, max_size=8), stop=STOPS, cut=st.integers(0, 400))
def test_any_split_gives_the_same_result(texts: list[str], stop: list[str], cut: int) -> None:
    body = stream(*texts)
    assert decoded(stop, body[:cut], body[cut:])[0] == decoded(stop, body)[0]


def test_only_possible_stop_strings_are_held_back() -> None:
    decoder = StopStringFilter(ChatStream("m"), ["STOP"])
    contents = [
        [chunk.content for chunk in decoder.feed(event(text) + b"\n\n")]
        for text in ("one S", "T", "AR", "T", "S", "TOP", " two")
    ]
    assert contents[:5] == [["one "], [], ["STAR"], ["T"], []]
    assert decoder.done


def test_a_stop_string_counts_before_its_last_chunk_is_taken() -> None:
    decoder = StopStringFilter(ChatStream("m"), ["END"])
    assert next(iter(decoder.feed(event("one END two") + b"\n\n"))).content == "one "
    assert decoder.finish().finish_reason == "stop"


def test_raw_events_follow_held_back_text() -> None:
    decoder = StopStringFilter(ChatStream("m"), ["ab"])
    (chunk,) = decoder.feed(event("a") + b"\n\n" + event("c") + b"\n\n")
    assert chunk.content == "ac"
    assert [
        json.loads(line)["choices"][0]["delta"]["content"] for line in chunk.raw.splitlines()
    ] == [
        "a",
        "c",
    ]


def test_end_after_a_stop_string() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    _, decoder = decoded(["!"], event("Hi!", usage=usage) + b"\n\n")
    ending = decoder.finish()
    assert (ending.finish_reason, ending.usage, ending.stopped_early) == (
        "stop",
        Usage(3, 2, 5),
        True,
    )


def test_held_back_text_precedes_an_error() -> None:
    decoder = StopStringFilter(ChatStream("m"), ["STOP"])
    chunks = iter(decoder.feed(event("ST") + b'\n\ndata: {"error":{"message":"boom"}}\n\n'))
    assert next(chunks).content == "ST"
    with pytest.raises(ServerError):
        next(chunks)
