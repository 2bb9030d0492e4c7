"""What all generations do in the same way, because of their dialects."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from conformance.services import BROKEN, FAR_AWAY, OTHER, OTHER_VARIANT, VERSIONS
from foundry_api import FoundryAPIClient, MemoryCache
from foundry_api.types import errors
from foundry_api.types.messages import Usage
from support.loopback_catalog import ALIAS, VARIANT
from support.scripted_model import SCRIPTS, completion_tokens, prompt_tokens, script

if TYPE_CHECKING:
    from conformance.expectations import Expected
    from conformance.services import Service
    from support.scripted_model.scripts import Script

ENDING = [each for each in SCRIPTS if not each.repeats]
ENOUGH = 2000
"""The limit of every answer; some services would truncate the longest at their default."""

SAID = [each for each in ENDING if each.text and not each.prefill_ms]


def asked(prompt: str) -> int:
    return prompt_tokens([{"role": "user", "content": prompt}])


@pytest.mark.parametrize("name", [ALIAS, ALIAS.upper(), VARIANT, VARIANT.lower(), f"{VARIANT}:1"])
async def test_model_can_be_called_by_any_name(
    client: FoundryAPIClient, service: Service, name: str
) -> None:
    response = await client.complete("say-hello", model=name)
    assert (response.content, response.model) == (script("say-hello").text, service.model)
    assert response.service_generation == service.service_generation


@pytest.mark.parametrize("service", VERSIONS, indirect=True)
async def test_unguessable_alias_is_found(client: FoundryAPIClient, service: Service) -> None:
    """2.x lists only ids. Which one an alias means shows when it is loaded."""
    response = await client.complete("say-hello", model=OTHER)
    assert response.content == script("say-hello").text
    assert response.model.startswith(OTHER_VARIANT)
    assert (await client.complete("say-hello", model=response.model)).content == response.content
    await client.models.unload(OTHER)
    assert response.model not in (await client.health_check()).loaded_models


async def test_cached_stream_replays_its_chunks(client: FoundryAPIClient, service: Service) -> None:
    cached = FoundryAPIClient(service.base_url, model=service.model, cache=MemoryCache())
    async with cached:
        first, again = [
            [chunk async for chunk in cached.stream_complete("say-lines", temperature=0)]
            for _ in range(2)
        ]
        whole = await cached.complete("say-lines", temperature=0)
    assert [chunk.content for chunk in again] == [chunk.content for chunk in first]
    assert {chunk.cached for chunk in again} == {whole.cached} == {True}
    assert (whole.content, whole.service_generation) == (
        script("say-lines").text,
        service.service_generation,
    )
    assert again[-1].usage == whole.usage == first[-1].usage


@pytest.mark.parametrize("script", ENDING, ids=lambda each: each.keyword)
async def test_complete_answer_is_exact(
    client: FoundryAPIClient, script: Script, expected: Expected
) -> None:
    response = await client.complete(f"Please {script.keyword}.", max_tokens=ENOUGH)
    assert (response.reasoning, response.content) == (script.reasoning, script.content)
    assert response.finish_reason == "stop"
    prompt, answer = asked(f"Please {script.keyword}."), completion_tokens(script.text)
    counted = Usage(prompt, answer, prompt + answer)
    assert response.usage == (counted if expected.counts_tokens else Usage())


@pytest.mark.parametrize("script", SAID, ids=lambda each: each.keyword)
async def test_streamed_answer_is_the_same(client: FoundryAPIClient, script: Script) -> None:
    stream = client.stream_complete(script.keyword, max_tokens=ENOUGH)
    pieces = [chunk async for chunk in stream]
    assert "".join(piece.reasoning for piece in pieces) == script.reasoning
    assert "".join(piece.content for piece in pieces) == script.content
    assert pieces[-1].finish_reason == "stop"
    assert len(pieces) > 2


@pytest.mark.parametrize("bound", [{"max_tokens": 5}, {"extra": {"max_completion_tokens": 5}}])
async def test_answer_truncated_at_max_tokens(
    client: FoundryAPIClient, bound: dict[str, Any]
) -> None:
    response = await client.complete("say-long", **bound)
    assert (response.content, response.finish_reason) == ("w0 w1", "length")


async def test_answer_truncated_at_the_default_limit(
    client: FoundryAPIClient, expected: Expected
) -> None:
    """Its tokens are single bytes."""
    response = await client.complete("say-forever")
    assert response.finish_reason == "length"
    assert len(response.content) == expected.default_max_tokens


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("stop", ["STOP", "TOP", ["never", "STOP thr"], ["e t", "STOP"], "x"])
async def test_answer_ends_at_a_stop_string(
    client: FoundryAPIClient, stop: str | list[str]
) -> None:
    """Its tokens are single characters, so that every stop string spans several of them."""
    text = script("say-stop").text
    found = [text.find(each) for each in ([stop] if isinstance(stop, str) else stop)]
    expected = text[: min((at for at in found if at >= 0), default=len(text))]
    response = await client.complete("say-stop", stop=stop)
    assert (response.content, response.finish_reason) == (expected, "stop")
    pieces = [chunk.content async for chunk in client.stream_complete("say-stop", stop=stop)]
    assert "".join(pieces) == expected


@pytest.mark.usefixtures("settled")
async def test_endless_answer_ends_at_a_stop_string(client: FoundryAPIClient) -> None:
    response = await client.complete("say-forever", stop="k tick t")
    assert response.content == "tic"


async def test_text_parts_are_joined(client: FoundryAPIClient) -> None:
    """1.x would insert the JSON of the parts into the prompt."""
    parts = [{"type": "text", "text": "Please say-"}, {"type": "text", "text": "hello."}]
    response = await client.chat([{"role": "user", "content": parts}])
    assert response.content == script("say-hello").text
    assert response.usage.prompt_tokens in {asked("Please say-hello."), 0}


async def test_image_is_refused_before_sending(client: FoundryAPIClient) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(errors.UnsupportedFeature, match=r"messages\[0\]\.content\[0\]"):
        await client.chat([{"role": "user", "content": [image]}])


async def test_tool_result_reaches_the_model(client: FoundryAPIClient) -> None:
    """2.0 drops such messages from the prompt."""
    call = {"id": "call_1", "function": {"name": "look", "arguments": '{"at": "it"}'}}
    response = await client.chat(
        [
            {"role": "user", "content": "What is it?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "say-hello"},
        ]
    )
    assert response.content == script("say-hello").text


async def test_unknown_model_is_not_found(client: FoundryAPIClient, service: Service) -> None:
    with pytest.raises(errors.ModelNotFound) as caught:
        await client.complete("say-hello", model="scripted-minni")
    assert ALIAS in caught.value.nearest
    assert caught.value.service == service.base_url


async def test_uncached_model_is_distinguished(
    client: FoundryAPIClient, expected: Expected
) -> None:
    with pytest.raises(expected.far_away):
        await client.complete("say-hello", model=FAR_AWAY)


async def test_unloadable_model_is_an_error(client: FoundryAPIClient) -> None:
    with pytest.raises(errors.ModelLoadFailed) as caught:
        await client.models.load(BROKEN)
    assert caught.value.hint


@pytest.mark.parametrize("max_tokens", [9000, None])
async def test_context_overflow_has_token_counts(
    client: FoundryAPIClient, max_tokens: int | None, expected: Expected
) -> None:
    """Streams of 1.x end without a message, which a plain request gets."""
    if not expected.tells_overflow:
        pytest.skip("what this generation says of it is not known")
    if max_tokens and expected.clamps_max_tokens:
        assert (await client.complete("say-hello", max_tokens=max_tokens)).finish_reason == "stop"
        return
    prompt = "say-hello" if max_tokens else "x" * 9000
    with pytest.raises(errors.ContextOverflow) as caught:
        await client.complete(prompt, max_tokens=max_tokens)
    assert caught.value.context_length == 8192
    assert caught.value.prompt_tokens == asked(prompt)


async def test_long_prompt_gets_a_smaller_output_limit(
    client: FoundryAPIClient,
) -> None:
    response = await client.complete("x" * 7000 + " say-hello")
    assert response.content == script("say-hello").text


@pytest.mark.usefixtures("settled")
async def test_silent_engine_is_a_timeout(client: FoundryAPIClient) -> None:
    """2.1 sends keep-alives while it reads a prompt, which count up to ten times the timeout."""
    await client.models.load(ALIAS)
    with pytest.raises(errors.ReadTimeout):
        await client.complete("say-after-a-while", timeout=0.05, max_tokens=1)


@pytest.mark.usefixtures("settled")
async def test_deadline_applies_while_text_arrives(client: FoundryAPIClient) -> None:
    await client.models.load(ALIAS)
    with pytest.raises(errors.DeadlineExceeded) as caught:
        await client.complete("say-at-a-crawl", deadline=1, max_tokens=20)
    partial = caught.value.partial
    assert partial
    assert ("tack " * 20).startswith(partial)


async def test_concurrent_calls_are_all_answered(client: FoundryAPIClient) -> None:
    responses = await asyncio.gather(*(client.complete("say-hello") for _ in range(40)))
    assert {response.content for response in responses} == {script("say-hello").text}


async def test_loading_and_unloading(client: FoundryAPIClient, service: Service) -> None:
    await client.models.load(ALIAS)
    assert service.model in [model.id for model in await client.models.loaded()]
    assert service.model in (await client.health_check()).loaded_models
    await client.models.unload(ALIAS)
    assert service.model not in [model.id for model in await client.models.loaded()]
    assert (await client.complete("say-hello")).content == script("say-hello").text


async def test_health(client: FoundryAPIClient, service: Service) -> None:
    await client.models.load(ALIAS)
    health = await client.health_check()
    assert (health.status, health.detail) == ("healthy", "")
    assert health.service_generation == service.service_generation
    assert service.model in health.loaded_models


async def test_model_is_listed_once(client: FoundryAPIClient) -> None:
    ids = [model.id for model in await client.models.list(catalog=True)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", ["n", "logit_bias", "logprobs", "top_logprobs"])
async def test_ignored_options_are_refused_before_sending(
    client: FoundryAPIClient, name: str
) -> None:
    with pytest.raises(errors.UnsupportedFeature, match=name) as caught:
        await client.complete("say-hello", extra={name: 2})
    assert caught.value.attempts == 0 or not caught.value.status
