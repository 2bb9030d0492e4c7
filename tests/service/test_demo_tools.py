"""The demo model calls tools: a calculator and a clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from foundry_api import FoundryAPIClient

PRODUCT = 7006652


def calculate(expression: str) -> int:
    """Evaluate an arithmetic expression."""
    a, sign, b = expression.split()
    assert sign == "*"
    return int(a) * int(b)


async def current_time(timezone: str = "UTC") -> str:
    """Tell the time in a time zone."""
    return {"UTC": "2026-11-25 14:05", "Asia/Tokyo": "2026-11-25 23:05"}[timezone]


@pytest.mark.parametrize(
    ("question", "call", "answer"),
    [
        (
            "What is 1234 * 5678?",
            ("calculate", {"expression": "1234 * 5678"}),
            f"1234 * 5678 is {PRODUCT}.",
        ),
        ("What time is it?", ("current_time", {}), "It is 14:05."),
        (
            "What time is it in Tokyo?",
            ("current_time", {"timezone": "Asia/Tokyo"}),
            "It is 23:05 in Tokyo.",
        ),
    ],
)
async def test_a_tool_is_called_and_its_result_is_in_the_answer(
    client: FoundryAPIClient, question: str, call: tuple[str, dict[str, Any]], answer: str
) -> None:
    run = await client.run_tools(question, [calculate, current_time], model="demo", temperature=0)
    assert [(tool_call.name, tool_call.arguments) for tool_call in run.calls] == [call]
    assert (run.content, run.turns) == (answer, 2)


async def test_a_question_without_a_tool_is_answered(client: FoundryAPIClient) -> None:
    question = "What is the capital of France?"
    run = await client.run_tools(question, [calculate, current_time], model="demo", temperature=0)
    assert (run.content, run.calls) == ("The capital of France is Paris.", ())


async def test_the_demo_model_supports_tools(client: FoundryAPIClient) -> None:
    [demo] = [model for model in await client.models.list() if model.alias == "demo"]
    assert demo.supports_tools is True
