"""Tool calls and tool runs on the real engine."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api import (
    Chunk,
    FoundryAPIClient,
    InvalidRequest,
    MaxTurnsExceeded,
    ToolCallError,
    ToolMarkersMissing,
    ToolResult,
    ToolRun,
)
from support.scripted_model import build

if TYPE_CHECKING:
    from foundry_api.types.messages import ToolCall

MAX_TOKENS = 300


def calculate(expression: str) -> str:
    """Evaluate an arithmetic expression.

    Args:
        expression: Such as 6 * 7.
    """
    return f"{expression} is 42"


async def clock(city: str = "Bern") -> str:
    """Tell the time in a city."""
    return f"In {city} it is noon; say-hello"


async def test_a_run_calls_a_tool_and_returns_the_answer(client: FoundryAPIClient) -> None:
    run = await client.run_tools("call-calculator", [calculate, clock], max_tokens=MAX_TOKENS)
    assert run.content == "The tool has answered."
    assert [(call.name, call.arguments, call.value) for call in run.calls] == [
        ("calculate", {"expression": "6 * 7"}, "6 * 7 is 42")
    ]
    assert run.turns == 2
    assert run.usage.total_tokens > run.completion.usage.total_tokens > 0


async def test_two_calls_of_one_turn_are_both_answered(client: FoundryAPIClient) -> None:
    """The last result has the keyword of the next script."""
    run = await client.run_tools("call-two-tools", [calculate, clock], max_tokens=MAX_TOKENS)
    assert [call.name for call in run.calls] == ["calculate", "clock"]
    assert run.content == "Hello, world!"


async def test_a_second_turn_can_call_a_tool(client: FoundryAPIClient) -> None:
    async def clock(city: str = "Bern") -> str:
        """Tell the time, and send the model to the calculator."""
        return f"{city}: call-calculator"

    run = await client.run_tools("call-two-tools", [calculate, clock], max_tokens=MAX_TOKENS)
    assert [(call.name, call.turn) for call in run.calls] == [
        ("calculate", 1),
        ("clock", 1),
        ("calculate", 2),
    ]
    assert (run.content, run.turns) == ("The tool has answered.", 3)


async def test_a_run_can_be_continued(client: FoundryAPIClient) -> None:
    first = await client.run_tools("call-calculator", [calculate], max_tokens=MAX_TOKENS)
    turns = [*first.messages, {"role": "user", "content": "say-json"}]
    second = await client.run_tools(turns, [calculate], max_tokens=MAX_TOKENS)
    assert second.content.startswith('{"born"')
    assert len(second.messages) == len(first.messages) + 2


async def test_a_stream_has_text_calls_results_and_the_run(client: FoundryAPIClient) -> None:
    kinds: list[str] = []
    calls: list[ToolCall] = []
    async for item in client.stream_run_tools(
        "call-after-words", [calculate], max_tokens=MAX_TOKENS
    ):
        if isinstance(item, Chunk) and item.tool_calls:
            calls += item.tool_calls
            kinds.append("call")
        elif isinstance(item, Chunk) and item.content:
            kinds.append("text")
        elif isinstance(item, ToolResult | ToolRun):
            kinds.append(type(item).__name__)
    changes = [
        kind for kind, previous in zip(kinds, ["", *kinds], strict=False) if kind != previous
    ]
    assert changes == ["text", "call", "ToolResult", "text", "ToolRun"]
    assert [call.function.name for call in calls] == ["calculate"]


@pytest.mark.parametrize("keyword", ["call-malformed", "call-wrong-arguments", "call-unknown-tool"])
async def test_an_invalid_call_is_a_tool_call_error(client: FoundryAPIClient, keyword: str) -> None:
    """The engine requests the call once more and then fails."""
    with pytest.raises(ToolCallError) as caught:
        await client.complete(keyword, tools=[calculate], max_tokens=MAX_TOKENS, temperature=0)
    assert caught.value.status == 500
    # The message has no function names of the engine's source code.
    assert "(" not in caught.value.message.partition(":")[0]


async def test_a_truncated_call_is_a_tool_call_error(client: FoundryAPIClient) -> None:
    with pytest.raises(ToolCallError, match="interrupted"):
        await client.complete("call-calculator", tools=[calculate], max_tokens=20)


async def test_max_turns_stops_a_model_that_keeps_calling(client: FoundryAPIClient) -> None:
    def repeat() -> str:
        """Send the model back."""
        return "call-calculator"

    def calculate(expression: str) -> str:
        """Send the model back, too."""
        return f"{expression}: call-calculator"

    with pytest.raises(MaxTurnsExceeded) as caught:
        await client.run_tools(
            "call-calculator", [calculate, repeat], max_turns=3, max_tokens=MAX_TOKENS
        )
    assert caught.value.run
    assert len(caught.value.run.calls) == 2


async def test_response_model_and_tools_can_be_combined(client: FoundryAPIClient) -> None:
    """If the engine enforced the schema, the model could not call a tool."""
    options: dict[str, Any] = {"response_model": dict[str, Any], "tools": [calculate]}
    called = await client.complete("call-calculator", max_tokens=MAX_TOKENS, **options)
    assert [call.function.name for call in called.tool_calls] == ["calculate"]
    assert called.parsed is None
    answered = await client.complete("say-json", max_tokens=MAX_TOKENS, **options)
    assert answered.parsed["name"] == "Ada"


async def test_a_grammar_and_tools_exclude_each_other(client: FoundryAPIClient) -> None:
    with pytest.raises(InvalidRequest, match="grammar and tools"):
        await client.complete("say-hello", grammar='start: "yes"', tools=[calculate])


async def test_a_cancelled_run_leaves_no_request_in_flight(client: FoundryAPIClient) -> None:
    started = asyncio.Event()

    async def calculate(expression: str) -> str:
        """Never end."""
        started.set()
        await asyncio.Event().wait()
        return expression

    task = asyncio.create_task(
        client.run_tools("call-calculator", [calculate], max_tokens=MAX_TOKENS)
    )
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.limiter.statistics().in_flight == 0


@pytest.mark.usefixtures("engine")
async def test_a_model_without_markers_gets_the_tools_in_the_prompt(tmp_path: Path) -> None:
    """2.2.1 rejects tools for it, so they are described in the prompt and parsed from the text."""
    build(tmp_path / "plain", markers=False)
    home = Path(os.environ["FOUNDRY_TEST_HOME"])
    async with FoundryAPIClient(home=home, max_retries=0) as client:
        await client.models.register(tmp_path / "plain", alias="plain")
        run = await client.run_tools("write-two-hermes", [calculate, clock], model="plain")
        assert [call.name for call in run.calls] == ["calculate", "clock"]
        assert run.content == "Hello, world!"
        with pytest.raises(ToolMarkersMissing):
            await client.complete(
                "write-hermes", model="plain", tools=[calculate], tool_choice="required"
            )
        await client.models.unload("plain")
        await client.models.unregister("plain")
