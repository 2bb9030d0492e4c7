"""The bodies of requests: lists that are too long, and members that nobody knows."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from foundry_api.gateway.anthropic.request import MessagesBody
from foundry_api.gateway.errors import RequestError
from foundry_api.gateway.json_body import decode_json
from foundry_api.gateway.openai.chat_request import MAX_MESSAGES, ChatBody
from foundry_api.gateway.openai.responses_request import ResponseBody

MESSAGE = {"role": "user", "content": 'a "{" in a text'}


def make_body(count: int, member: str = "messages", gap: str = "") -> bytes:
    items = f"{gap},{gap}".join([json.dumps(MESSAGE)] * count)
    return f'{{"model":"m","max_tokens":9,"{member}":[{gap}{items}{gap}]}}'.encode()


def record_values(kind: Any) -> tuple[Any, list[object]]:
    """Return a type like another one, and a list to which each value of it is added."""
    built: list[object] = []

    class Recorded(kind):  # type: ignore[misc] # of a variable
        def __post_init__(self) -> None:
            built.append(self)

    return Recorded, built


@pytest.mark.parametrize("gap", ["", " \n\t\r"])
@pytest.mark.parametrize(
    ("kind", "member"),
    [(ChatBody, "messages"), (MessagesBody, "messages"), (ResponseBody, "input")],
)
def test_p48_more_messages_than_may_be_are_refused_before_they_are_built(
    kind: type[msgspec.Struct], member: str, gap: str
) -> None:
    recorded, built = record_values(kind)
    value, _ = decode_json(make_body(MAX_MESSAGES, member, gap), recorded)
    assert len(getattr(value, member)) == MAX_MESSAGES
    assert built == [value]
    with pytest.raises(RequestError) as caught:
        decode_json(make_body(MAX_MESSAGES + 1, member, gap), recorded)
    assert (caught.value.status, caught.value.param) == (400, member)
    assert built == [value]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","messages":[%b]}' % b",".join([b"{" * 9] * 5000),  # not JSON
        b'{"model":"m","messages":[%b]}' % b",".join([b'{"role":9}'] * 5000),  # a wrong type
        b'{"model":"m","messages":[%b]}' % (b'{"x":' * 50_000),  # nested deeply
        b'{"model":"m","messages":"%b"}' % (b"{" * 50_000),  # no list
    ],
)
def test_p48_other_bodies_of_that_size_are_refused_too(body: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        decode_json(body, ChatBody)
    assert caught.value.status == 400


def test_a_long_text_with_many_braces_is_no_long_list() -> None:
    content = "{" * 100_000
    body = msgspec.json.encode({"messages": [{"role": "user", "content": content}] * 3})
    value, _ = decode_json(body, ChatBody)
    assert [message.content for message in value.messages] == [content] * 3


@pytest.mark.parametrize(
    "body",
    [
        make_body(5)[:-1] + b',"messages":[]}',
        make_body(5)[:-1] + b',"mess\\u0061ges":[]}',
        b'{"messages":[],' + make_body(5)[1:],
        b'{"messages": [1] , "messages" :[1]}',
        b'{"messages":1,"messages":12}',
        b'{"a":{},"b":"a","c":1,"a":{}}',
    ],
)
def test_p48_a_member_that_is_repeated_is_refused_before_it_is_built(
    body: bytes,
) -> None:
    recorded, built = record_values(ChatBody)
    with pytest.raises(RequestError, match="twice") as caught:
        decode_json(body, recorded)
    assert (caught.value.status, caught.value.param) == (
        400,
        "a" if b'"a"' in body else "messages",
    )
    assert not built


def test_p48_members_are_few() -> None:
    recorded, built = record_values(ChatBody)
    body = b'{"messages":[],%b}' % b",".join(b'"x%d":1' % number for number in range(1000))
    with pytest.raises(RequestError, match="members"):
        decode_json(body, recorded)
    assert not built


def test_the_same_name_in_several_objects_is_not_repeated() -> None:
    body = b'{"messages":[%b],"metadata":{"messages":"messages"},"x":[{"x":"x"}]}'
    value, _ = decode_json(body % b'{"role":"user","content":"\\"messages\\":"}', ChatBody)
    assert [message.content for message in value.messages] == ['"messages":']


def test_unknown_members_are_counted() -> None:
    body = msgspec.json.encode({"messages": [MESSAGE], "top_k": 3, "min_p": 0.1, "seed": 1})
    assert decode_json(body, ChatBody)[1] == 2
