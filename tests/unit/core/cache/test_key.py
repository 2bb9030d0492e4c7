"""Equivalent requests have the same key and others do not; which answers are cached."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.core.cache.entry import is_deterministic, make_key, may_serve, may_store
from foundry_api.core.chat import make_chat_request
from foundry_api.types.messages import (
    ChatRequest,
    ChoiceConstraint,
    FunctionCall,
    GrammarConstraint,
    JsonSchemaConstraint,
    Message,
    ToolCall,
    ToolDefinition,
)

TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1
).filter(str.strip)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
ARGUMENTS = st.fixed_dictionaries(
    {
        "messages": st.lists(
            st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": TEXT}),
            min_size=1,
            max_size=3,
        )
    },
    optional={
        "max_tokens": st.integers(1, 4096),
        "temperature": st.sampled_from([0, 0.0, 0.5, 1, 1.0, 2]),
        "top_p": st.floats(0.125, 1),
        "seed": st.integers(0, 2**31),
        "stop": st.lists(TEXT, min_size=1, max_size=4),
        "extra": st.dictionaries(st.text(min_size=1, max_size=4), JSON, min_size=1, max_size=3),
    },
)
HELLO = ChatRequest(messages=(Message("user", "hello"),))
OTHERS: dict[str, tuple[Any, ...]] = {
    "messages": (
        (Message("user", "hello "),),
        (Message("system", "hello"),),
        (Message("user", "hello"), Message("user", "hello")),
        (Message("assistant", tool_calls=(ToolCall("1", FunctionCall("f", "{}")),)),),
        (Message("assistant", tool_calls=(ToolCall("2", FunctionCall("f", "{}")),)),),
    ),
    "max_tokens": (1, 2),
    "temperature": (0.0, 0.1),
    "top_p": (0.1, 0.2),
    "seed": (0, 1),
    "stop": (("a",), ("a", "b")),
    "tools": (
        (ToolDefinition(name="f"),),
        (ToolDefinition(name="f", description="g"),),
        (ToolDefinition(name="f", parameters={"a": 1, "b": 2}),),
        (ToolDefinition(name="f", parameters={"b": 2, "a": 1}),),
    ),
    "tool_choice": ("none", "required", "f"),
    "tools_in_prompt": (True,),
    "constraint": (
        JsonSchemaConstraint({"a": 1, "b": 2}),
        JsonSchemaConstraint({"b": 2, "a": 1}),
        ChoiceConstraint(("a", "b")),
        GrammarConstraint("a"),
    ),
    "extra": ({"a": 1}, {"a": 1.0}, {"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}),
}


def key(request: ChatRequest, model: str = "demo:1") -> str:
    return make_key(model, "sdk-2.1", request)


def spelt_otherwise(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return an equivalent request, as another program would write it."""
    other = dict(reversed(arguments.items()))
    other["messages"] = [Message(**message) for message in arguments["messages"]]
    other["extra"] = dict(reversed(arguments.get("extra", {}).items()))
    if "temperature" in other:
        other["temperature"] = float(other["temperature"])
    if "stop" in other:
        other["stop"] = [*reversed(other["stop"])]
    return other


@given(ARGUMENTS)
def test_equivalent_requests_have_the_same_key(arguments: dict[str, Any]) -> None:
    assert key(make_chat_request(**arguments)) == key(
        make_chat_request(**spelt_otherwise(arguments))
    )


@given(ARGUMENTS, ARGUMENTS)
def test_different_requests_have_different_keys(a: dict[str, Any], b: dict[str, Any]) -> None:
    one, other = make_chat_request(**a), make_chat_request(**b)
    alike = meaning(one) == meaning(other)
    assert (key(one) == key(other)) == alike


def meaning(request: ChatRequest) -> bytes:
    """Return what is sent, with unordered members sorted. As JSON, because True == 1 in Python."""
    stop, extra = tuple(sorted(set(request.stop))), dict(sorted(request.extra.items()))
    temperature = None if request.temperature is None else float(request.temperature)
    top_p = None if request.top_p is None else float(request.top_p)
    same = msgspec.structs.replace(
        request, stop=stop, extra=extra, temperature=temperature, top_p=top_p
    )
    return msgspec.json.encode(same)


@pytest.mark.parametrize("name", ChatRequest.__struct_fields__)
def test_every_member_of_a_request_is_in_its_key(name: str) -> None:
    """A new member fails this test: add a value to OTHERS that changes an answer."""
    changed = [msgspec.structs.replace(HELLO, **{name: value}) for value in OTHERS[name]]
    keys = {key(request) for request in (HELLO, *changed)}
    assert len(keys) == 1 + len(changed)


def test_new_member_changes_the_key_only_if_it_is_set() -> None:
    class One(msgspec.Struct, frozen=True):
        value: str

    class Other(msgspec.Struct, frozen=True):
        value: str

    class Later(ChatRequest, frozen=True, kw_only=True):
        later: One | Other | None = None

    messages = HELLO.messages
    assert key(Later(messages=messages)) == key(HELLO)
    values = (None, One("x"), One("y"), Other("x"))
    keys = {key(Later(messages=messages, later=value)) for value in values}
    assert len(keys) == 4


def test_tool_choice_auto_has_the_key_of_the_default() -> None:
    assert key(msgspec.structs.replace(HELLO, tool_choice="auto")) == key(HELLO)


def test_model_and_generation_are_in_the_key() -> None:
    keys = {make_key(model, "sdk-2.1", HELLO) for model in ("demo:1", "demo:2")}
    keys.add(make_key("demo:1", "sdk-2.0", HELLO))
    assert len(keys) == 3


def test_keys_do_not_change_between_versions() -> None:
    """Otherwise an update makes all cache files useless. Increase FORMAT if keys must change."""
    assert key(HELLO) == "c53024568fb63042edbad4369ff252b2bf74be3d459b2c79d40169316da6709d"


@pytest.mark.parametrize(
    ("request_", "deterministic"),
    [
        (HELLO, False),
        ({"temperature": 0.0}, True),
        ({"temperature": 0.1}, False),
        ({"seed": 0}, True),
        ({"temperature": 1.0, "seed": 7}, True),
        ({"extra": {"temperature": 0}}, True),
        ({"extra": {"temperature": 0}, "temperature": 1.0}, False),
        ({"extra": {"seed": 1}}, True),
        ({"extra": {"seed": None}}, False),
    ],
)
def test_deterministic_requests(
    request_: ChatRequest | dict[str, Any],
    deterministic: bool,  # noqa: FBT001
) -> None:
    request = (
        request_
        if isinstance(request_, ChatRequest)
        else msgspec.structs.replace(HELLO, **request_)
    )
    assert is_deterministic(request) == deterministic
    assert may_serve(request, "auto", only_deterministic=True) == deterministic
    assert may_serve(request, "auto", only_deterministic=False)
    assert may_serve(request, "always", only_deterministic=True)
    assert not may_serve(request, "never", only_deterministic=False)


def test_complete_answers_are_stored() -> None:
    assert [may_store(reason) for reason in ("stop", "length", "tool_calls")] == [True] * 3
    assert not may_store("content_filter")
