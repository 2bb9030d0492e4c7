"""Values of a new key, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.gateway.keys.options import (
    RATE_UNITS,
    TOKEN_UNITS,
    check_key_name,
    parse_grace,
    parse_lifetime,
    parse_limit,
    parse_limits,
    parse_models,
    parse_parallel,
    parse_scopes,
)
from foundry_api.gateway.keys.types import ApiKey, Limit
from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable


def parse_rate(field: str, text: str) -> Limit:
    return parse_limit(field, text, RATE_UNITS)


def parse_tokens(field: str, text: str) -> tuple[Limit, ...]:
    return parse_limits(field, text, TOKEN_UNITS)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_rate, "60/m", Limit(60, "m")),
        (parse_rate, " 5 / s ", Limit(5, "s")),
        (parse_tokens, "100000/d", (Limit(100_000, "d"),)),
        (parse_tokens, "9/mo,2/m", (Limit(2, "m"), Limit(9, "mo"))),
        (parse_scopes, "inference", frozenset({"inference"})),
        (parse_scopes, "metrics, manage,metrics", frozenset({"metrics", "manage"})),
        (parse_models, "Demo, a/b:4", frozenset({"demo", "a/b:4"})),
        (parse_parallel, "4", 4),
        (parse_lifetime, "90d", 90 * 86_400.0),
        (parse_lifetime, "1h30m", 5400.0),
        (parse_grace, "24h", 86_400.0),
        (parse_grace, "0", 0.0),
        (parse_grace, "0s", 0.0),
        (check_key_name, "Édge site 4", "Édge site 4"),
    ],
)
def test_a_value(parse: Callable[[str, str], Any], text: str, value: object) -> None:
    assert parse("field", text) == value


@pytest.mark.parametrize(
    ("parse", "text", "problem"),
    [
        *(
            (parse_rate, text, "not a limit")
            for text in ("", "60", "0/m", "-1/m", "60/mo", "1.5/m")
        ),
        *((parse_rate, text, "not a limit") for text in ("9" * 5000 + "/m", "٣/m", "60/m/m", "/m")),
        (parse_tokens, "5/s", "not a limit"),
        (parse_tokens, "5/m,6/m", "two limits for one unit"),
        (parse_scopes, "", "no scope"),
        (parse_scopes, "inference,admin", "with 'admin'"),
        (parse_models, ",", "not a list of models"),
        (parse_models, "a\0b", "not a list of models"),
        (parse_models, "x" * 257, "not a list of models"),
        *((parse_parallel, text, "not a number of calls") for text in ("0", "-1", "x", "9" * 5000)),
        (parse_lifetime, "soon", "not a duration"),
        (parse_lifetime, "0d", "not a duration"),
        (parse_lifetime, "99999d", "more than 100 years"),
        (parse_lifetime, "9" * 400 + "d", "more than 100 years"),
        (parse_grace, "0x", "not a duration"),
        (check_key_name, "", "not a name"),
        (check_key_name, " a", "not a name"),
        (check_key_name, "a\nb", "not a name"),
        (check_key_name, "a\udc80", "not a name"),
        (check_key_name, "x" * 65, "not a name"),
    ],
)
def test_a_wrong_value_names_the_option(
    parse: Callable[[str, str], Any], text: str, problem: str
) -> None:
    with pytest.raises(InvalidRequest, match=problem) as raised:
        parse("field", text)
    assert raised.value.field == "field"
    assert raised.value.message.startswith("field ")
    assert raised.value.hint
    assert len(raised.value.message) < 700


def test_p18_a_token_as_a_name_is_not_repeated() -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_key_name("name", "fk_k7m2q9xa_canary")
    assert "canary" not in str(raised.value)


def test_the_text_of_a_limit_is_what_was_parsed() -> None:
    assert str(parse_rate("rate", "60/m")) == "60/m"
    assert parse_rate("rate", "60/m").period_s == 60
    assert parse_tokens("tokens", "9/mo")[0].period_s is None


def test_models_are_allowed_by_any_of_their_names() -> None:
    key = ApiKey(id="a", name="a", scopes=frozenset(), created_at=0, models=frozenset({"phi-4"}))
    assert key.allows_model("Phi-4-mini-instruct:4", "PHI-4")
    assert not key.allows_model("phi-4-mini")
    assert not key.allows_model()
    assert ApiKey(id="a", name="a", scopes=frozenset(), created_at=0).allows_model("any")
