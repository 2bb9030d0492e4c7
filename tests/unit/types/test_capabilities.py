"""Requests that a service generation would ignore are refused."""

from __future__ import annotations

from typing import Any

import pytest

from foundry_api.core.chat import make_chat_request
from foundry_api.types.capabilities import CAPABILITIES
from foundry_api.types.errors import InvalidRequest, UnsupportedFeature
from foundry_api.types.messages import ChoiceConstraint, GrammarConstraint, JsonSchemaConstraint

HI = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("generation", CAPABILITIES)
@pytest.mark.parametrize(
    "extra",
    [
        {"n": 1},
        {"logprobs": False, "top_logprobs": None},
        {"logit_bias": {}},
        {"presence_penalty": 0, "frequency_penalty": 0.0},
        {"response_format": {"type": "text"}},
        {"metadata": {"top_k": "5"}, "user": "me"},
    ],
)
def test_neutral_values_are_accepted(generation: Any, extra: dict[str, Any]) -> None:
    CAPABILITIES[generation].check(make_chat_request(HI, extra=extra))


@pytest.mark.parametrize("generation", CAPABILITIES)
@pytest.mark.parametrize(
    "extra", [{"n": 2}, {"logprobs": True}, {"top_logprobs": 3}, {"logit_bias": {"1": 2}}]
)
def test_an_ignored_parameter_is_refused(generation: Any, extra: dict[str, Any]) -> None:
    (name,) = extra
    with pytest.raises(UnsupportedFeature, match=rf"{generation} does not support {name}"):
        CAPABILITIES[generation].check(make_chat_request(HI, extra=extra))


def test_a_seed_above_the_maximum_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="seed is 2147483648") as caught:
        CAPABILITIES["sdk-1"].check(make_chat_request(HI, seed=2**31))
    assert caught.value.field == "seed"
    CAPABILITIES["sdk-1"].check(make_chat_request(HI, seed=-(2**31)))
    CAPABILITIES["sdk-2.1"].check(make_chat_request(HI, seed=2**31))


@pytest.mark.parametrize("generation", CAPABILITIES)
def test_a_grammar_is_refused_without_support(generation: Any) -> None:
    capabilities = CAPABILITIES[generation]
    for constraint in (JsonSchemaConstraint({"type": "integer"}), ChoiceConstraint(("yes", "no"))):
        capabilities.check(make_chat_request(HI, constraint=constraint))
    request = make_chat_request(HI, constraint=GrammarConstraint("start: /a+/"))
    if capabilities.grammar == "native":
        capabilities.check(request)
        return
    with pytest.raises(
        UnsupportedFeature, match=f"generation {generation} does not support grammars"
    ) as caught:
        capabilities.check(request)
    assert caught.value.field == "grammar"
