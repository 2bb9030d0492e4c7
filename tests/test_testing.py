"""The public test helpers: FakeService and skip_sleeps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api import (
    FoundryAPIClient,
    ReadTimeout,
    ServerError,
    ServiceOverloaded,
    StreamInterrupted,
    Usage,
)
from foundry_api.testing import (
    _CHUNK_PATTERN,
    Disconnect,
    ErrorReply,
    FakeService,
    Reply,
    Stall,
    skip_sleeps,
)


def make_client(service: FakeService) -> FoundryAPIClient:
    return FoundryAPIClient(service.base_url, model="fake")


async def test_answers_follow_the_script_and_the_last_repeats() -> None:
    async with FakeService("One", "Two words") as service, make_client(service) as client:
        answers = [(await client.complete("Hi")).content for _ in range(3)]
    assert answers == ["One", "Two words", "Two words"]


async def test_requests_are_recorded() -> None:
    async with FakeService() as service, make_client(service) as client:
        await client.complete("Greet me", system="Be kind", max_tokens=5)
    (request,) = service.requests
    assert request["messages"][-1] == {"role": "user", "content": "Greet me"}
    assert (request["model"], request["max_tokens"]) == ("fake:1", 5)


async def test_an_answer_streams_word_by_word() -> None:
    async with FakeService("Two  words\n") as service, make_client(service) as client:
        chunks = [chunk.content async for chunk in client.stream_complete("Hi")]
    assert chunks == ["Two", "  words\n", ""]


@given(st.text())
def test_splitting_an_answer_loses_no_character(text: str) -> None:
    assert "".join(_CHUNK_PATTERN.findall(text)) == text


async def test_finish_reason_and_usage_can_be_set() -> None:
    usage = Usage(7, 5, 12)
    script = Reply("Half a sent", finish_reason="length", usage=usage)
    async with FakeService(script) as service, make_client(service) as client:
        completion = await client.complete("Hi")
    assert (completion.finish_reason, completion.usage) == ("length", usage)


async def test_skip_sleeps_skips_the_waits_of_retries() -> None:
    script = (ErrorReply(503, retry_after_s=20), Disconnect(), ErrorReply(), "Hello")
    async with FakeService(*script) as service, make_client(service) as client:
        with skip_sleeps() as waits:
            completion = await client.complete("Hi")
    assert completion.content == "Hello"
    causes = [type(attempt.error) for attempt in completion.attempts]
    assert causes == [ServiceOverloaded, StreamInterrupted, ServerError, type(None)]
    assert len(waits) == 3
    assert 20 <= waits[0] <= 20.1


async def test_a_disconnect_keeps_the_text_before_it() -> None:
    async with FakeService(Disconnect(after="Half a")) as service, make_client(service) as client:
        with pytest.raises(StreamInterrupted) as caught:
            await client.complete("Hi")
    assert caught.value.partial == "Half a"


@pytest.mark.parametrize("text", ["", "Half a"])
async def test_a_stall_lasts_until_the_client_disconnects(text: str) -> None:
    async with FakeService(Stall(after=text)) as service, make_client(service) as client:
        with pytest.raises(ReadTimeout) as caught:
            await client.complete("Hi", timeout=0.1)
    assert caught.value.partial == text
    assert len(service.requests) == 1


async def test_the_model_may_have_any_name() -> None:
    async with FakeService(model="phi-4-mini") as service, make_client(service) as client:
        assert (await client.complete("Hi", model="phi-4-mini")).model == "phi-4-mini:1"
        assert (await client.health_check()).loaded_models == ("phi-4-mini:1",)
