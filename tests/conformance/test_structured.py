"""Structured output on every generation, enforced by the engine or requested and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api import StructuredOutputError, UnsupportedFeature
from foundry_api.types.messages import Usage
from support.scripted_model import completion_tokens, prompt_tokens, script

if TYPE_CHECKING:
    from conformance.expectations import Expected
    from conformance.services import Service
    from foundry_api import FoundryAPIClient

HELLO, JSON = script("say-hello").text, script("say-json").text
PROMPT = [{"role": "user", "content": "say-json"}]


@dataclass
class Person:
    born: int
    languages: list[str]
    name: str


ADA = Person(1815, ["en", "fr"], "Ada")


def is_json(text: str) -> None:
    """Rejects an answer with the keyword of the script that is JSON."""
    if text != JSON:
        raise ValueError("say-json instead")


async def test_answer_becomes_an_object(client: FoundryAPIClient) -> None:
    answer = await client.complete("say-json", response_model=Person)
    assert (answer.parsed, answer.content, answer.repairs) == (ADA, JSON, 0)


async def test_schema_is_in_the_prompt_if_not_enforced(
    client: FoundryAPIClient, expected: Expected
) -> None:
    answer = await client.complete("say-json", response_model=Person)
    if expected.counts_tokens:
        grew = answer.usage.prompt_tokens > prompt_tokens(PROMPT)
        assert grew is not expected.enforces


async def test_stream_has_the_value_so_far(client: FoundryAPIClient) -> None:
    chunks = [each async for each in client.stream_complete("say-json", response_model=Person)]
    assert chunks[-1].parsed == ADA
    assert {"born": 1815, "languages": []} in [each.partial for each in chunks]


async def test_rejected_answer_is_requested_again(
    client: FoundryAPIClient, expected: Expected
) -> None:
    answer = await client.complete("say-hello", parser=str, validators=[is_json])
    assert (answer.parsed, answer.repairs) == (JSON, 1)
    tokens = completion_tokens(HELLO) + completion_tokens(JSON)
    assert answer.usage.completion_tokens == (tokens if expected.counts_tokens else 0)
    assert expected.counts_tokens or answer.usage == Usage()


async def test_invalid_answer_is_never_accepted(
    client: FoundryAPIClient, service: Service, expected: Expected
) -> None:
    """If the engine enforces the schema, the same model has to produce another answer."""
    schema: dict[str, Any] = {"enum": ["Hello", 5]}
    if expected.enforces:
        assert (await client.complete("say-hello", response_model=schema)).parsed in {"Hello", 5}
        return
    with pytest.raises(StructuredOutputError) as caught:
        await client.complete("say-hello", response_model=schema, max_repairs=1)
    assert caught.value.partial == HELLO
    assert caught.value.repairs == 1
    assert caught.value.model == service.model
    assert caught.value.service == service.base_url


async def test_truncated_answer_is_an_error(client: FoundryAPIClient) -> None:
    with pytest.raises(StructuredOutputError, match="cut before its end") as caught:
        await client.complete("say-json", response_model=Person, max_tokens=20)
    assert caught.value.partial == JSON[:20]


async def test_choice_is_one_of_the_options(client: FoundryAPIClient, expected: Expected) -> None:
    answer = await client.complete("say-hello", choice=["hello, world", "goodbye"])
    assert answer.parsed in {"hello, world", "goodbye"}
    assert expected.enforces or answer.parsed == "hello, world"


async def test_grammar_is_enforced_or_refused_before_sending(
    client: FoundryAPIClient, service: Service, expected: Expected
) -> None:
    asking = client.complete("say-hello", grammar="start: /[0-9]{2}/", parser=int)
    if expected.enforces:
        assert 0 <= (await asking).parsed < 100
        return
    with pytest.raises(
        UnsupportedFeature,
        match=f"generation {service.service_generation} does not support grammars",
    ):
        await asking
