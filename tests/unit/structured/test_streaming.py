"""Streams with partial values, and errors at their end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.structured.output_spec import OutputSpec
from foundry_api.structured.streaming import parse_chunks
from foundry_api.types.errors import StreamInterrupted, StructuredOutputError
from foundry_api.types.messages import AttemptRecord, Chunk, FinishReason, FunctionCall, ToolCall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from support.virtual_time import Run

CALL = ToolCall("call_1", FunctionCall("clock", "{}"))


class Source:
    """A stream of chunks that records whether it was closed."""

    def __init__(self, *pieces: str | Chunk, finish_reason: FinishReason = "stop") -> None:
        self._pieces = [
            Chunk(chunk, "m:1") if isinstance(chunk, str) else chunk for chunk in pieces
        ]
        self._last = Chunk("", "m:1", finish_reason=finish_reason, attempts=(AttemptRecord(1.0),))
        self.closed = False

    async def chunks(self) -> AsyncGenerator[Chunk]:
        try:
            for piece in self._pieces:
                yield piece
            yield self._last
        finally:
            self.closed = True


def read(run: Run, source: Source, **arguments: Any) -> list[Chunk]:
    async def gather() -> list[Chunk]:
        stream = parse_chunks(source.chunks(), OutputSpec.from_arguments(**arguments))
        return [chunk async for chunk in stream]

    return run(gather())


def failure(run: Run, source: Source, **arguments: Any) -> StructuredOutputError:
    with pytest.raises(StructuredOutputError) as caught:
        read(run, source, **arguments)
    assert source.closed
    return caught.value


def test_chunks_have_partial_values_and_the_last_one_parsed(run: Run) -> None:
    chunks = read(run, Source('{"a', '": [1', ", 2", "]}"), response_model=dict[str, list[int]])
    assert [chunk.partial for chunk in chunks] == [
        {}, {"a": []}, {"a": [1]}, {"a": [1, 2]}, {"a": [1, 2]},
    ]  # fmt: skip
    assert [chunk.parsed for chunk in chunks] == [None, None, None, None, {"a": [1, 2]}]
    assert "".join(chunk.content for chunk in chunks) == '{"a": [1, 2]}'


def test_partial_is_none_before_the_value_begins(run: Run) -> None:
    thought = Chunk("", "m:1", reasoning="hm")
    source = Source(thought, "Here: ", "[true, ", "false]")
    chunks = read(run, source, response_model=list[bool])
    assert [chunk.partial for chunk in chunks[:3]] == [None, None, [True]]


def test_number_is_complete_at_the_end(run: Run) -> None:
    chunks = read(run, Source("1", "2"), response_model=int)
    assert [chunk.partial for chunk in chunks] == [None, None, 12]
    assert chunks[-1].parsed == 12


def test_choice_has_no_partial_values(run: Run) -> None:
    chunks = read(run, Source("y", "es"), choice=["yes", "no"])
    assert [(chunk.partial, chunk.parsed) for chunk in chunks] == [(None, None)] * 2 + [
        (None, "yes")
    ]


def test_parser_and_chunk_parser(run: Run) -> None:
    chunks = read(run, Source("1", "2"), parser=int, chunk_parser=lambda chunk: chunk.content * 2)
    assert [chunk.partial for chunk in chunks] == ["11", "22", "22"]
    assert chunks[-1].parsed == 12


def test_chunk_parser_error_ends_the_stream(run: Run) -> None:
    error = failure(run, Source("1", "x", "2"), chunk_parser=lambda chunk: int(chunk.content))
    assert error.partial == "1x"
    assert "a chunk cannot be parsed: invalid literal" in error.message


def test_invalid_answer_raises_at_its_end(run: Run) -> None:
    error = failure(run, Source('{"a": ', '"b"}'), response_model=dict[str, int])
    assert error.errors == ("$[...]: Expected int, got str",)
    assert (error.partial, error.model, error.attempts) == ('{"a": "b"}', "m:1", 1)
    assert (error.repairs, error.finish_reason) == (0, "stop")


def test_truncated_answer_raises_even_if_valid(run: Run) -> None:
    error = failure(run, Source("12", finish_reason="length"), response_model=int)
    assert error.message == "the answer was cut before its end"
    assert "max_tokens" in error.hint


def test_validators_run_at_the_end(run: Run) -> None:
    assert "rejects" in failure(run, Source("12"), parser=int, validators=[lambda n: n < 9]).message


def test_stream_with_tool_calls_is_not_validated(run: Run) -> None:
    source = Source(Chunk("", "m:1", tool_calls=(CALL,)), finish_reason="tool_calls")
    assert read(run, source, response_model=int)[-1].parsed is None


def test_closing_early_closes_the_source(run: Run) -> None:
    source = Source("[1, ", "2", "]")

    async def first() -> Any:
        stream = parse_chunks(source.chunks(), OutputSpec.from_arguments(response_model=list[int]))
        chunk = await anext(stream)
        await stream.aclose()
        return chunk.partial

    assert run(first()) == [1]
    assert source.closed


def test_interruption_is_raised(run: Run) -> None:
    async def broken() -> AsyncGenerator[Chunk]:
        yield Chunk("[1", "m:1")
        raise StreamInterrupted("gone")

    async def gather() -> None:
        async for _ in parse_chunks(broken(), OutputSpec.from_arguments(response_model=list[int])):
            pass

    with pytest.raises(StreamInterrupted):
        run(gather())
