"""Tool calls and reasoning, which are the same for callers in every generation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from conformance.services import FAKE_GENERATIONS, THINKER, VERSIONS
from foundry_api import Chunk, ToolCallError, ToolResult, ToolRun, UnsupportedFeature
from support.scripted_model import TEXT_CALLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conformance.expectations import Expected
    from foundry_api import FoundryAPIClient, ToolCall

OTHER = {"write-malformed", "write-unknown-tool", "write-lookalike"}
TWO = {"call-two-tools", "write-two-hermes", "write-list"}
CALLED = [
    "call-calculator",
    "call-two-tools",
    "call-after-words",
    *(script.keyword for script in TEXT_CALLS if script.keyword not in OTHER),
]
"""Scripts that call tools with the model's markers, and in text that no engine parses."""

ENOUGH = 400


def calculate(expression: str) -> str:
    """Work out a sum.

    Args:
        expression: Such as 6 * 7.
    """
    return f"{expression} is 42; say-hello"


async def clock(city: str = "Bern") -> str:
    """Tell the time in a city."""
    return f"In {city} it is noon; say-hello"


def meanings(calls: Sequence[ToolCall]) -> list[tuple[str, dict[str, str]]]:
    return [(call.function.name, msgspec.json.decode(call.function.arguments)) for call in calls]


def expected_of(keyword: str) -> list[tuple[str, dict[str, str]]]:
    calls = [("calculate", {"expression": "6 * 7"}), ("clock", {"city": "Zürich"})]
    return calls if keyword in TWO else calls[:1]


@pytest.mark.parametrize("keyword", CALLED)
async def test_calls_are_separate_from_the_text(client: FoundryAPIClient, keyword: str) -> None:
    answer = await client.complete(
        keyword, tools=[calculate, clock], max_tokens=ENOUGH, temperature=0
    )
    assert meanings(answer.tool_calls) == expected_of(keyword)
    assert answer.content.strip() == ("Let me see." if "after-words" in keyword else "")
    assert answer.finish_reason == "tool_calls"
    assert len({call.id for call in answer.tool_calls}) == len(answer.tool_calls)


@pytest.mark.parametrize("keyword", ["call-two-tools", "call-after-words", "write-list"])
async def test_streamed_calls_are_complete(client: FoundryAPIClient, keyword: str) -> None:
    stream = client.stream_complete(
        keyword, tools=[calculate, clock], max_tokens=ENOUGH, temperature=0
    )
    chunks = [chunk async for chunk in stream]
    calls = [call for chunk in chunks for call in chunk.tool_calls]
    assert meanings(calls) == expected_of(keyword)
    assert "tool_call" not in "".join(chunk.content for chunk in chunks)
    assert chunks[-1].finish_reason == "tool_calls"


async def test_answer_without_a_call_is_unchanged(client: FoundryAPIClient) -> None:
    tools = [calculate, clock]
    answer = await client.complete("say-hello", tools=tools, temperature=0)
    assert (answer.content, answer.tool_calls) == ("Hello, world!", ())
    lookalike = await client.complete("write-lookalike", tools=tools, temperature=0)
    assert lookalike.content == 'Write {"name": "calculate"} or <tool_calls>, not a call.'
    assert lookalike.tool_calls == ()


@pytest.mark.parametrize("keyword", ["call-two-tools", "write-bare", "write-list", "say-hello"])
async def test_run_continues_with_tool_results(client: FoundryAPIClient, keyword: str) -> None:
    run = await client.run_tools(keyword, [calculate, clock], max_tokens=ENOUGH, temperature=0)
    assert run.content == "Hello, world!"
    called = [] if keyword == "say-hello" else expected_of(keyword)
    assert [(call.name, call.arguments) for call in run.calls] == called
    assert run.turns == 1 + bool(called)


async def test_run_streams(client: FoundryAPIClient) -> None:
    stream = client.stream_run_tools(
        "call-after-words", [calculate, clock], max_tokens=ENOUGH, temperature=0
    )
    pieces = [piece async for piece in stream]
    content = "".join(piece.content for piece in pieces if isinstance(piece, Chunk))
    assert content == "Let me see.\nHello, world!"
    assert [piece.value for piece in pieces if isinstance(piece, ToolResult)] == [
        "6 * 7 is 42; say-hello"
    ]
    assert isinstance(pieces[-1], ToolRun)


@pytest.mark.parametrize("keyword", ["call-malformed", "write-malformed"])
async def test_unreadable_call_is_a_typed_error(client: FoundryAPIClient, keyword: str) -> None:
    with pytest.raises(ToolCallError) as caught:
        await client.complete(keyword, tools=[calculate, clock], max_tokens=ENOUGH, temperature=0)
    assert caught.value.hint


async def test_tool_choice_none(client: FoundryAPIClient) -> None:
    tools = [calculate, clock]
    answer = await client.complete("say-hello", tools=tools, tool_choice="none")
    assert (answer.content, answer.tool_calls) == ("Hello, world!", ())


@pytest.mark.parametrize("service", VERSIONS, indirect=True)
@pytest.mark.parametrize("choice", ["required", "calculate"])
async def test_tool_choice_required(client: FoundryAPIClient, choice: str) -> None:
    answer = await client.complete(
        "call-calculator",
        tools=[calculate, clock],
        tool_choice=choice,
        max_tokens=ENOUGH,
        temperature=0,
    )
    assert meanings(answer.tool_calls) == expected_of("call-calculator")


@pytest.mark.parametrize("service", FAKE_GENERATIONS, indirect=True)
async def test_unsupported_tool_choice_is_refused_before_sending(client: FoundryAPIClient) -> None:
    with pytest.raises(UnsupportedFeature, match="cannot make a model call a tool"):
        await client.complete("call-calculator", tools=[calculate], tool_choice="required")


async def test_reasoning_is_separate_from_the_text(client: FoundryAPIClient) -> None:
    answer = await client.complete("reason-aloud")
    assert (answer.reasoning, answer.content) == ("Six times seven.", "42")


@pytest.mark.parametrize("service", VERSIONS, indirect=True)
async def test_reasoning_of_a_known_reasoning_model(
    client: FoundryAPIClient, expected: Expected
) -> None:
    """2.2.1 separates it itself."""
    answer = await client.complete("reason-aloud", model=THINKER)
    reasoning = "" if expected.drops_reasoning else "Six times seven."
    assert (answer.reasoning, answer.content) == (reasoning, "42")
