"""The chat model for LangChain, with the real langchain-core and the real engine."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool as lc_tool
from pydantic import BaseModel

from conftest import HOME
from foundry_api import (
    FoundryAPIClient,
    FoundryClient,
    FunctionCall,
    InvalidRequest,
    Message,
    StructuredOutputError,
    ToolCall,
)
from foundry_api.integrations.langchain import ChatFoundryLocal
from foundry_api.integrations.langchain_messages import to_messages, to_tool_choice
from support.scripted_model import prompt_tokens, script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from foundry_api.engine.endpoint import Endpoint

HELLO = script("say-hello").text


@pytest.fixture(autouse=True)
def no_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a developer's settings, LangChain may send every call to a cloud service."""
    for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
        monkeypatch.setenv(name, "false")


@pytest.fixture
async def model(engine: Endpoint) -> AsyncIterator[ChatFoundryLocal]:
    home = Path(os.environ[HOME])
    with FoundryClient(home=home) as client:
        async with FoundryAPIClient(home=home) as async_client:
            yield ChatFoundryLocal(model="scripted", client=client, async_client=async_client)


class Tokens(BaseCallbackHandler):
    """Records the tokens that LangChain reports."""

    def __init__(self) -> None:
        self.tokens: list[str] = []

    def on_llm_new_token(self, token: str, **_: object) -> None:
        self.tokens.append(token)


def check(answer: BaseMessage, prompt: list[dict[str, str]]) -> None:
    assert isinstance(answer, AIMessage)
    tokens = prompt_tokens(prompt)
    assert answer.text == HELLO
    assert answer.usage_metadata == {
        "input_tokens": tokens,
        "output_tokens": len(HELLO),
        "total_tokens": tokens + len(HELLO),
    }
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.response_metadata["model_name"] == "scripted:1"


PROMPT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "say-hello"}]


def test_first_call_imports_no_tracing() -> None:
    # In several threads at once that import failed.
    program = """
import sys
from foundry_api import FoundryError
from foundry_api.integrations.langchain import ChatFoundryLocal
before = set(sys.modules)
try:
    ChatFoundryLocal(base_url="http://127.0.0.1:1", model="fake", max_retries=0).invoke("Hi")
except FoundryError:
    new = set(sys.modules) - before
    print([name for name in new if name.startswith(("langsmith", "langchain_core.tracers"))])
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert ran.stdout.strip() == "[]"


async def test_answer_has_usage_and_finish_reason(model: ChatFoundryLocal) -> None:
    messages = [SystemMessage("Be brief."), HumanMessage("say-hello")]
    check(model.invoke(messages), PROMPT)
    check(await model.ainvoke(messages), PROMPT)


async def test_stream_adds_up_to_the_answer(model: ChatFoundryLocal) -> None:
    blocking, asynchronous = Tokens(), Tokens()
    messages = [SystemMessage("Be brief."), HumanMessage("say-hello")]
    pieces = list(model.stream(messages, config={"callbacks": [blocking]}))
    apieces = [
        piece async for piece in model.astream(messages, config={"callbacks": [asynchronous]})
    ]

    for parts, tokens in ((pieces, blocking.tokens), (apieces, asynchronous.tokens)):
        assert [part.text for part in parts][: len(HELLO)] == list(HELLO)
        assert "".join(tokens) == HELLO
        merged = AIMessageChunk("")
        for part in parts:
            merged += part  # type: ignore[assignment] # chunks add up to a chunk
        check(merged, PROMPT)


async def test_options_of_the_model_and_of_the_call(
    model: ChatFoundryLocal,
) -> None:
    assert model.invoke("say-stop", stop=["STOP"]).text == "one two "
    assert model.bind(max_tokens=5).invoke("say-hello").text == HELLO[:5]
    own = ChatFoundryLocal(
        model="scripted", client=model.client, stop_sequences=["STOP"], max_tokens=3, seed=7
    )
    cut = own.invoke("say-stop")
    assert (cut.text, cut.response_metadata["finish_reason"]) == ("one", "length")
    with pytest.raises(InvalidRequest) as caught:
        own.invoke("Hello", temperature=3)
    assert caught.value.field == "temperature"


async def test_reasoning_is_a_content_block(model: ChatFoundryLocal) -> None:
    thought = {"type": "reasoning", "reasoning": "Six times seven."}
    answer = model.invoke("say-think")
    assert answer.text == "42"
    assert thought in answer.content_blocks

    merged = AIMessageChunk("")
    for piece in model.stream("say-think"):
        merged += piece  # type: ignore[assignment] # as above
    assert merged.text == "42"
    assert thought in merged.content_blocks


async def test_chain_with_prompt_and_parser(model: ChatFoundryLocal) -> None:
    prompt = ChatPromptTemplate([("system", "Be {how}."), ("user", "{what}")])
    chain = prompt | model | StrOutputParser()

    assert chain.invoke({"how": "brief", "what": "say-hello"}) == HELLO
    inputs = [{"how": "brief", "what": keyword} for keyword in ("say-hello", "say-json")]
    assert chain.batch(inputs) == [HELLO, script("say-json").text]
    assert await chain.abatch(inputs) == [HELLO, script("say-json").text]


class City(BaseModel):
    """The type of the answers."""

    name: Literal["Rome", "Paris"]


@dataclass
class Native:
    """A type that LangChain does not know."""

    name: Literal["Rome", "Paris"]


async def test_structured_output(model: ChatFoundryLocal) -> None:
    typed = model.with_structured_output(City)
    for city in (typed.invoke("say-json"), await typed.ainvoke("say-json")):
        assert isinstance(city, City)
    *_, last = typed.stream("say-json")
    assert isinstance(last, City)

    schema = City.model_json_schema()
    function = {"type": "function", "function": {"name": "tell", "parameters": schema}}
    for description in (schema, function, function["function"]):
        named = model.with_structured_output(description, method="json_schema", strict=True)
        assert named.invoke("say-json")["name"] in {"Rome", "Paris"}
    native = model.with_structured_output(Native).invoke("say-json")
    assert isinstance(native, Native)
    with pytest.raises(InvalidRequest, match="temprature"):
        model.with_structured_output(City, temprature=0)


async def test_invalid_structured_output(
    model: ChatFoundryLocal,
) -> None:
    short = ChatFoundryLocal(
        model="scripted", max_tokens=2, client=model.client, async_client=model.async_client
    )
    with pytest.raises(StructuredOutputError):
        short.with_structured_output(City).invoke("say-json")
    raw = short.with_structured_output(City, include_raw=True)
    for output in (raw.invoke("say-json"), await raw.ainvoke("say-json")):
        assert (output["raw"].text, output["parsed"]) == ('{"', None)
        assert isinstance(output["parsing_error"], StructuredOutputError)

    output = model.with_structured_output(City, include_raw=True).invoke("say-json")
    assert City.model_validate_json(output["raw"].text) == output["parsed"]
    assert output["parsing_error"] is None


@lc_tool
def calculate(expression: str) -> str:
    """Work out a sum."""
    return f"{expression} is 42, say-hello"


CALLED = {
    "name": "calculate",
    "args": {"expression": "6 * 7"},
    "type": "tool_call",
}


async def test_tool_calls_and_results(model: ChatFoundryLocal) -> None:
    bound = model.bind_tools([calculate], max_tokens=200)
    question = HumanMessage("call-calculator")
    for answer in (bound.invoke([question]), await bound.ainvoke([question])):
        (call,) = answer.tool_calls
        assert {**call, "id": None} == {**CALLED, "id": None}
        assert answer.response_metadata["finish_reason"] == "tool_calls"

    result = calculate.invoke(answer.tool_calls[0])
    assert isinstance(result, ToolMessage)
    assert bound.invoke([question, answer, result]).text == HELLO


async def test_tool_calls_of_a_stream(model: ChatFoundryLocal) -> None:
    bound = model.bind_tools([calculate, clock], tool_choice="any", max_tokens=200)
    merged = AIMessageChunk("")
    for piece in bound.stream("call-two-tools"):
        merged += piece  # type: ignore[assignment] # as above
    assert [call["name"] for call in merged.tool_calls] == ["calculate", "clock"]
    assert merged.tool_calls[1]["args"] == {"city": "Zürich"}


def clock(city: str) -> str:
    """Tell the time.

    Args:
        city: Where.
    """
    return city


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, None),
        (False, None),
        (True, "required"),
        ("any", "required"),
        ("required", "required"),
        ("none", "none"),
        ("calculate", "calculate"),
        ({"type": "function", "function": {"name": "calculate"}}, "calculate"),
    ],
)
def test_tool_choice(choice: object, expected: str | None) -> None:
    assert to_tool_choice(choice) == expected  # type: ignore[arg-type] # all are accepted


async def test_leaving_an_async_stream_frees_the_engine(model: ChatFoundryLocal) -> None:
    async for _ in model.astream("say-slowly"):
        break
    assert model.async_client is not None
    while model.async_client.limiter.statistics().in_flight:  # noqa: ASYNC110 - it sets no event
        await asyncio.sleep(0.01)


def test_messages_are_converted() -> None:
    call = {"name": "add", "args": {"a": 1}, "id": "c1", "type": "tool_call"}
    messages: list[BaseMessage] = [
        SystemMessage("Be brief."),
        HumanMessage([{"type": "text", "text": "1 + "}, {"type": "text", "text": "1?"}]),
        AIMessage("", tool_calls=[call]),
        ToolMessage("2", tool_call_id="c1"),
        ChatMessage(role="assistant", content="2"),
    ]
    assert to_messages(messages) == [
        Message("system", "Be brief."),
        Message("user", "1 + 1?"),
        Message("assistant", tool_calls=(ToolCall("c1", FunctionCall("add", '{"a": 1}')),)),
        Message("tool", "2", tool_call_id="c1"),
        Message("assistant", "2"),
    ]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (HumanMessage([{"type": "image_url", "image_url": {"url": "data:"}}]), "'image_url'"),
        (FunctionMessage(name="f", content=""), "'function'"),
    ],
)
def test_error_names_unsupported_content(message: BaseMessage, error: str) -> None:
    with pytest.raises(InvalidRequest, match=error):
        to_messages([message])


def test_api_key_is_not_shown() -> None:
    model = ChatFoundryLocal(base_url="http://127.0.0.1:1", api_key="secret")
    assert "secret" not in repr(model) + str(model.model_dump())
    with pytest.raises(ValueError, match="extra"):
        ChatFoundryLocal(modle="demo")


def test_program_of_the_documentation(own_home: Path) -> None:
    """On a machine without a running service."""
    page = Path(__file__).parents[1] / "docs" / "integrations.md"
    (source,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", source],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    france, italy, japan = done.stdout.splitlines()
    assert "Paris" in france
    assert "Rome" in italy
    assert japan.startswith("City(name='")
