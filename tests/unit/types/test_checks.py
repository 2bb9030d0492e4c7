"""Invalid arguments are refused before a request is sent, by name."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.core.chat import make_chat_request
from foundry_api.types.checks import check_timeout, prompt_to_messages, validate_messages
from foundry_api.types.errors import InvalidRequest, UnsupportedFeature
from foundry_api.types.messages import ChatRequest, FunctionCall, Message, ToolCall

HI = [{"role": "user", "content": "Hi"}]


def test_a_request_has_the_arguments() -> None:
    request = make_chat_request(
        [{"role": "system", "content": "Be brief"}, Message("user", "Hi")],
        max_tokens=5,
        temperature=0,
        top_p=1,
        seed=-7,
        stop=["\n", "END"],
        extra={"metadata": {"top_k": "5"}},
    )
    assert request == ChatRequest(
        messages=(Message("system", "Be brief"), Message("user", "Hi")),
        max_tokens=5,
        temperature=0,
        top_p=1,
        seed=-7,
        stop=("\n", "END"),
        extra={"metadata": {"top_k": "5"}},
    )


def test_omitted_arguments_are_none() -> None:
    assert make_chat_request(HI) == ChatRequest(messages=(Message("user", "Hi"),))


def test_messages_may_come_from_any_iterable() -> None:
    assert validate_messages(Message("user", text) for text in "ab") == (
        Message("user", "a"),
        Message("user", "b"),
    )


@pytest.mark.parametrize(("stop", "strings"), [(None, ()), ("END", ("END",)), ([], ())])
def test_stop_may_be_a_single_string(stop: Any, strings: tuple[str, ...]) -> None:
    assert make_chat_request(HI, stop=stop).stop == strings


def test_a_request_copies_its_arguments() -> None:
    extra = {"user": "me"}
    request = make_chat_request(HI, extra=extra)
    extra["user"] = "you"
    assert request.extra == {"user": "me"}


LOOP: dict[str, Any] = {}
LOOP["self"] = LOOP

REFUSALS: list[tuple[str, dict[str, Any]]] = [
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": -1}),
    ("max_tokens", {"max_tokens": 5.0}),
    ("max_tokens", {"max_tokens": "5"}),
    ("max_tokens", {"max_tokens": True}),
    ("max_tokens", {"max_tokens": math.nan}),
    ("max_tokens", {"max_tokens": 2**31}),
    ("temperature", {"temperature": -0.1}),
    ("temperature", {"temperature": 2.1}),
    ("temperature", {"temperature": math.nan}),
    ("temperature", {"temperature": math.inf}),
    ("temperature", {"temperature": "warm"}),
    ("temperature", {"temperature": False}),
    ("top_p", {"top_p": -1}),
    ("top_p", {"top_p": 1.1}),
    ("top_p", {"top_p": "all"}),
    ("seed", {"seed": 1.5}),
    ("seed", {"seed": "1"}),
    ("seed", {"seed": True}),
    ("seed", {"seed": 2**63}),
    ("stop", {"stop": list("abcde")}),
    ("stop", {"stop": 5}),
    ("stop", {"stop": ""}),
    ("stop[0]", {"stop": [""]}),
    ("stop", {"stop": b"END"}),
    ("stop", {"stop": {"END": 1}}),
    ("stop[1]", {"stop": ["a", 5]}),
    ("stop", {"stop": "a\0b"}),
    ("stop[1]", {"stop": ["a", "\ud800"]}),
    ("extra", {"extra": {"x": object()}}),
    ("extra", {"extra": {"x": "\ud800"}}),
    ("extra", {"extra": {(1, 2): 3}}),
    ("extra", {"extra": LOOP}),
    ("extra", {"extra": "text"}),
    ("extra", {"extra": 5}),
]


@pytest.mark.parametrize(("field", "arguments"), REFUSALS)
def test_an_invalid_argument_is_named(field: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make_chat_request(HI, **arguments)
    assert caught.value.field == field
    assert str(caught.value).startswith(field)
    assert str(caught.value).endswith(caught.value.hint)
    assert caught.value.attempts == 0


@pytest.mark.parametrize(
    ("field", "messages"),
    [
        ("messages", []),
        ("messages", ()),
        ("messages", None),
        ("messages", 5),
        ("messages", "Hi"),
        ("messages", b"Hi"),
        ("messages", {"role": "user", "content": "Hi"}),
        ("messages", Message("user", "Hi")),
        ("messages[0]", ["Hi"]),
        ("messages[0]", [5]),
        ("messages[0]", [None]),
        ("messages[0]", [{}]),
        ("messages[0].content", [{"role": "user"}]),
        ("messages[0]", [{"role": "robot", "content": "Hi"}]),
        ("messages[0].content", [{"role": "user", "content": None}]),
        ("messages[0].content", [{"role": "user", "content": []}]),
        ("messages[0].content[0].text", [{"role": "user", "content": [{"type": "text"}]}]),
        ("messages[0].content", [{"role": "user", "content": [{"type": "text", "text": ""}]}]),
        ("messages[0].content", [{"role": "user", "content": 5}]),
        ("messages[0]", [{"role": "assistant", "tool_calls": [{"id": "1", "function": {}}]}]),
        ("messages[0]", [Message("robot", "Hi")]),  # type: ignore[arg-type]
        ("messages[0].content", [Message("user", None)]),  # type: ignore[arg-type]
        ("messages[0].content", [{"role": "user", "content": ""}]),
        ("messages[0].content", [Message("user", " \n")]),
        ("messages[1].content", [*HI, {"role": "user", "content": "a\0b"}]),
        ("messages[1].content", [*HI, Message("user", "a\ud800")]),
    ],
)
def test_an_invalid_message_is_named(field: str, messages: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate_messages(messages)
    assert caught.value.field == field
    assert str(caught.value).startswith(field)


@pytest.mark.parametrize("timeout", [0, -1, math.nan, True, "soon"])
def test_an_invalid_timeout_is_refused(timeout: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_timeout(timeout)
    assert caught.value.field == "timeout"


@pytest.mark.parametrize("timeout", [None, 0.001, 30, math.inf])
def test_a_timeout_may_be_short_or_infinite(timeout: float | None) -> None:
    check_timeout(timeout)


def request_or_field(messages: Any, **options: Any) -> ChatRequest | str | None:
    """Return the request if it is valid, else the name of the invalid argument."""
    try:
        request = make_chat_request(messages, **options)
    except InvalidRequest as error:
        return error.field
    msgspec.json.encode(request)
    return request


@given(text=st.text(alphabet=st.characters(), max_size=50))
def test_any_text_is_either_refused_or_encodable(text: str) -> None:
    request = request_or_field([Message("user", text)], stop=text, extra={"user": text})
    if isinstance(request, ChatRequest):
        assert msgspec.json.decode(msgspec.json.encode(request))["messages"][0]["content"] == text
    else:
        assert request in {"messages[0].content", "stop", "extra"}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=5,
)


@given(
    messages=ANYTHING,
    options=st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("max_tokens", "temperature", "top_p", "seed", "stop", "extra"), ANYTHING
        ),
    ),
)
def test_any_argument_raises_only_invalid_request(messages: Any, options: dict[str, Any]) -> None:
    for given_messages in (messages, HI):
        assert request_or_field(given_messages, **options)


@pytest.mark.parametrize(
    ("prompt", "system", "field"),
    [
        ("", None, "prompt"),
        ("  \n", None, "prompt"),
        ("a\0b", None, "prompt"),
        ("\ud800", None, "prompt"),
        (None, None, "prompt"),
        ("hello", 5, "system"),
        ("hello", "\udfff", "system"),
    ],
)
def test_an_invalid_prompt_has_the_callers_name(prompt: Any, system: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prompt_to_messages(prompt, system)
    assert caught.value.field == field


def test_an_unknown_message_member_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="audio"):
        validate_messages([{"role": "user", "content": "4", "audio": {"id": "1"}}])


def test_tool_call_messages_are_kept() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    asked, answered = validate_messages(
        [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "4", "tool_call_id": "call_1"},
        ]
    )
    assert asked == Message(
        "assistant", tool_calls=(ToolCall("call_1", FunctionCall("add", "{}")),)
    )
    assert answered == Message("tool", "4", tool_call_id="call_1")
    assert validate_messages([asked, answered]) == (asked, answered)


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "Hello, "}, {"type": "text", "text": "world"}]
    assert validate_messages([{"role": "user", "content": parts}]) == (
        Message("user", "Hello, world"),
    )


def test_an_unsupported_part_is_refused() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    with pytest.raises(UnsupportedFeature, match=r"messages\[0\]\.content\[1\]"):
        validate_messages([{"role": "user", "content": [{"type": "text", "text": "See:"}, image]}])
