"""`FoundryAPIClient` on the real engine, with a model whose answers are known."""

from __future__ import annotations

import asyncio
import time

import pytest

from foundry_api import ClientClosed, ContextOverflow, FoundryAPIClient, InvalidRequest, Message
from support.scripted_model import completion_tokens, prompt_tokens, script

HELLO = script("say-hello").text


async def test_a_completion_has_the_full_text(client: FoundryAPIClient) -> None:
    response = await client.complete(prompt="say-hello")

    assert response.content == HELLO
    assert response.finish_reason == "stop"
    assert response.model == "scripted:1"


@pytest.mark.parametrize("keyword", ["say-multibyte", "say-lines", "say-long", "say-nothing"])
async def test_every_byte_of_the_text_arrives(client: FoundryAPIClient, keyword: str) -> None:
    response = await client.complete(prompt=keyword)

    assert response.content == script(keyword).text


async def test_usage_has_the_token_counts_of_the_engine(client: FoundryAPIClient) -> None:
    messages = [Message("system", "Be brief."), Message("user", "say-hello")]

    response = await client.chat(messages)

    expected = prompt_tokens([{"role": m.role, "content": m.content} for m in messages])
    assert response.usage.prompt_tokens == expected
    assert response.usage.completion_tokens == completion_tokens(HELLO)
    assert response.usage.total_tokens == expected + completion_tokens(HELLO)


async def test_a_truncated_answer_has_finish_reason_length(client: FoundryAPIClient) -> None:
    response = await client.complete(prompt="say-hello", max_tokens=5)

    assert response.content == HELLO[:5]
    assert response.finish_reason == "length"
    assert response.usage.completion_tokens == 5


async def test_a_stop_string_ends_the_answer_and_is_removed(
    client: FoundryAPIClient,
) -> None:
    response = await client.complete(prompt="say-stop", stop=["STOP"])

    assert response.content == "one two "
    assert response.finish_reason == "stop"


async def test_a_result_has_its_timings(client: FoundryAPIClient) -> None:
    before = time.perf_counter()
    response = await client.complete(prompt="say-slowly", max_tokens=5)
    elapsed = time.perf_counter() - before

    timings = response.timings
    assert timings.time_to_first_token_s is not None
    assert timings.tokens_per_second is not None
    assert 0 < timings.time_to_first_token_s < timings.total_s <= elapsed
    assert timings.tokens_per_second > 4 / timings.total_s
    assert [attempt.error for attempt in response.attempts] == [None]
    assert response.raw


async def test_chunks_add_up_to_the_answer(client: FoundryAPIClient) -> None:
    chunks = [chunk async for chunk in client.stream_complete(prompt="say-hello")]

    assert "".join(chunk.content for chunk in chunks) == HELLO
    assert len(chunks) == len(HELLO) + 1, "one for each token, and a last one with the usage"
    *content_chunks, last = chunks
    assert all(chunk.finish_reason is None and chunk.usage is None for chunk in content_chunks)
    assert last.finish_reason == "stop"
    assert last.usage is not None
    assert last.usage.completion_tokens == len(HELLO)
    assert last.timings is not None


async def test_all_messages_are_sent(client: FoundryAPIClient) -> None:
    messages = [
        {"role": "system", "content": "You are a parrot."},
        {"role": "user", "content": "say-hello"},
        {"role": "assistant", "content": HELLO},
        {"role": "user", "content": "say-json"},
    ]

    response = await client.chat(messages)

    assert response.content == script("say-json").text
    assert response.usage.prompt_tokens == prompt_tokens(messages)


@pytest.mark.parametrize("name", ["scripted", "SCRIPTED", "scripted:1", " Scripted:1 "])
async def test_a_model_is_found_by_any_form_of_its_name(
    client: FoundryAPIClient, name: str
) -> None:
    assert (await client.complete(prompt="say-hello", model=name)).content == HELLO


async def test_context_overflow_has_the_token_counts(
    client: FoundryAPIClient,
) -> None:
    with pytest.raises(ContextOverflow) as caught:
        await client.complete(prompt="say-hello", max_tokens=9000)

    error = caught.value
    expected = prompt_tokens([{"role": "user", "content": "say-hello"}])
    assert (error.prompt_tokens, error.max_tokens, error.context_length) == (expected, 9000, 8192)
    assert error.model == "scripted:1"


async def test_without_max_tokens_a_long_prompt_gets_the_rest(
    client: FoundryAPIClient,
) -> None:
    """The service's default of 2048 tokens would not fit into the context."""
    prompt = "x" * 7000 + " say-hello"

    response = await client.complete(prompt=prompt)

    assert response.content == HELLO
    assert [type(attempt.error) for attempt in response.attempts] == [ContextOverflow, type(None)]


async def test_invalid_arguments_fail_before_connecting() -> None:
    client = FoundryAPIClient(base_url="http://127.0.0.1:1")

    with pytest.raises(InvalidRequest) as caught:
        await client.complete(prompt="hello", temperature=3)

    assert caught.value.field == "temperature"


async def test_fifty_concurrent_calls_load_the_model_once(client: FoundryAPIClient) -> None:
    """Requests are counted at the transport, as the service accepts a second load."""
    connection, _ = await client._backend.route("scripted")
    sent: list[str] = []
    send = connection.transport.send

    async def count_and_send(request):  # noqa: ANN001, ANN202 - the transport's own signature
        sent.append(request.url)
        return await send(request)

    connection.transport.send = count_and_send  # type: ignore[method-assign]

    responses = await asyncio.gather(*(client.complete(prompt="say-hello") for _ in range(50)))

    assert {response.content for response in responses} == {HELLO}
    # A query, another one inside the load lock, the load, and a query of the result;
    # only the first query if another test has loaded the model.
    assert len([url for url in sent if "/models/load" in url]) in {1, 4}


async def test_a_closed_client_raises_client_closed(client: FoundryAPIClient) -> None:
    await client.close()

    with pytest.raises(ClientClosed):
        await client.complete(prompt="say-hello")
