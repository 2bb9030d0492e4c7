"""The `openai` package.

`AzureOpenAI` works for chats, completions, embeddings and transcriptions; for its other calls use
`OpenAI` with `base_url="http://127.0.0.1:5270/openai/v1/"`.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pydantic
from openai import AsyncOpenAI, AzureOpenAI, OpenAI
from served import (
    ADA,
    ANSWER,
    CALCULATE_SCHEMA,
    HELLO,
    KEY,
    KEY_LIMITED,
    KEY_OF_ONE_MODEL,
    QUESTION,
    SPEECH,
    SUM,
    SUM_ANSWER,
    URL,
    URL_WITHOUT_SERVICE,
    WRONG_KEY,
    calculate,
)

CLIENT = "openai"
ASK: Any = [{"role": "user", "content": QUESTION}]
CALCULATE: Any = {
    "type": "function",
    "function": {
        "name": "calculate",
        "description": "Evaluate an arithmetic expression.",
        "parameters": {**CALCULATE_SCHEMA, "additionalProperties": False},
        "strict": True,
    },
}


class Person(pydantic.BaseModel):
    born: int
    languages: list[str]
    name: str


def connect(key: str = KEY, url: str = URL, retries: int = 0) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=retries)


def say(text: str) -> Any:
    return [{"role": "user", "content": text}]


def check_chat() -> None:
    """chat"""
    answer = connect().chat.completions.create(model="demo", messages=ASK, temperature=0)
    assert answer.choices[0].message.content == ANSWER
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0
    assert (answer._request_id or "").startswith("req_")


async def check_async_chat() -> None:
    """chat (async)"""
    async with AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY) as client:
        answers = await asyncio.gather(
            *(
                client.chat.completions.create(model="demo", messages=ASK, temperature=0)
                for _ in range(4)
            )
        )
    assert {answer.choices[0].message.content for answer in answers} == {ANSWER}


def check_stream() -> None:
    """stream"""
    stream = connect().chat.completions.create(
        model="demo",
        messages=ASK,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None


async def check_async_stream() -> None:
    """stream (async)"""
    async with (
        AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY) as client,
        client.chat.completions.stream(model="demo", messages=ASK, temperature=0) as stream,
    ):
        text = "".join([event.delta async for event in stream if event.type == "content.delta"])
        final = await stream.get_final_completion()
    assert text == final.choices[0].message.content == ANSWER


def check_tools() -> None:
    """tools (`strict`)"""
    client = connect()
    messages = say(SUM)
    answer = client.chat.completions.create(
        model="demo", messages=messages, tools=[CALCULATE], temperature=0
    )
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    messages.append(message)
    for call in message.tool_calls or ():
        assert call.type == "function"
        result = calculate(**json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": str(result)})
    answer = client.chat.completions.create(
        model="demo", messages=messages, tools=[CALCULATE], temperature=0
    )
    assert answer.choices[0].message.content == SUM_ANSWER


def check_streamed_tools() -> None:
    """streamed tools"""
    with connect().chat.completions.stream(
        model="scripted", messages=say("call-calculator"), tools=[CALCULATE]
    ) as stream:
        final = stream.get_final_completion()
    [call] = final.choices[0].message.tool_calls or ()
    assert call.function.parsed_arguments == {"expression": "6 * 7"}


def check_tool_choices() -> None:
    """`tool_choice`"""
    choices: list[Any] = [
        "required",
        {"type": "function", "function": {"name": "calculate"}},
        {
            "type": "allowed_tools",
            "allowed_tools": {
                "mode": "auto",
                "tools": [{"type": "function", "function": {"name": "calculate"}}],
            },
        },
    ]
    for choice in choices:
        answer = connect().chat.completions.create(
            model="scripted",
            messages=say("call-calculator"),
            tools=[CALCULATE],
            tool_choice=choice,
        )
        assert answer.choices[0].message.tool_calls, choice


def check_parse() -> None:
    """`parse`"""
    answer = connect().chat.completions.parse(
        model="scripted", messages=say("say-json"), response_format=Person
    )
    assert answer.choices[0].message.parsed == Person(**ADA)
    answer = connect().chat.completions.parse(
        model="demo", messages=say("Describe a person."), response_format=Person, temperature=0
    )
    assert isinstance(answer.choices[0].message.parsed, Person)


def check_json_object() -> None:
    """`json_object`"""
    answer = connect().chat.completions.create(
        model="scripted",
        messages=say("say-json"),
        response_format={"type": "json_object"},
    )
    assert json.loads(answer.choices[0].message.content or "") == ADA


def check_several_choices() -> None:
    """`n`"""
    answer = connect().chat.completions.create(model="demo", messages=ASK, n=3, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def check_completions() -> None:
    """completions"""
    answer = connect().completions.create(model="scripted", prompt="say-hello", max_tokens=50)
    assert answer.choices[0].text == HELLO


def check_responses() -> None:
    """responses"""
    client = connect()
    answer = client.responses.create(model="demo", input=QUESTION, temperature=0)
    assert answer.output_text == ANSWER
    second = client.responses.create(
        model="demo", input="hello", previous_response_id=answer.id, temperature=0
    )
    assert second.previous_response_id == answer.id
    assert client.responses.retrieve(answer.id).output_text == ANSWER
    assert len(list(client.responses.input_items.list(answer.id))) == 1
    client.responses.delete(answer.id)


def check_streamed_responses() -> None:
    """streamed responses"""
    with connect().responses.stream(model="demo", input=QUESTION, temperature=0) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == ANSWER
    assert [event.sequence_number for event in events] == list(range(len(events)))


def check_responses_tools() -> None:
    """responses with tools"""
    client = connect()
    function = CALCULATE["function"]
    tools: Any = [{"type": "function", **function}]
    items: Any = say(SUM)
    answer = client.responses.create(model="demo", input=items, tools=tools, temperature=0)
    items += answer.output
    for item in answer.output:
        if item.type == "function_call":
            result = str(calculate(**json.loads(item.arguments)))
            items.append(
                {"type": "function_call_output", "call_id": item.call_id, "output": result}
            )
    answer = client.responses.create(model="demo", input=items, tools=tools, temperature=0)
    assert answer.output_text == SUM_ANSWER


def check_responses_parse() -> None:
    """`responses.parse`"""
    answer = connect().responses.parse(model="scripted", input="say-json", text_format=Person)
    assert answer.output_parsed == Person(**ADA)


def check_background_responses() -> None:
    """responses in the background, `cancel`"""
    client = connect()
    answer = client.responses.create(model="scripted", input="say-forever", background=True)
    assert client.responses.cancel(answer.id).status == "cancelled"


def check_input_tokens() -> None:
    """`responses.input_tokens.count`"""
    counted = connect().responses.input_tokens.count(model="demo", input=QUESTION)
    assert (counted.object, counted.input_tokens > 0) == ("response.input_tokens", True)


def check_files_and_batches() -> None:
    """files, batches"""
    client = connect()
    body = {"model": "scripted", "messages": say("say-hello")}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    file = client.files.create(file=("in.jsonl", json.dumps(line).encode()), purpose="batch")
    assert client.files.retrieve(file.id).filename == "in.jsonl"
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    while batch.status not in {"completed", "failed"}:
        batch = client.batches.retrieve(batch.id)
    assert batch.output_file_id is not None
    [answer] = client.files.content(batch.output_file_id).text.splitlines()
    message = json.loads(answer)["response"]["body"]["choices"][0]["message"]
    assert message["content"] == HELLO
    for one in client.files.list():
        assert client.files.delete(one.id).deleted


def check_embeddings() -> None:
    """embeddings (base64, floats)"""
    client = connect()
    packed = client.embeddings.create(model="embedder", input=["one", "two"])
    plain = client.embeddings.create(model="embedder", input="one", encoding_format="float")
    assert [item.index for item in packed.data] == [0, 1]
    assert packed.data[0].embedding == plain.data[0].embedding
    assert packed.usage.total_tokens > 0


def check_models() -> None:
    """models"""
    client = connect()
    names = {model.id for model in client.models.list()}
    assert {"demo", "scripted"} <= names
    for name in names:
        assert client.models.retrieve(name).id == name


def check_transcription() -> None:
    """transcription (stream, text)"""
    client = connect()
    path = SPEECH / "paris.wav"
    answer = client.audio.transcriptions.create(model="transcriber", file=path, language="en")
    assert answer.text
    with path.open("rb") as file:
        text = client.audio.transcriptions.create(
            model="transcriber", file=file, language="en", response_format="text"
        )
    assert text == answer.text + "\n"
    stream = client.audio.transcriptions.create(
        model="transcriber", file=path, language="en", stream=True
    )
    assert list(stream)[-1].type == "transcript.text.done"


def check_raw_responses() -> None:
    """`with_raw_response`, `with_streaming_response`"""
    chat = connect().chat.completions
    raw = chat.with_raw_response.create(model="demo", messages=ASK, temperature=0)
    assert raw.parse().choices[0].message.content == ANSWER
    assert raw.headers["x-request-id"] == raw.request_id
    assert int(raw.headers["openai-processing-ms"]) >= 0
    with chat.with_streaming_response.create(model="demo", messages=ASK, stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


def check_azure() -> None:
    """`/openai/v1`, as of Azure"""
    client = OpenAI(base_url=f"{URL}/openai/v1/", api_key=KEY)
    answer = client.chat.completions.create(model="demo", messages=ASK, temperature=0)
    assert answer.choices[0].message.content == ANSWER


def check_azure_deployments() -> None:
    """`AzureOpenAI`"""
    client = AzureOpenAI(azure_endpoint=URL, api_key=KEY, api_version="2024-10-21")
    answer = client.chat.completions.create(model="demo", messages=ASK, temperature=0)
    assert answer.choices[0].message.content == ANSWER


def refuse(error: type[openai.APIStatusError], client: OpenAI, **arguments: Any) -> Any:
    """Make a call that must fail with a class of errors; return the error."""
    request = {"model": "demo", "messages": ASK, **arguments}
    try:
        client.chat.completions.create(**request)
    except openai.APIStatusError as caught:
        assert type(caught) is error, caught
        assert caught.request_id
        return caught
    raise AssertionError("the call was answered")


def check_errors() -> None:
    """error classes"""
    error = refuse(openai.AuthenticationError, connect(WRONG_KEY))
    assert error.code == "invalid_api_key"
    error = refuse(openai.PermissionDeniedError, connect(KEY_OF_ONE_MODEL), model="scripted")
    assert error.code == "model_not_allowed"
    error = refuse(openai.NotFoundError, connect(), model="no-such-model")
    assert (error.code, error.param) == ("model_not_found", "model")
    error = refuse(openai.BadRequestError, connect(), logprobs=True)
    assert error.param == "logprobs"
    error = refuse(
        openai.UnprocessableEntityError,
        connect(retries=2),
        model="scripted",
        messages=say("call-wrong-arguments"),
        tools=[CALCULATE],
    )
    assert error.code == "invalid_tool_call"
    error = refuse(openai.InternalServerError, connect(url=URL_WITHOUT_SERVICE))
    assert (error.status_code, error.code) == (503, "upstream_unavailable")
    error = refuse(
        openai.InternalServerError,
        connect(retries=2),
        model="scripted",
        messages=say("say-at-a-crawl"),
        extra_headers={"X-Request-Timeout": "0.5"},
    )
    assert (error.status_code, error.code) == (504, "deadline_exceeded")
    assert error.response.request.headers["x-stainless-retry-count"] == "0"


def check_errors_in_streams() -> None:
    """errors within a stream"""
    stream = connect().chat.completions.create(
        model="scripted",
        messages=say("say-at-a-crawl"),
        stream=True,
        extra_headers={"X-Request-Timeout": "1.5"},
    )
    try:
        list(stream)
    except openai.APIError as error:
        assert error.code == "deadline_exceeded"
    else:
        raise AssertionError("the stream had an end")


def check_retries() -> None:
    """retries after `Retry-After`"""
    client = connect(KEY_LIMITED)
    error = None
    while error is None:
        try:
            client.chat.completions.create(model="scripted", messages=say("say-hello"))
        except openai.RateLimitError as caught:
            error = caught
    assert error.code == "rate_limit_exceeded"
    assert float(error.response.headers["retry-after-ms"]) <= 3000
    raw = client.with_options(max_retries=1).chat.completions.with_raw_response.create(
        model="scripted", messages=say("say-hello")
    )
    assert raw.retries_taken == 1
