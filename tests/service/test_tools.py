"""Tools on the real engine, as a program of the user calls them."""

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

ENOUGH = 300


def calculate(expression: str) -> str:
    """Work out a sum.

    Args:
        expression: Such as 6 * 7.
    """
    return f"{expression} is 42"


async def clock(city: str = "Bern") -> str:
    """Tell the time in a city."""
    return f"In {city} it is noon; say-hello"


async def test_calls_are_made_and_answered(client: FoundryAPIClient) -> None:
    run = await client.run_tools("call-calculator", [calculate, clock], max_tokens=ENOUGH)
    assert run.content == "The tool has answered."
    assert [(call.name, call.arguments, call.value) for call in run.calls] == [
        ("calculate", {"expression": "6 * 7"}, "6 * 7 is 42")
    ]
    assert run.turns == 2
    assert run.usage.total_tokens > run.completion.usage.total_tokens > 0


async def test_two_calls_of_one_round_are_both_answered(client: FoundryAPIClient) -> None:
    """The last of the results names the next script."""
    run = await client.run_tools("call-two-tools", [calculate, clock], max_tokens=ENOUGH)
    assert [call.name for call in run.calls] == ["calculate", "clock"]
    assert run.content == "Hello, world!"


async def test_a_call_after_a_result_is_made_too(client: FoundryAPIClient) -> None:
    async def clock(city: str = "Bern") -> str:
        """Tell the time, and send the model to the calculator."""
        return f"{city}: call-calculator"

    run = await client.run_tools("call-two-tools", [calculate, clock], max_tokens=ENOUGH)
    assert [(call.name, call.turn) for call in run.calls] == [
        ("calculate", 1),
        ("clock", 1),
        ("calculate", 2),
    ]
    assert (run.content, run.turns) == ("The tool has answered.", 3)


async def test_a_run_is_gone_on_with(client: FoundryAPIClient) -> None:
    first = await client.run_tools("call-calculator", [calculate], max_tokens=ENOUGH)
    turns = [*first.messages, {"role": "user", "content": "say-json"}]
    second = await client.run_tools(turns, [calculate], max_tokens=ENOUGH)
    assert second.content.startswith('{"born"')
    assert len(second.messages) == len(first.messages) + 2


async def test_a_stream_of_a_run_has_text_results_and_the_run(client: FoundryAPIClient) -> None:
    kinds: list[str] = []
    calls: list[ToolCall] = []
    async for piece in client.stream_run_tools("call-after-words", [calculate], max_tokens=ENOUGH):
        if isinstance(piece, Chunk) and piece.tool_calls:
            calls += piece.tool_calls
            kinds.append("call")
        elif isinstance(piece, Chunk) and piece.content:
            kinds.append("text")
        elif isinstance(piece, ToolResult | ToolRun):
            kinds.append(type(piece).__name__)
    told = [kind for kind, before in zip(kinds, ["", *kinds], strict=False) if kind != before]
    assert told == ["text", "call", "ToolResult", "text", "ToolRun"]
    assert [call.function.name for call in calls] == ["calculate"]


@pytest.mark.parametrize("keyword", ["call-malformed", "call-wrong-arguments", "call-unknown-tool"])
async def test_what_the_engine_does_not_take_for_a_call_is_a_typed_error(
    client: FoundryAPIClient, keyword: str
) -> None:
    """It asks the model once more by itself, and then gives up."""
    with pytest.raises(ToolCallError) as caught:
        await client.complete(keyword, tools=[calculate], max_tokens=ENOUGH, temperature=0)
    assert caught.value.status == 500
    assert "(" not in caught.value.message.partition(":")[0]  # no name from its source


async def test_a_call_that_is_cut_is_a_typed_error(client: FoundryAPIClient) -> None:
    with pytest.raises(ToolCallError, match="interrupted"):
        await client.complete("call-calculator", tools=[calculate], max_tokens=20)


async def test_a_model_that_never_ends_to_call_is_stopped(client: FoundryAPIClient) -> None:
    def again() -> str:
        """Send the model back."""
        return "call-calculator"

    def calculate(expression: str) -> str:
        """Send the model back, too."""
        return f"{expression}: call-calculator"

    with pytest.raises(MaxTurnsExceeded) as caught:
        await client.run_tools(
            "call-calculator", [calculate, again], max_turns=3, max_tokens=ENOUGH
        )
    assert caught.value.run
    assert len(caught.value.run.calls) == 2


async def test_an_answer_with_a_form_may_be_a_call_instead(client: FoundryAPIClient) -> None:
    """The engine would let the model call no tool, were it kept to the form."""
    options: dict[str, Any] = {"response_model": dict[str, Any], "tools": [calculate]}
    called = await client.complete("call-calculator", max_tokens=ENOUGH, **options)
    assert [call.function.name for call in called.tool_calls] == ["calculate"]
    assert called.parsed is None
    answered = await client.complete("say-json", max_tokens=ENOUGH, **options)
    assert answered.parsed["name"] == "Ada"


async def test_a_grammar_leaves_no_room_for_tools(client: FoundryAPIClient) -> None:
    with pytest.raises(InvalidRequest, match="grammar and tools"):
        await client.complete("say-hello", grammar='start: "yes"', tools=[calculate])


async def test_a_cancelled_run_leaves_nothing_behind(client: FoundryAPIClient) -> None:
    started = asyncio.Event()

    async def calculate(expression: str) -> str:
        """Never end."""
        started.set()
        await asyncio.Event().wait()
        return expression

    task = asyncio.create_task(client.run_tools("call-calculator", [calculate], max_tokens=ENOUGH))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.limiter.statistics().in_flight == 0


@pytest.mark.usefixtures("engine")
async def test_a_model_without_markers_calls_tools_by_its_prompt(tmp_path: Path) -> None:
    """2.2.1 refuses tools for it; its prompt tells of them, and its calls come out of its text."""
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
