"""The demo model uses tools, through the real engine: a calculator and a clock."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api import Message

if TYPE_CHECKING:
    from foundry_api import Completion, FoundryAPIClient


def function(name: str, description: str, *, required: bool, parameter: str) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {parameter: {"type": "string"}},
        "required": [parameter] if required else [],
    }
    definition = {"name": name, "description": description, "parameters": schema}
    return {"type": "function", "function": definition}


TOOLS = [
    function(
        "calculate", "Evaluate an arithmetic expression.", required=True, parameter="expression"
    ),
    function("current_time", "Tell the time in a time zone.", required=False, parameter="timezone"),
]


async def said(client: FoundryAPIClient, *messages: Message) -> Completion[None]:
    return await client.chat(
        list(messages), model="demo", temperature=0, max_tokens=200, extra={"tools": TOOLS}
    )


@pytest.mark.parametrize(
    ("question", "wanted", "result", "answer"),
    [
        (
            "What is 1234 * 5678?",
            ("calculate", {"expression": "1234 * 5678"}),
            "7006652",
            "1234 * 5678 is 7006652.",
        ),
        ("What time is it?", ("current_time", {}), "14:05", "It is 14:05."),
        (
            "What time is it in Tokyo?",
            ("current_time", {"timezone": "Asia/Tokyo"}),
            "2026-11-25T14:05:33+09:00",
            "It is 14:05 in Tokyo.",
        ),
    ],
)
async def test_a_tool_is_called_and_its_result_becomes_the_answer(
    client: FoundryAPIClient,
    question: str,
    wanted: tuple[str, dict[str, str]],
    result: str,
    answer: str,
) -> None:
    asked = Message("user", question)
    first = await said(client, asked)
    [call] = first.tool_calls
    assert first.finish_reason == "tool_calls"
    assert (call.name, json.loads(call.arguments)) == wanted
    calling = Message("assistant", first.content, tool_calls=first.tool_calls)
    told = await said(client, asked, calling, Message("tool", result, tool_call_id=call.id))
    assert (told.finish_reason, told.content, told.tool_calls) == ("stop", answer, ())


async def test_what_needs_no_tool_is_answered_as_ever(client: FoundryAPIClient) -> None:
    told = await said(client, Message("user", "What is the capital of France?"))
    assert (told.content, told.tool_calls) == ("The capital of France is Paris.", ())


async def test_the_demo_model_says_that_it_calls_tools(client: FoundryAPIClient) -> None:
    [demo] = [model for model in await client.models.list() if model.alias == "demo"]
    assert demo.supports_tools is True
