"""LangChain with the `langchain-anthropic` package."""

from __future__ import annotations

from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from served import ANSWER, KEY, QUESTION, SUM, SUM_ANSWER, URL
from served import calculate as evaluate

CLIENT = "langchain-anthropic"


@tool
def calculate(expression: str) -> int:
    """Evaluate an arithmetic expression."""
    return evaluate(expression)


def connect() -> ChatAnthropic:
    return ChatAnthropic(model="demo", base_url=URL, api_key=KEY, temperature=0, max_tokens=100)


def check_invoke() -> None:
    """`invoke`"""
    assert connect().invoke(QUESTION).text == ANSWER


def check_stream() -> None:
    """`stream`"""
    assert "".join(chunk.text for chunk in connect().stream(QUESTION)) == ANSWER


def check_tools() -> None:
    """`bind_tools`"""
    model = connect().bind_tools([calculate])
    messages: list[Any] = [HumanMessage(SUM)]
    answer = model.invoke(messages)
    messages += [answer, *(calculate.invoke(call) for call in answer.tool_calls)]
    assert model.invoke(messages).text == SUM_ANSWER
