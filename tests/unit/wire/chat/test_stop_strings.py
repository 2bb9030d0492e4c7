"""Stop strings that are cut here: at the first one, however the text was split."""

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
def test_the_text_ends_where_the_first_stop_string_begins(
    texts: list[str], stop: list[str]
) -> None:
    """The first to be complete, as an engine that looks after every token would find."""
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
def test_where_the_bytes_are_torn_makes_no_difference(
    texts: list[str], stop: list[str], cut: int
) -> None:
    body = stream(*texts)
    assert decoded(stop, body[:cut], body[cut:])[0] == decoded(stop, body)[0]


def test_text_is_held_back_only_while_it_may_become_a_stop_string() -> None:
    decoder = StopStringFilter(ChatStream("m"), ["STOP"])
    said = [
        [chunk.content for chunk in decoder.feed(event(text) + b"\n\n")]
        for text in ("one S", "T", "AR", "T", "S", "TOP", " two")
    ]
    assert said[:5] == [["one "], [], ["STAR"], ["T"], []]
    assert decoder.done


def test_the_events_of_held_text_come_with_it() -> None:
    decoder = StopStringFilter(ChatStream("m"), ["ab"])
    (chunk,) = decoder.feed(event("a") + b"\n\n" + event("c") + b"\n\n")
    assert chunk.content == "ac"
    assert [
        json.loads(line)["choices"][0]["delta"]["content"] for line in chunk.raw.splitlines()
    ] == [
        "a",
        "c",
    ]


def test_after_a_hit_the_ending_is_ours_with_what_was_counted_so_far() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    _, decoder = decoded(["!"], event("Hi!", usage=usage) + b"\n\n")
    ending = decoder.finish()
    assert (ending.finish_reason, ending.usage, ending.stopped_early) == (
        "stop",
        Usage(3, 2, 5),
        True,
    )


def test_what_was_held_back_comes_ahead_of_an_error() -> None:
    decoder = StopStringFilter(ChatStream("m"), ["STOP"])
    chunks = iter(decoder.feed(event("ST") + b'\n\ndata: {"error":{"message":"boom"}}\n\n'))
    assert next(chunks).content == "ST"
    with pytest.raises(ServerError):
        next(chunks)
