"""The `anthropic` package.

Its `base_url` is the gateway's address without `/v1`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import anthropic
import pydantic
from anthropic import Anthropic, AsyncAnthropic
from served import (
    ANSWER,
    CALCULATE_SCHEMA,
    KEY,
    KEY_LIMITED,
    KEY_OF_ONE_MODEL,
    QUESTION,
    SUM,
    SUM_ANSWER,
    URL,
    URL_WITHOUT_SERVICE,
    WRONG_KEY,
    calculate,
)

if TYPE_CHECKING:
    from anthropic.types.messages import MessageBatch

CLIENT = "anthropic"
COLD: Any = {"extra_body": {"temperature": 0}}  # the package has no argument for it
ASK: Any = [{"role": "user", "content": QUESTION}]
CALCULATE: Any = {
    "name": "calculate",
    "description": "Evaluate an arithmetic expression.",
    "input_schema": CALCULATE_SCHEMA,
}


class Person(pydantic.BaseModel):
    born: int
    languages: list[str]
    name: str


def connect(key: str = KEY, url: str = URL, retries: int = 0) -> Anthropic:
    return Anthropic(base_url=url, api_key=key, max_retries=retries)


def say(text: str) -> Any:
    return [{"role": "user", "content": text}]


def check_messages() -> None:
    """messages"""
    answer = connect().messages.create(model="demo", max_tokens=100, messages=ASK, **COLD)
    assert answer.content[0].type == "text"
    assert answer.content[0].text == ANSWER
    assert answer.stop_reason == "end_turn"
    assert answer.usage.output_tokens > 0
    assert (answer._request_id or "").startswith("req_")


async def check_async_messages() -> None:
    """messages (async)"""
    async with AsyncAnthropic(base_url=URL, auth_token=KEY, api_key=None) as client:
        answer = await client.messages.create(model="demo", max_tokens=100, messages=ASK, **COLD)
    assert answer.content[0].type == "text"
    assert answer.content[0].text == ANSWER


def check_stream() -> None:
    """`messages.stream`"""
    with connect().messages.stream(model="demo", max_tokens=100, messages=ASK, **COLD) as stream:
        assert "".join(stream.text_stream) == ANSWER
        final = stream.get_final_message()
    assert final.stop_reason == "end_turn"


def check_raw_stream() -> None:
    """`stream=True`"""
    stream = connect().messages.create(
        model="demo", max_tokens=100, messages=ASK, **COLD, stream=True
    )
    kinds = [event.type for event in stream]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")


def check_tools() -> None:
    """tools"""
    client = connect()
    messages = say(SUM)
    request: Any = {"model": "demo", "max_tokens": 100, "tools": [CALCULATE], **COLD}
    answer = client.messages.create(messages=messages, **request)
    assert answer.stop_reason == "tool_use"
    messages.append({"role": "assistant", "content": answer.content})
    results = [
        {
            "type": "tool_result",
            "tool_use_id": block.id,
            "content": str(calculate(**block.input)),
        }
        for block in answer.content
        if block.type == "tool_use"
    ]
    messages.append({"role": "user", "content": results})
    answer = client.messages.create(messages=messages, **request)
    assert answer.content[0].type == "text"
    assert answer.content[0].text == SUM_ANSWER


def check_streamed_tools() -> None:
    """streamed tools"""
    with connect().messages.stream(
        model="scripted", max_tokens=200, messages=say("call-calculator"), tools=[CALCULATE]
    ) as stream:
        final = stream.get_final_message()
    [block] = final.content
    assert block.type == "tool_use"
    assert block.input == {"expression": "6 * 7"}


def check_tool_runner() -> None:
    """`tool_runner`"""

    @anthropic.beta_tool(name="calculate")
    def run_calculate(expression: str) -> str:
        """Evaluate an arithmetic expression."""
        return str(calculate(expression))

    runner = connect().beta.messages.tool_runner(
        model="demo", max_tokens=100, tools=[run_calculate], messages=say(SUM), **COLD
    )
    assert runner.until_done().content[0].text == SUM_ANSWER


def check_parse() -> None:
    """`messages.parse`"""
    answer = connect().messages.parse(
        model="scripted", max_tokens=200, messages=say("say-json"), output_format=Person
    )
    assert answer.parsed_output == Person(born=1815, languages=["en", "fr"], name="Ada")


def check_system_and_parts() -> None:
    """`system`, content blocks, `cache_control`"""
    cached: Any = {"type": "ephemeral"}
    answer = connect().messages.create(
        model="demo",
        max_tokens=100,
        system=[{"type": "text", "text": "Be brief.", "cache_control": cached}],
        messages=[
            {
                "role": "user",
                "content": [{"type": "text", "text": QUESTION, "cache_control": cached}],
            }
        ],
        **COLD,
        metadata={"user_id": "somebody"},
    )
    assert answer.content[0].type == "text"


def check_thinking() -> None:
    """thinking"""
    answer = connect().messages.create(
        model="scripted",
        max_tokens=2000,
        messages=say("reason-aloud"),
        thinking={"type": "enabled", "budget_tokens": 1024},
    )
    assert [block.type for block in answer.content] == ["thinking", "text"]


def check_count_tokens() -> None:
    """`count_tokens`"""
    assert connect().messages.count_tokens(model="demo", messages=ASK).input_tokens > 0


def make_request(name: str, **params: Any) -> Any:
    request = {"model": "demo", "max_tokens": 100, "messages": ASK, **COLD["extra_body"], **params}
    return {"custom_id": name, "params": request}


def wait_for_end(client: Anthropic, batch: MessageBatch) -> dict[str, Any]:
    """Wait until a batch has ended, and return its results by the ids of the requests."""
    while client.messages.batches.retrieve(batch.id).processing_status != "ended":
        time.sleep(0.2)
    return {line.custom_id: line.result for line in client.messages.batches.results(batch.id)}


def check_batches() -> None:
    """message batches"""
    client = connect()
    batch = client.messages.batches.create(
        requests=[make_request("good"), make_request("bad", model="no-such-model")]
    )
    results = wait_for_end(client, batch)
    assert results["good"].message.content[0].text == ANSWER
    assert results["bad"].error.error.type == "not_found_error"
    batch = client.messages.batches.retrieve(batch.id)
    counts = batch.request_counts
    assert (counts.succeeded, counts.errored, counts.processing) == (1, 1, 0)
    assert batch.ended_at is not None
    assert batch.created_at <= batch.ended_at < batch.expires_at
    other = client.messages.batches.create(requests=[make_request("good")])
    wait_for_end(client, other)
    ids = [one.id for one in client.messages.batches.list(limit=1)]
    assert ids[:2] == [other.id, batch.id]
    deleted = [client.messages.batches.delete(name) for name in ids[:2]]
    assert {one.type for one in deleted} == {"message_batch_deleted"}


async def check_async_batches() -> None:
    """a cancelled message batch (async)"""
    endless = [
        make_request(str(number), model="scripted", max_tokens=100_000, messages=say("say-forever"))
        for number in range(20)
    ]
    async with AsyncAnthropic(base_url=URL, api_key=KEY, max_retries=0) as client:
        batches = client.messages.batches
        batch = await batches.create(requests=endless)
        cancelled = await batches.cancel(batch.id)
        assert cancelled.cancel_initiated_at is not None
        while batch.processing_status != "ended":
            await asyncio.sleep(0.2)
            batch = await batches.retrieve(batch.id)
        results = [line.result.type async for line in await batches.results(batch.id)]
    assert results == ["canceled"] * len(endless)
    assert batch.request_counts.canceled == len(endless)


def check_models() -> None:
    """models"""
    client = connect()
    names = {model.id for model in client.models.list()}
    assert {"demo", "scripted"} <= names
    assert client.models.retrieve("demo").id == "demo"


def refuse(error: type[anthropic.APIStatusError], client: Anthropic, **arguments: Any) -> Any:
    """Make a call that must fail with a class of errors; return the error."""
    request = {"model": "demo", "max_tokens": 100, "messages": ASK, **arguments}
    try:
        client.messages.create(**request)
    except anthropic.APIStatusError as caught:
        assert type(caught) is error, caught
        assert caught.request_id
        return caught
    raise AssertionError("the call was answered")


def check_errors() -> None:
    """error classes"""
    refuse(anthropic.AuthenticationError, connect(WRONG_KEY))
    refuse(anthropic.PermissionDeniedError, connect(KEY_OF_ONE_MODEL), model="scripted")
    refuse(anthropic.NotFoundError, connect(), model="no-such-model")
    refuse(anthropic.BadRequestError, connect(), max_tokens=0)
    error = refuse(anthropic.ServiceUnavailableError, connect(url=URL_WITHOUT_SERVICE))
    assert error.status_code == 503
    error = refuse(
        anthropic.DeadlineExceededError,
        connect(retries=2),
        model="scripted",
        messages=say("say-at-a-crawl"),
        extra_headers={"X-Request-Timeout": "0.5"},
    )
    assert error.status_code == 504
    assert error.response.request.headers["x-stainless-retry-count"] == "0"


def check_retries() -> None:
    """retries after `Retry-After`"""
    client = connect(KEY_LIMITED)
    error = None
    request: Any = {"model": "scripted", "max_tokens": 20, "messages": say("say-hello")}
    while error is None:
        try:
            client.messages.create(**request)
        except anthropic.RateLimitError as caught:
            error = caught
    raw = client.with_options(max_retries=1).messages.with_raw_response.create(**request)
    assert raw.retries_taken == 1
