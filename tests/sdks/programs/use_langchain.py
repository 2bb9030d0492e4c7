"""LangChain with the `langchain-openai` package.

`OpenAIEmbeddings` needs `check_embedding_ctx_length=False`, as it sends token numbers otherwise.
"""

from __future__ import annotations

from typing import Any

import openai
import pydantic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from served import (
    ADA,
    ANSWER,
    KEY,
    KEY_LIMITED,
    KEY_OF_ONE_MODEL,
    QUESTION,
    SUM,
    SUM_ANSWER,
    URL,
    WRONG_KEY,
)
from served import calculate as evaluate

CLIENT = "langchain-openai"
LIMITS = (
    "embeddings need `check_embedding_ctx_length=False`, or it sends numbers of tokens; the demo "
    "model calls only tools that it knows"
)


class Person(pydantic.BaseModel):
    """A person."""

    born: int
    languages: list[str]
    name: str


@tool
def calculate(expression: str) -> int:
    """Evaluate an arithmetic expression."""
    return evaluate(expression)


def connect(model: str = "demo", key: str = KEY, **options: Any) -> ChatOpenAI:
    arguments = {"temperature": 0, "max_retries": 0, **options}
    return ChatOpenAI(model=model, base_url=f"{URL}/v1", api_key=key, **arguments)


def check_invoke() -> None:
    """`invoke`"""
    answer = connect(include_response_headers=True).invoke(QUESTION)
    assert answer.content == ANSWER
    assert answer.usage_metadata is not None
    assert answer.response_metadata["headers"]["x-request-id"]


async def check_ainvoke() -> None:
    """`ainvoke`, `abatch`"""
    answers = await connect().abatch([QUESTION] * 3)
    assert {answer.content for answer in answers} == {ANSWER}
    assert (await connect().ainvoke(QUESTION)).content == ANSWER


def check_stream() -> None:
    """`stream`"""
    chunks = list(connect(stream_usage=True).stream(QUESTION))
    assert "".join(str(chunk.content) for chunk in chunks) == ANSWER
    assert any(chunk.usage_metadata for chunk in chunks)


def check_tools() -> None:
    """`bind_tools(strict=True)`"""
    model = connect().bind_tools([calculate], strict=True)
    messages: list[Any] = [HumanMessage(SUM)]
    answer = model.invoke(messages)
    messages.append(answer)
    for call in answer.tool_calls:
        result = calculate.invoke(call)
        assert isinstance(result, ToolMessage)
        messages.append(result)
    assert model.invoke(messages).content == SUM_ANSWER


def check_structured_output() -> None:
    """`with_structured_output`: `json_schema`, `json_mode`"""
    for method in ("json_schema", "json_mode"):
        model = connect("scripted").with_structured_output(Person, method=method)
        assert model.invoke("say-json") == Person(**ADA), method
    model = connect().with_structured_output(Person, method="json_schema")
    assert isinstance(model.invoke("Describe a person."), Person)


def check_structured_output_by_function_calling() -> None:
    """`function_calling`"""

    class calculate(pydantic.BaseModel):  # noqa: N801 - the name of the tool that the model knows
        """Evaluate an arithmetic expression."""

        expression: str

    model = connect().with_structured_output(calculate, method="function_calling")
    assert model.invoke(SUM).expression == "1234 * 5678"  # type: ignore[union-attr]


def check_responses() -> None:
    """`use_responses_api`"""
    model = connect(use_responses_api=True)
    assert model.invoke(QUESTION).text == ANSWER
    assert "".join(chunk.text for chunk in model.stream(QUESTION)) == ANSWER


def check_embeddings() -> None:
    """`OpenAIEmbeddings`"""
    embeddings = OpenAIEmbeddings(
        model="embedder",
        base_url=f"{URL}/v1",
        api_key=KEY,
        check_embedding_ctx_length=False,
    )
    assert len(embeddings.embed_documents(["one", "two"])) == 2
    assert embeddings.embed_query("one") == embeddings.embed_documents(["one"])[0]


def check_errors() -> None:
    """error classes"""
    for error, model in (
        (openai.AuthenticationError, connect(key=WRONG_KEY)),
        (openai.PermissionDeniedError, connect("scripted", KEY_OF_ONE_MODEL)),
        (openai.NotFoundError, connect("no-such-model")),
    ):
        try:
            model.invoke(QUESTION)
        except error:
            continue
        raise AssertionError(error)


def check_retries() -> None:
    """retries after `Retry-After`"""
    model, error = connect("scripted", KEY_LIMITED), None
    while error is None:
        try:
            model.invoke("say-hello")
        except openai.RateLimitError as caught:
            error = caught
    assert connect("scripted", KEY_LIMITED, max_retries=2).invoke("say-hello").content
