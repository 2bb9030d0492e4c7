"""An invalid body is refused before anything runs, by the name of the member."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_api.batch.request_body import (
    MEMBERS,
    is_simple_chat,
    parse_members,
    parse_tool_choice,
    validate_body,
)
from foundry_api.batch.types import CHAT_URL, EMBEDDINGS_URL, RESPONSES_URL, BatchUrl
from foundry_api.types.errors import FoundryError, InvalidRequest

HI = [{"role": "user", "content": "Hi"}]
CHAT: dict[str, Any] = {"messages": HI}
TEXT: dict[str, Any] = {"input": "Hi"}
LOOK_UP = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


def test_chat_body_with_every_member_is_unchanged() -> None:
    body = {
        "model": "demo",
        "messages": [{"role": "system", "content": "Be brief"}, *HI],
        "max_tokens": 5,
        "max_completion_tokens": 5,
        "temperature": 0,
        "top_p": 1,
        "top_k": 40,
        "seed": 7,
        "random_seed": 7,
        "stop": ["END"],
        "tools": [LOOK_UP],
        "tool_choice": {"type": "function", "function": {"name": "look_up"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_object"},
        "frequency_penalty": 0.5,
        "presence_penalty": -2,
        "metadata": {"job": "7"},
        "user": "me",
    }
    assert validate_body(CHAT_URL, body) == body


def test_response_body_with_every_member_is_unchanged() -> None:
    body = {
        "model": "demo",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
        "instructions": "Be brief",
        "max_output_tokens": 5,
        "temperature": 0,
        "text": {"format": {"type": "text"}},
        "reasoning": {"effort": "low"},
        "tools": [{"type": "function", "name": "look_up", "parameters": {"type": "object"}}],
        "tool_choice": {"type": "function", "name": "look_up"},
        "metadata": {"job": "7"},
        "store": False,
    }
    assert validate_body(RESPONSES_URL, body) == body


@pytest.mark.parametrize("texts", ["Hi", ["Hi", "Ho"]])
def test_embedding_input_is_one_text_or_several(texts: str | list[str]) -> None:
    assert validate_body(EMBEDDINGS_URL, {"input": texts}) == {"input": texts}


@pytest.mark.parametrize(
    ("url", "body", "expected"),
    [
        (CHAT_URL, {**CHAT, "stream": False, "n": 1, "logprobs": False, "store": False}, CHAT),
        (CHAT_URL, {**CHAT, "max_tokens": None, "service_tier": "auto", "logit_bias": {}}, CHAT),
        (RESPONSES_URL, {**TEXT, "background": False, "truncation": "disabled"}, TEXT),
        (EMBEDDINGS_URL, {**TEXT, "dimensions": None}, TEXT),
    ],
)
def test_members_with_default_values_are_dropped(
    url: BatchUrl, body: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert validate_body(url, body) == expected


@pytest.mark.parametrize(
    ("url", "body", "field", "message"),
    [
        (CHAT_URL, {**CHAT, "max_token": 5}, "max_token", "did you mean max_tokens?"),
        (CHAT_URL, {**CHAT, "xyzzy": 5}, "xyzzy", "xyzzy is not a member"),
        (RESPONSES_URL, {**TEXT, "max_tokens": 5}, "max_tokens", "mean max_output_tokens?"),
        (EMBEDDINGS_URL, {**TEXT, "temperature": 0}, "temperature", "temperature is not a member"),
        (CHAT_URL, {**CHAT, "stream": True}, "stream", "stream is true, but a batch does not"),
        (CHAT_URL, {**CHAT, "n": 2}, "n", "n is 2, but the service returns one answer"),
        (CHAT_URL, {**CHAT, "n": True}, "n", "n is true"),
        (CHAT_URL, {**CHAT, "logprobs": True}, "logprobs", "no version of Foundry Local"),
        (CHAT_URL, {**CHAT, "store": True}, "store", "no version of Foundry Local"),
        (EMBEDDINGS_URL, {**TEXT, "dimensions": 64}, "dimensions", "vectors is fixed"),
        (EMBEDDINGS_URL, {**TEXT, "encoding_format": "hex"}, "encoding_format", "neither float"),
        (CHAT_URL, {}, "messages", "messages is missing"),
        (CHAT_URL, {"messages": None}, "messages", "messages is missing"),
        (CHAT_URL, {"messages": "Hi"}, "messages", "messages is not a list"),
        (CHAT_URL, {"messages": []}, "messages", "messages is empty"),
        (CHAT_URL, {"messages": ["Hi"]}, "messages[0]", "messages[0] is not a JSON object"),
        (CHAT_URL, {"messages": [*HI, {"role": "user", "content": " "}]}, "messages[1].content",
         "is empty"),
        (CHAT_URL, {"messages": [{"role": "me", "content": "Hi"}]}, "messages[0]", "'me'"),
        (CHAT_URL, {**CHAT, "model": ""}, "model", "model is empty"),
        (CHAT_URL, {**CHAT, "model": ["demo"]}, "model", "not a string"),
        (CHAT_URL, {**CHAT, "max_tokens": "5"}, "max_tokens", "max_tokens is '5', not a number"),
        (CHAT_URL, {**CHAT, "max_completion_tokens": 5.0}, "max_completion_tokens", "whole"),
        (CHAT_URL, {**CHAT, "temperature": 3}, "temperature", "must be from 0 to 2"),
        (CHAT_URL, {**CHAT, "presence_penalty": 3}, "presence_penalty", "from -2 to 2"),
        (CHAT_URL, {**CHAT, "stop": {"a": 1}}, "stop", "stop is not a list"),
        (CHAT_URL, {**CHAT, "stop": list("abcde")}, "stop", "takes 4 at most"),
        (CHAT_URL, {**CHAT, "tools": {"a": 1}}, "tools", "tools is not a list"),
        (CHAT_URL, {**CHAT, "tools": ["f"]}, "tools[0]", "tools[0] is not a JSON object"),
        (CHAT_URL, {**CHAT, "tool_choice": {"a": 1}}, "tool_choice", "names a function"),
        (CHAT_URL, {**CHAT, "tool_choice": "look_up"}, "tool_choice", "there are no tools"),
        (CHAT_URL, {**CHAT, "parallel_tool_calls": 1}, "parallel_tool_calls", "neither true"),
        (CHAT_URL, {**CHAT, "response_format": "json"}, "response_format", "not a JSON object"),
        (CHAT_URL, {**CHAT, "response_format": {}}, "response_format.type", "is None"),
        (CHAT_URL, {**CHAT, "metadata": {"n": 1}}, "metadata.n", "metadata.n is 1, not a string"),
        (RESPONSES_URL, {}, "input", "input is missing"),
        (RESPONSES_URL, {"input": 5}, "input", "input is not a list"),
        (RESPONSES_URL, {"input": ["Hi"]}, "input[0]", "not an item"),
        (RESPONSES_URL, {**TEXT, "metadata": [1]}, "metadata", "metadata is not a JSON object"),
        (RESPONSES_URL, {**TEXT, "tools": ["f"]}, "tools[0]", "tools[0] is not a JSON object"),
        (RESPONSES_URL, {**TEXT, "seed": 1.5}, "seed", "not a whole number"),
        (RESPONSES_URL, {**TEXT, "previous_response_id": "a/b"}, "previous_response_id", "not the"),
        (EMBEDDINGS_URL, {"input": []}, "input", "neither a string nor a list"),
        (EMBEDDINGS_URL, {"input": ["a", ""]}, "input[1]", "input[1] is empty"),
        (EMBEDDINGS_URL, {"input": [[1, 2]]}, "input[0]", "made of tokens"),
    ],
)  # fmt: skip
def test_invalid_member_is_refused_by_name(
    url: BatchUrl, body: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate_body(url, body)
    assert caught.value.field == field
    assert message in caught.value.message


def test_image_in_chat_is_refused() -> None:
    turn = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
    with pytest.raises(FoundryError, match=r"messages\[0\].content\[0\] is of type 'image_url'"):
        validate_body(CHAT_URL, {"messages": [turn]})


def test_missing_image_of_a_response_is_refused() -> None:
    image = {"type": "input_image", "image_url": "/no/such.png"}
    item = {"role": "user", "content": [image]}
    with pytest.raises(InvalidRequest, match="cannot be read"):
        validate_body(RESPONSES_URL, {"input": [item]})


def test_messages_from_openai_answers_are_accepted() -> None:
    answer = {"role": "assistant", "content": "Ho", "refusal": None, "annotations": []}
    body = {"messages": [{"role": "developer", "content": "Be brief"}, *HI, answer, *HI]}
    assert validate_body(CHAT_URL, body) == body


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        (None, None),
        ("required", "required"),
        ({"type": "function", "function": {"name": "look_up"}}, "look_up"),
        ({"type": "function", "name": "look_up"}, "look_up"),
    ],
)
def test_tool_choice_is_parsed_to_a_name(choice: object, name: str | None) -> None:
    assert parse_tool_choice(choice) == name


def test_command_line_members_are_parsed_as_json() -> None:
    arguments = [
        "max_tokens=50",
        "temperature=0.5",
        'stop=["\\n", "END"]',
        "user=me",
        'model="7"',
        "parallel_tool_calls=false",
        "response_format={not json",
        "seed=",
        "top_p=1",
        "top_p=0.5",
    ]
    assert parse_members(arguments) == {
        "max_tokens": 50,
        "temperature": 0.5,
        "stop": ["\n", "END"],
        "user": "me",
        "model": "7",
        "parallel_tool_calls": False,
        "response_format": "{not json",
        "seed": "",
        "top_p": 0.5,
    }


def test_member_value_may_contain_equals_sign() -> None:
    assert parse_members(["user=a=b"]) == {"user": "a=b"}


@pytest.mark.parametrize("argument", ["max_tokens", "=5", " =5", ""])
def test_argument_without_name_and_value_is_refused(argument: str) -> None:
    with pytest.raises(InvalidRequest, match="is not NAME=VALUE") as caught:
        parse_members([argument])
    assert caught.value.field == "set"


def test_unknown_member_is_refused_with_a_suggestion() -> None:
    with pytest.raises(
        InvalidRequest,
        match=r"max_token is not a member of a request \(did you mean max_tokens\?\)",
    ):
        parse_members(["max_token=5"])
    assert "max_tokens" in MEMBERS


ODD: list[Any] = [None, True, 0, 1, -1, 1.0, 2, 2.5, 2**31, 2**63, float("nan"), "", "5", [], {}]
TEXTS = ["Hi", "Grüß dich", "\N{GRINNING FACE}", "", " ", "\u2003", "a\0b", "\ud800"]
ROLES = ["system", "user", "assistant", "tool", "developer", 5]
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(ROLES), "content": st.sampled_from(TEXTS)},
    optional={"name": st.just("me")},
)
NAMES = ["model", "max_tokens", "temperature", "top_p", "seed", "stream", "user"]
TURNS = st.lists(TURN, min_size=1, max_size=2)
BODY = st.builds(
    lambda turns, members: {"messages": turns, **members},
    st.just(HI) | TURNS | st.sampled_from(ODD),
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from([*TEXTS, *ODD]), max_size=2),
)


@settings(max_examples=1000)
@given(BODY)
def test_simple_chat_passes_the_full_check(body: dict[str, Any]) -> None:
    if not is_simple_chat(body):
        return
    with patch("foundry_api.batch.request_body.is_simple_chat", return_value=False):
        assert validate_body(CHAT_URL, body) == body


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"model": "demo", "max_tokens": 50, "temperature": 0, "top_p": 1.0, "seed": -7},
        {"messages": [{"role": "system", "content": "Be brief"}, *HI]},
        {"messages": [*HI, {"role": "assistant", "content": "Grüß dich"}, *HI]},
    ],
)
def test_common_bodies_are_simple_chats(members: dict[str, Any]) -> None:
    assert is_simple_chat({**CHAT, **members})
