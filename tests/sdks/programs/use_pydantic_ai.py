"""Pydantic AI, the `pydantic-ai-slim` package."""

from __future__ import annotations

from typing import Any

import pydantic
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
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

CLIENT = "pydantic-ai-slim"
LIMITS = "the demo model calls only tools that it knows, also for output"
COLD: Any = {"temperature": 0}


class Person(pydantic.BaseModel):
    born: int
    languages: list[str]
    name: str


class Sum(pydantic.BaseModel):
    expression: str


def connect(model: str = "demo", key: str = KEY) -> OpenAIChatModel:
    return OpenAIChatModel(model, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key=key))


def connect_responses(model: str = "demo") -> OpenAIResponsesModel:
    return OpenAIResponsesModel(model, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key=KEY))


def connect_anthropic() -> AnthropicModel:
    return AnthropicModel("demo", provider=AnthropicProvider(base_url=URL, api_key=KEY))


async def check_run() -> None:
    """`run`"""
    run = await Agent(connect(), model_settings=COLD).run(QUESTION)
    assert run.output == ANSWER
    assert run.usage.output_tokens > 0


async def check_stream() -> None:
    """`run_stream`"""
    async with Agent(connect(), model_settings=COLD).run_stream(QUESTION) as run:
        assert await run.get_output() == ANSWER


async def check_tools() -> None:
    """tools"""
    agent = Agent(connect(), model_settings=COLD, tools=[calculate])
    assert (await agent.run(SUM)).output == SUM_ANSWER
    async with agent.run_stream(SUM) as run:
        assert await run.get_output() == SUM_ANSWER


async def check_native_output() -> None:
    """`NativeOutput`"""
    agent = Agent(connect("scripted"), output_type=NativeOutput(Person))
    assert (await agent.run("say-json")).output == Person(**ADA)
    agent = Agent(connect(), output_type=NativeOutput(Person), model_settings=COLD)
    assert isinstance((await agent.run("Describe a person.")).output, Person)


async def check_prompted_output() -> None:
    """`PromptedOutput`"""
    agent = Agent(connect("scripted"), output_type=PromptedOutput(Person))
    assert (await agent.run("say-json")).output == Person(**ADA)


async def check_tool_output() -> None:
    """output by a tool"""
    # A call of this tool is the answer; the demo model knows how to call it.
    tool = ToolOutput(Sum, name="calculate", description="Evaluate an arithmetic expression.")
    agent = Agent(connect(), output_type=tool, model_settings=COLD)
    assert (await agent.run(SUM)).output == Sum(expression="1234 * 5678")


async def check_reasoning() -> None:
    """reasoning"""
    run = await Agent(connect("scripted")).run("reason-aloud")
    kinds = [part.part_kind for part in run.all_messages()[-1].parts]
    assert kinds == ["thinking", "text"], kinds


async def check_responses() -> None:
    """Responses API: `run`, `run_stream`, tools"""
    agent = Agent(connect_responses(), model_settings=COLD)
    assert (await agent.run(QUESTION)).output == ANSWER
    async with agent.run_stream(QUESTION) as run:
        assert await run.get_output() == ANSWER
    agent = Agent(connect_responses(), model_settings=COLD, tools=[calculate])
    assert (await agent.run(SUM)).output == SUM_ANSWER


async def check_responses_output() -> None:
    """Responses API: `NativeOutput`"""
    agent = Agent(connect_responses("scripted"), output_type=NativeOutput(Person))
    assert (await agent.run("say-json")).output == Person(**ADA)


async def check_anthropic() -> None:
    """Anthropic's API: `run`, `run_stream`, tools"""
    agent = Agent(connect_anthropic(), model_settings=COLD)
    assert (await agent.run(QUESTION)).output == ANSWER
    async with agent.run_stream(QUESTION) as run:
        assert await run.get_output() == ANSWER
    agent = Agent(connect_anthropic(), model_settings=COLD, tools=[calculate])
    assert (await agent.run(SUM)).output == SUM_ANSWER


async def check_errors() -> None:
    """error status"""
    for status, model in (
        (401, connect(key=WRONG_KEY)),
        (403, connect("scripted", KEY_OF_ONE_MODEL)),
        (404, connect("no-such-model")),
    ):
        try:
            await Agent(model).run(QUESTION)
        except ModelHTTPError as error:
            assert error.status_code == status
            continue
        raise AssertionError(status)
