"""Streams with the value so far, and errors in place of their end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.structured.expectation import OutputSpec
from foundry_api.structured.streaming import parse_chunks
from foundry_api.types.errors import StreamInterrupted, StructuredOutputError
from foundry_api.types.messages import AttemptRecord, Chunk, FinishReason, FunctionCall, ToolCall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from support.no_real_time import Run

CALL = ToolCall("call_1", FunctionCall("clock", "{}"))


class Source:
    """A stream of these pieces, which notices when it is closed."""

    def __init__(self, *pieces: str | Chunk, finish_reason: FinishReason = "stop") -> None:
        self._pieces = [Chunk(each, "m:1") if isinstance(each, str) else each for each in pieces]
        self._last = Chunk("", "m:1", finish_reason=finish_reason, attempts=(AttemptRecord(1.0),))
        self.closed = False

    async def chunks(self) -> AsyncGenerator[Chunk]:
        try:
            for piece in self._pieces:
                yield piece
            yield self._last
        finally:
            self.closed = True


def read(run: Run, source: Source, **wanted: Any) -> list[Chunk]:
    async def gather() -> list[Chunk]:
        stream = parse_chunks(source.chunks(), OutputSpec.from_arguments(**wanted))
        return [chunk async for chunk in stream]

    return run(gather())


def failure(run: Run, source: Source, **wanted: Any) -> StructuredOutputError:
    with pytest.raises(StructuredOutputError) as caught:
        read(run, source, **wanted)
    assert source.closed
    return caught.value


def test_every_chunk_has_the_value_so_far_and_the_last_one_the_whole(run: Run) -> None:
    chunks = read(run, Source('{"a', '": [1', ", 2", "]}"), response_model=dict[str, list[int]])
    assert [each.partial for each in chunks] == [
        {}, {"a": []}, {"a": [1]}, {"a": [1, 2]}, {"a": [1, 2]},
    ]  # fmt: skip
    assert [each.parsed for each in chunks] == [None, None, None, None, {"a": [1, 2]}]
    assert "".join(each.content for each in chunks) == '{"a": [1, 2]}'


def test_before_the_value_begins_there_is_none(run: Run) -> None:
    thought = Chunk("", "m:1", reasoning="hm")
    source = Source(thought, "Here: ", "[true, ", "false]")
    chunks = read(run, source, response_model=list[bool])
    assert [each.partial for each in chunks[:3]] == [None, None, [True]]


def test_a_number_is_whole_at_the_end(run: Run) -> None:
    chunks = read(run, Source("1", "2"), response_model=int)
    assert [each.partial for each in chunks] == [None, None, 12]
    assert chunks[-1].parsed == 12


def test_a_choice_is_known_at_the_end(run: Run) -> None:
    chunks = read(run, Source("y", "es"), choice=["yes", "no"])
    assert [(each.partial, each.parsed) for each in chunks] == [(None, None)] * 2 + [(None, "yes")]


def test_a_parser_reads_the_whole_text_and_a_chunk_parser_each_chunk(run: Run) -> None:
    chunks = read(run, Source("1", "2"), parser=int, chunk_parser=lambda chunk: chunk.content * 2)
    assert [each.partial for each in chunks] == ["11", "22", "22"]
    assert chunks[-1].parsed == 12


def test_a_chunk_that_cannot_be_parsed_ends_the_stream(run: Run) -> None:
    error = failure(run, Source("1", "x", "2"), chunk_parser=lambda chunk: int(chunk.content))
    assert error.partial == "1x"
    assert "a chunk cannot be parsed: invalid literal" in error.message


def test_an_answer_that_does_not_pass_raises_at_its_end(run: Run) -> None:
    error = failure(run, Source('{"a": ', '"b"}'), response_model=dict[str, int])
    assert error.errors == ("$[...]: Expected int, got str",)
    assert (error.partial, error.model, error.attempts) == ('{"a": "b"}', "m:1", 1)
    assert (error.repairs, error.finish_reason) == (0, "stop")


def test_an_answer_that_was_cut_raises_although_it_would_pass(run: Run) -> None:
    error = failure(run, Source("12", finish_reason="length"), response_model=int)
    assert error.message == "the answer was cut before its end"
    assert "max_tokens" in error.hint


def test_validators_look_at_the_end_alone(run: Run) -> None:
    assert "refuses" in failure(run, Source("12"), parser=int, validators=[lambda n: n < 9]).message


def test_a_stream_that_calls_a_tool_has_no_value_yet(run: Run) -> None:
    source = Source(Chunk("", "m:1", tool_calls=(CALL,)), finish_reason="tool_calls")
    assert read(run, source, response_model=int)[-1].parsed is None


def test_leaving_early_closes_what_lies_beneath(run: Run) -> None:
    source = Source("[1, ", "2", "]")

    async def first() -> Any:
        stream = parse_chunks(source.chunks(), OutputSpec.from_arguments(response_model=list[int]))
        chunk = await anext(stream)
        await stream.aclose()
        return chunk.partial

    assert run(first()) == [1]
    assert source.closed


def test_what_interrupts_the_stream_comes_through(run: Run) -> None:
    async def broken() -> AsyncGenerator[Chunk]:
        yield Chunk("[1", "m:1")
        raise StreamInterrupted("gone")

    async def gather() -> None:
        async for _ in parse_chunks(broken(), OutputSpec.from_arguments(response_model=list[int])):
            pass

    with pytest.raises(StreamInterrupted):
        run(gather())
