"""Storing an answer and restoring it."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.core.cache import entry
from foundry_api.core.cache.entry import CachedChunk, Entry
from foundry_api.types.errors import ServerError
from foundry_api.types.messages import (
    AttemptRecord,
    Chunk,
    Completion,
    FunctionCall,
    Timings,
    ToolCall,
    Usage,
)

if TYPE_CHECKING:
    import pytest

TIMINGS = Timings(0.1, 0.2, 30.0, 0.4)
OF_THE_CALL = {"model", "finish_reason", "usage", "timings", "attempts", "cached"}
OF_THE_CALLER = {"partial", "parsed"}


def chunk_of(content: str, raw: bytes) -> Chunk:
    calls = (ToolCall("1", FunctionCall("f", "{}")),) if content == "f" else ()
    return Chunk(
        content, "demo:1", raw=raw, reasoning=content[1:] and f"§{content}", tool_calls=calls
    )


def whole_of(chunks: list[Chunk]) -> Completion[None]:
    return Completion(
        content="".join(chunk.content for chunk in chunks),
        reasoning="".join(chunk.reasoning for chunk in chunks),
        tool_calls=tuple(call for chunk in chunks for call in chunk.tool_calls),
        parsed=None,
        model="demo:1",
        service="http://127.0.0.1:1",
        service_generation="sdk-2.1",
        finish_reason="length",
        usage=Usage(1, 2, 3),
        timings=TIMINGS,
        attempts=(AttemptRecord(0.1, ServerError("no")), AttemptRecord(0.2)),
        raw=(*(chunk.raw for chunk in chunks), b"{}\n{}"),
    )


CHUNKS = st.lists(
    st.builds(
        chunk_of,
        st.just("f") | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="§")),
        st.binary(max_size=20),
    )
)


@given(CHUNKS)
def test_answer_is_restored_complete_and_in_chunks(chunks: list[Chunk]) -> None:
    completion = whole_of(chunks)
    data = Entry.from_answer(chunks, completion, created_at=7.0).encode()
    found = Entry.decode(data)
    assert found is not None
    assert found.created_at == 7.0
    assert found.to_chunks() == [msgspec.structs.replace(chunk, cached=True) for chunk in chunks]
    again = found.to_completion(TIMINGS)
    assert again == msgspec.structs.replace(completion, cached=True, attempts=())


def test_all_members_of_a_chunk_are_stored_but_those_of_the_call() -> None:
    """A new member of Chunk fails this test: add it to CachedChunk, or name it here."""
    assert set(Chunk.__struct_fields__) == {
        *CachedChunk.__struct_fields__,
        *OF_THE_CALL,
        *OF_THE_CALLER,
    }


def test_damaged_data_is_no_entry() -> None:
    completion = whole_of([])
    good = Entry.from_answer([], completion, created_at=0.0).encode()
    other = zlib.compress(msgspec.msgpack.encode(["not", "an", "entry"]))
    damaged = bytes([*good[:-5], good[-5] ^ 1, *good[-4:]])
    for data in (b"", b"\0", good[:-1], good[: len(good) // 2], damaged, other):
        assert Entry.decode(data) is None


def test_other_format_is_no_entry() -> None:
    later = msgspec.structs.replace(
        Entry.from_answer([], whole_of([]), created_at=0.0), format=entry.FORMAT + 1
    )
    assert Entry.decode(later.encode()) is None


def test_data_that_decompresses_beyond_the_limit_is_no_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chunks = [chunk_of("a" * 1000, b"")]
    data = Entry.from_answer(chunks, whole_of(chunks), created_at=0.0).encode()
    assert Entry.decode(data)
    monkeypatch.setattr(entry, "MAX_BYTES", 1000)
    assert Entry.decode(data) is None
