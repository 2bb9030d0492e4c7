"""The `openai` package against the gateway, by its own defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
import pydantic
import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI

from gateway.helpers import CALCULATE, make_recording
from support.scripted_model import script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from foundry_api.gateway.gateway import Gateway

HELLO = script("say-hello").text
# Written by hand: the scripted model does not find its keyword in the longer schema of pydantic.
TOOL: Any = {
    "type": "function",
    "function": {"name": "calculate", "strict": True, "parameters": CALCULATE},
}


class Person(pydantic.BaseModel):
    born: int
    languages: list[str]
    name: str


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none") as client:
        yield client


async def test_chat(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": "say-hello"}]
    )
    assert answer.choices[0].message.content == HELLO
    assert (answer._request_id or "").startswith("req_")


async def test_azure_has_the_model_in_the_path(gateway: Gateway) -> None:
    async with AsyncAzureOpenAI(
        azure_endpoint=gateway.url, api_key="none", api_version="2024-10-21"
    ) as client:
        answer = await client.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": "say-hello"}]
        )
        assert (answer.model, answer.choices[0].message.content) == ("scripted", HELLO)
        completion = await client.completions.create(model="scripted", prompt="say-hello")
        assert completion.choices[0].text
        embeddings = await client.embeddings.create(model="embedder", input="a")
        assert len(embeddings.data) == 1
        transcription = await client.audio.transcriptions.create(
            model="transcriber", file=("a.wav", make_recording())
        )
        assert transcription.text
        with pytest.raises(openai.NotFoundError):
            await client.completions.create(model="none", prompt="say-hello")
    async with AsyncAzureOpenAI(
        azure_endpoint=gateway.url,
        azure_deployment="scripted",
        api_key="none",
        api_version="2024-10-21",
    ) as client:
        answer = await client.chat.completions.create(
            model="another", messages=[{"role": "user", "content": "say-hello"}]
        )
        assert (answer.model, answer.choices[0].message.content) == ("scripted", HELLO)


async def test_chat_stream(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(
        model="scripted", messages=[{"role": "user", "content": "say-hello"}]
    ) as stream:
        answer = await stream.get_final_completion()
    assert answer.choices[0].message.content == HELLO


async def test_chat_parse(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.parse(
        model="scripted",
        messages=[{"role": "user", "content": "say-json"}],
        response_format=Person,
    )
    assert isinstance(answer.choices[0].message.parsed, Person)


async def test_chat_tools_are_parsed(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.parse(
        model="scripted",
        messages=[{"role": "user", "content": "call-calculator"}],
        tools=[TOOL],
    )
    calls = answer.choices[0].message.tool_calls or []
    assert [call.function.parsed_arguments for call in calls] == [{"expression": "6 * 7"}]


async def test_a_wrong_tool_call_is_not_sent_again(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        await client.chat.completions.create(
            model="scripted",
            messages=[{"role": "user", "content": "call-wrong-arguments"}],
            tools=[TOOL],
        )
    assert caught.value.code == "invalid_tool_call"
    assert caught.value.response.headers["x-should-retry"] == "false"


async def test_completions(client: AsyncOpenAI) -> None:
    answer = await client.completions.create(model="scripted", prompt="say-hello")
    assert answer.choices[0].text == HELLO


async def test_embeddings(client: AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="embedder", input=["one", "two"])
    assert len(answer.data[0].embedding) == len(answer.data[1].embedding) > 1


async def test_models(client: AsyncOpenAI) -> None:
    names = {model.id async for model in client.models.list()}
    assert {"demo", "scripted"} <= names
    assert (await client.models.retrieve("scripted")).id == "scripted"


async def test_responses(client: AsyncOpenAI) -> None:
    answer = await client.responses.create(model="scripted", input="say-hello")
    assert answer.output_text == HELLO
    assert (await client.responses.retrieve(answer.id)).output_text == HELLO
    items = [item async for item in client.responses.input_items.list(answer.id)]
    assert len(items) == 1
    await client.responses.delete(answer.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(answer.id)


async def test_responses_stream(client: AsyncOpenAI) -> None:
    async with client.responses.stream(model="scripted", input="reason-aloud") as stream:
        kinds = [event.type async for event in stream]
        answer = await stream.get_final_response()
    assert answer.output_text == script("reason-aloud").content
    assert "response.reasoning_text.delta" in kinds


async def test_responses_parse(client: AsyncOpenAI) -> None:
    answer = await client.responses.parse(model="scripted", input="say-json", text_format=Person)
    assert isinstance(answer.output_parsed, Person)


async def test_responses_in_the_background(client: AsyncOpenAI) -> None:
    answer = await client.responses.create(model="scripted", input="say-forever", background=True)
    assert answer.status == "queued"
    assert (await client.responses.cancel(answer.id)).status == "cancelled"


async def test_transcription(client: AsyncOpenAI) -> None:
    upload = ("speech.wav", make_recording())
    answer = await client.audio.transcriptions.create(
        model="transcriber", file=upload, language="en"
    )
    assert answer.text
    verbose = await client.audio.transcriptions.create(
        model="transcriber", file=upload, language="en", response_format="verbose_json"
    )
    assert verbose.duration == 1
    text = await client.audio.transcriptions.create(
        model="transcriber", file=upload, language="en", response_format="text"
    )
    assert text == answer.text + "\n"


async def test_a_raw_response_has_the_headers(client: AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model="scripted", messages=[{"role": "user", "content": "say-hello"}]
    )
    assert int(raw.headers["openai-processing-ms"]) >= 0
    assert raw.headers["x-request-id"] == raw.request_id


async def test_errors_have_their_classes(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(
            model="no-such-model", messages=[{"role": "user", "content": "x"}]
        )
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
