"""Earlier tool calls become plain messages; all others are unchanged."""

from __future__ import annotations

from foundry_api.types.messages import FunctionCall, Message, ToolCall
from foundry_api.wire.chat.request import inline_tool_history

ASKED = Message("user", "What is 2 + 2?")
CALL = ToolCall("call_1", FunctionCall("add", '{"a": 2, "b": 2}'))


def test_calls_and_results_become_plain_messages() -> None:
    question, call, result = inline_tool_history(
        [ASKED, Message("assistant", tool_calls=(CALL,)), Message("tool", "4", (), "call_1")]
    )
    assert question is ASKED
    assert call == Message(
        "assistant", '<tool_call>{"name": "add", "arguments": {"a": 2, "b": 2}}</tool_call>'
    )
    assert result == Message("user", "add returned:\n4")


def test_text_with_calls_is_kept() -> None:
    (turn,) = inline_tool_history([Message("assistant", "Let me see.", tool_calls=(CALL, CALL))])
    assert turn.content.startswith("Let me see.\n<tool_call>")
    assert turn.content.count("</tool_call>") == 2


def test_result_without_its_call_is_kept() -> None:
    assert inline_tool_history([Message("tool", "4", (), "call_9")]) == (
        Message("user", "the tool returned:\n4"),
    )
