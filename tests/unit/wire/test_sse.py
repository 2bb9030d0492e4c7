"""The SSE decoder agrees with the standard for any bytes in any split."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.types.errors import ProtocolError
from foundry_api.wire.sse import Event, EventDecoder

BOM = b"\xef\xbb\xbf"


def standard(stream: bytes) -> list[tuple[str, str]]:
    """Decode a complete stream as WHATWG HTML 9.2.6 specifies."""
    text = stream.removeprefix(BOM).decode("utf-8", "replace")
    *lines, _unfinished = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    events: list[tuple[str, str]] = []
    data = kind = ""
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            if data != "":
                events.append((kind or "message", data.removesuffix("\n")))
            data = kind = ""
        elif field == "event":
            kind = value
        elif field == "data":
            data += value + "\n"
    return events


def decoded(blocks: list[bytes], max_event_bytes: int = 2**20) -> list[Event]:
    decoder = EventDecoder(max_event_bytes)
    return [event for block in blocks for event in decoder.feed(block)]


def readable(events: list[Event]) -> list[tuple[str, str]]:
    return [(e.name.decode("utf-8", "replace"), e.data.decode("utf-8", "replace")) for e in events]


PIECES = st.sampled_from(
    [
        *(b"data", b"event", b"id", b"retry", b"dat", b"", b" ", b":", b": ", b"::"),
        *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"\n\r"),
        *(b"data:", b"data: ", b"data: x\n", b"event: name\n", b": comment\n", b"[DONE]"),
        *(BOM, BOM[:2], b"\0", b"\xff", "é€😀".encode(), "€".encode()[:2]),
    ]
)
ANY_BYTES = st.lists(PIECES | st.binary(max_size=3), max_size=40).map(b"".join)
LINES = st.sampled_from([b"data: a", b"data", b"data:", b": x", b"event: e", b"id: 1", b"", b""])
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
WELL_FORMED = st.lists(st.tuples(LINES, ENDS).map(b"".join), max_size=20).map(b"".join)
STREAMS = ANY_BYTES | WELL_FORMED


@given(stream=STREAMS, data=st.data())
def test_any_split_gives_the_events_of_the_standard(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    edges = [0, *cuts, len(stream)]
    blocks = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert readable(decoded(blocks)) == standard(stream)


@given(stream=STREAMS)
def test_single_bytes_give_the_events_of_the_standard(stream: bytes) -> None:
    assert readable(decoded([bytes([byte]) for byte in stream])) == standard(stream)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_line_end_may_be_split(end: bytes) -> None:
    stream = end.join(
        [BOM + b"event: e", b"data: a", b"data: b", b": x", b"", b"data: c", b"", b""]
    )
    for cut in range(len(stream)):
        assert decoded([stream[:cut], b"", stream[cut:]]) == [Event(b"a\nb", b"e"), Event(b"c")]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data\n\n", [b""]),
        (b"data:\n\n", [b""]),
        (b"data\ndata\n\n", [b"\n"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data: a\r\rdata: b\r\n\r\ndata: c\n\n", [b"a", b"b", b"c"]),
        (b"\n\n\ndata: a\n\n\n\n", [b"a"]),
        (b"Data: a\ndata : b\n data: c\n\n", []),
        (b": comment\n\n: keep-alive\n\ndata: a\n: more\ndata: b\n\n", [b"a\nb"]),
        (b"id: 1\nretry: 9\ndata: a\nid: \0\n\n", [b"a"]),
        (b"event: ping\n\ndata: a\n\n", [b"a"]),
        (b"data: a\n", []),
        (b"data: a\n\ndata: unfinished", [b"a"]),
        (BOM + b"data: a\n\n", [b"a"]),
        (BOM + BOM + b"data: a\n\n", []),
        (b"data: a\n\n" + BOM + b"data: b\n\n", [b"a"]),
        (b"data: \xff\0\n\n", [b"\xff\0"]),
        (b"", []),
    ],
)
def test_cases_of_the_standard(stream: bytes, expected: list[bytes]) -> None:
    assert [event.data for event in decoded([stream])] == expected


def test_last_event_name_counts() -> None:
    events = decoded([b"event: a\nevent: error\ndata: x\n\nevent:\ndata: y\n\ndata: z\n\n"])
    assert [event.name for event in events] == [b"error", b"message", b"message"]


def test_bom_may_be_split() -> None:
    assert [e.data for e in decoded([BOM[:1], BOM[1:2], BOM[2:] + b"data: a\n\n"])] == [b"a"]


def test_event_is_returned_with_its_last_byte() -> None:
    """Even if it ends in a CR, after which an LF may follow in the next block."""
    decoder = EventDecoder()
    assert [event.data for event in decoder.feed(b"data: a\r\r")] == [b"a"]
    assert [event.data for event in decoder.feed(b"\ndata: b\n\n")] == [b"b"]


LARGE = 1000


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"data: " + b"a" * LARGE, id="a line that never ends"),
        pytest.param(b"data: " + b"a" * LARGE + b"\n\n", id="one line"),
        pytest.param(b"data: a\n" * (LARGE // 8 + 1), id="lines that never end"),
        pytest.param(b"data\n" * (LARGE // 5 + 1) + b"\n", id="empty lines"),
        pytest.param(b"data: a\n: b\n" * (LARGE // 8 + 1), id="lines between comments"),
        pytest.param(b": " + b"a" * LARGE, id="a comment that never ends"),
        pytest.param(b"event: " + b"a" * LARGE + b"\n", id="a name"),
    ],
)
def test_buffered_data_is_bounded(stream: bytes, size: int) -> None:
    blocks = [stream[start : start + size] for start in range(0, len(stream), size)]
    with pytest.raises(ProtocolError, match="larger than 1000 bytes"):
        decoded([b"data: before\n\n", *blocks], LARGE)


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b": keep-alive\n" * LARGE, id="comments without an empty line"),
        pytest.param(b": keep-alive\n\n" * LARGE, id="comments"),
        pytest.param(b"id: 1\nretry: 2\n" * LARGE, id="fields that are skipped"),
        pytest.param(b"event: name\n" * LARGE, id="names"),
        pytest.param(b"data: " + b"a" * (LARGE - 7) + b"\n", id="the largest event"),
    ],
)
def test_skipped_data_is_not_bounded(stream: bytes, size: int) -> None:
    blocks = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert decoded([*blocks, b"\ndata: a\n\n"], LARGE)[-1].data == b"a"


def test_events_before_an_oversized_one_are_delivered() -> None:
    events = EventDecoder(LARGE).feed(b"data: a\n\ndata: " + b"b" * LARGE + b"\n\n")
    assert next(events).data == b"a"
    with pytest.raises(ProtocolError):
        next(events)


def test_work_is_linear() -> None:
    """A decoder that scans an unfinished line again for each block would need hours here."""
    blocks = [b"a" * 8] * 2**18
    events = decoded([b"data: ", *blocks, b"\n\n"], 2**22)
    assert len(events[0].data) == 2**21
