"""Constraints of turn generation: enforced by the engine, or instructions in the system turn."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.core.chat import make_chat_request
from foundry_api.structured.repair import add_instructions
from foundry_api.types.messages import (
    ChoiceConstraint,
    GrammarConstraint,
    JsonSchemaConstraint,
    Message,
)
from foundry_api.types.models import Model
from foundry_api.wire.dialects.base import ServiceClient
from foundry_api.wire.dialects.cli010 import Cli010Dialect
from foundry_api.wire.dialects.legacy import LegacyDialect
from foundry_api.wire.dialects.sdk1 import Sdk1Dialect
from foundry_api.wire.dialects.sdk2 import Sdk20Dialect, Sdk21Dialect
from support.fake_transport import FakeTransport

if TYPE_CHECKING:
    from foundry_api.types.messages import Constraint

MODEL = Model(id="tiny:1", alias="tiny", catalog="public")
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
PERSON = JsonSchemaConstraint({"type": "object", "properties": {"b": {"const": "é"}, "a": {}}})
WORDS = (
    "Be brief.\n\nAnswer with JSON and nothing else: no explanation, no code fence. "
    "It has to be valid against this JSON schema:\n"
    '{"type": "object", "properties": {"b": {"const": "é"}, "a": {}}}'
)
OLDER = [LegacyDialect, Cli010Dialect, Sdk1Dialect, Sdk20Dialect]


def body(kind: Any, constraint: Constraint | None, **more: Any) -> dict[str, Any]:
    request = make_chat_request(MESSAGES, constraint=constraint, **more)
    sent = kind(ServiceClient(FakeTransport({}), "http://service")).build_chat_request(
        MODEL, request
    )
    members: dict[str, Any] = json.loads(sent.body)
    return members


@pytest.mark.parametrize(
    ("constraint", "lark"),
    [
        (GrammarConstraint("start: /a+/"), "start: /a+/"),
        (ChoiceConstraint(("yes", "no")), 'start: "yes" | "no"'),
    ],
)
def test_sdk21_gets_a_grammar(constraint: Constraint, lark: str) -> None:
    sent_members = body(Sdk21Dialect, constraint)
    assert sent_members["response_format"] == {"type": "lark_grammar", "lark_grammar": lark}
    assert sent_members["messages"] == MESSAGES


def test_sdk21_gets_a_schema_in_property_order() -> None:
    lark = body(Sdk21Dialect, PERSON)["response_format"]["lark_grammar"]
    schema = json.loads(lark.removeprefix("start: %json "))
    assert list(schema["properties"]) == ["b", "a"]
    assert schema["x-guidance"]["whitespace_flexible"] is False


@pytest.mark.parametrize("kind", OLDER)
def test_older_generations_get_the_schema_in_the_system_turn(kind: Any) -> None:
    sent_members = body(kind, PERSON)
    assert "response_format" not in sent_members
    assert sent_members["messages"] == [{"role": "system", "content": WORDS}, MESSAGES[1]]
    assert body(kind, PERSON) == sent_members  # nothing random, so that prompts can be cached


@pytest.mark.parametrize("kind", OLDER)
def test_older_generations_get_the_choices_in_the_system_turn(kind: Any) -> None:
    system = body(kind, ChoiceConstraint(("yes", "no")))["messages"][0]["content"]
    assert system == "Be brief.\n\nAnswer with one of these, and nothing else:\n- yes\n- no"


def test_non_streaming_request_has_the_same_instructions() -> None:
    dialect = Sdk1Dialect(ServiceClient(FakeTransport({}), "http://service"))
    plain = dialect.build_non_streaming_request(
        MODEL, make_chat_request(MESSAGES, constraint=PERSON)
    )
    assert json.loads(plain.body or b"")["messages"][0]["content"] == WORDS


def test_instructions_add_a_system_turn() -> None:
    turns = add_instructions((Message("user", "Who?"),), ChoiceConstraint(("yes", "no")))
    assert [turn.role for turn in turns] == ["system", "user"]
