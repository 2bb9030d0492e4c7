"""Conversion of messages from and to LangChain."""

from __future__ import annotations

import pytest

from foundry_api.types.errors import InvalidRequest
from foundry_api.types.messages import Chunk, Completion, Timings, Usage

pytest.importorskip("langchain_core")

from langchain_core.messages import ChatMessage

from foundry_api.integrations.langchain_messages import to_ai_chunk, to_ai_message, to_messages


def test_refusal_is_in_additional_kwargs() -> None:
    answer = Completion(
        content="",
        refusal="I may not.",
        parsed=None,
        model="m",
        service="s",
        service_generation="sdk-2.1",
        finish_reason="stop",
        usage=Usage(),
        timings=Timings(None, 1.0, None),
        attempts=(),
    )
    assert to_ai_message(answer).additional_kwargs == {"refusal": "I may not."}
    assert to_ai_chunk(Chunk("", "m", refusal="No."), 0).additional_kwargs == {"refusal": "No."}


def test_error_names_an_unknown_role() -> None:
    with pytest.raises(InvalidRequest, match="a message has the role 'bot'"):
        to_messages([ChatMessage(role="bot", content="Hi")])
