"""OpenAI's Agents SDK, the `openai-agents` package.

`set_tracing_disabled(True)`, or it sends traces to OpenAI.
"""

from __future__ import annotations

from typing import Any

import openai
import pydantic
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from served import (
    ADA,
    ANSWER,
    KEY,
    KEY_OF_ONE_MODEL,
    QUESTION,
    SUM,
    SUM_ANSWER,
    URL,
    WRONG_KEY,
    calculate,
)

CLIENT = "openai-agents"
COLD = ModelSettings(temperature=0)

set_tracing_disabled(True)


class Person(pydantic.BaseModel):
    born: int
    languages: list[str]
    name: str


@function_tool(name_override="calculate")
def run_calculate(expression: str) -> str:
    """Evaluate an arithmetic expression."""
    return str(calculate(expression))


def connect(model: str = "demo", key: str = KEY, kind: Any = OpenAIChatCompletionsModel) -> Any:
    return kind(model=model, openai_client=AsyncOpenAI(base_url=f"{URL}/v1", api_key=key))


async def run(kind: Any) -> None:
    agent = Agent(name="a", model=connect(kind=kind), model_settings=COLD)
    assert (await Runner.run(agent, QUESTION)).final_output == ANSWER
    streamed = Runner.run_streamed(agent, QUESTION)
    async for _ in streamed.stream_events():
        pass
    assert streamed.final_output == ANSWER


async def run_with_tools(kind: Any) -> None:
    agent = Agent(name="a", model=connect(kind=kind), model_settings=COLD, tools=[run_calculate])
    assert (await Runner.run(agent, SUM)).final_output == SUM_ANSWER
    streamed = Runner.run_streamed(agent, SUM)
    async for _ in streamed.stream_events():
        pass
    assert streamed.final_output == SUM_ANSWER


async def run_with_output(kind: Any) -> None:
    agent = Agent(name="a", model=connect("scripted", kind=kind), output_type=Person)
    assert (await Runner.run(agent, "say-json")).final_output == Person(**ADA)


async def check_run() -> None:
    """`run`, `run_streamed`"""
    await run(OpenAIChatCompletionsModel)


async def check_tools() -> None:
    """`@function_tool`"""
    await run_with_tools(OpenAIChatCompletionsModel)


async def check_output_type() -> None:
    """`output_type`"""
    await run_with_output(OpenAIChatCompletionsModel)


async def check_responses() -> None:
    """Responses API: `run`, `run_streamed`"""
    await run(OpenAIResponsesModel)


async def check_responses_tools() -> None:
    """Responses API: `@function_tool`"""
    await run_with_tools(OpenAIResponsesModel)


async def check_responses_output_type() -> None:
    """Responses API: `output_type`"""
    await run_with_output(OpenAIResponsesModel)


async def check_errors() -> None:
    """error classes"""
    for error, model in (
        (openai.AuthenticationError, connect(key=WRONG_KEY)),
        (openai.PermissionDeniedError, connect("scripted", KEY_OF_ONE_MODEL)),
        (openai.NotFoundError, connect("no-such-model")),
    ):
        try:
            await Runner.run(Agent(name="a", model=model), QUESTION)
        except error:
            continue
        raise AssertionError(error)
