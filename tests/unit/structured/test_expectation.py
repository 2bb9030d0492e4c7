"""What an answer has to be: arguments that are refused, and texts that pass or don't."""

from __future__ import annotations

import decimal
import json
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from foundry_api.structured import expectation
from foundry_api.structured.expectation import OutputSpec
from foundry_api.structured.refusal import UserCodeFailed, ValidationFailed
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.messages import ChoiceConstraint, GrammarConstraint, JsonSchemaConstraint


@dataclass
class Point:
    x: int
    y: int = 0


def errors_of(expectation: OutputSpec, text: str) -> tuple[str, ...]:
    with pytest.raises(ValidationFailed) as caught:
        expectation.validate(text)
    return caught.value.errors


@pytest.mark.parametrize(
    "text",
    [
        '{"x": 1}',
        ' \n{"x": 1}\n',
        '```json\n{"x": 1}\n```',
        '```\n{"x": 1}```',
        'Here it is:\n```json\n{"x": 1}\n```\nAnything else?',
        'Here it is: {"x": 1}. Anything else?',
        'I read [your note] and {so on}: {"x": 1}',
        'First [1, 2], then {"y": 1}, then {"x": 1}',
    ],
)
def test_json_is_found_wherever_a_model_puts_it(text: str) -> None:
    assert OutputSpec.from_arguments(response_model=Point).validate(text) == Point(1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "I can't do that.",
        '{"x": 1',
        '{"point": {"x": 1}',
        '[{"x": 1}',
        '{"a": {"x": 1}, oops}',
    ],
)
def test_half_an_object_is_none_nor_is_what_lies_within_it(text: str) -> None:
    errors_of(OutputSpec.from_arguments(response_model=Point), text)


def test_of_json_within_talk_the_json_is_told_about() -> None:
    expectation = OutputSpec.from_arguments(response_model=Point)
    assert errors_of(expectation, 'Sure: {"x": "one"}') == ("$.x: Expected int, got str",)
    assert errors_of(expectation, "") == ("the answer is empty",)


@pytest.mark.parametrize(
    ("said", "choice"),
    [
        ("yes", "yes"),
        (" Yes.\n", "yes"),
        ('"no"', "no"),
        ("**No**", "no"),
        ("`not sure`", "not sure"),
        ("NOT SURE!", "not sure"),
    ],
)
def test_a_choice_is_recognised(said: str, choice: str) -> None:
    assert OutputSpec.from_arguments(choice=["yes", "no", "not sure"]).validate(said) == choice


@pytest.mark.parametrize("said", ["", "maybe", "yes, but no", "yes no"])
def test_what_is_no_choice_is_refused_with_the_choices(said: str) -> None:
    (error,) = errors_of(OutputSpec.from_arguments(choice=["yes", "no"]), said)
    assert error.startswith("the answer has to be one of 'yes', 'no', but it is")


def test_choices_that_differ_in_case_alone_are_told_apart() -> None:
    expectation = OutputSpec.from_arguments(choice=["us", "US"])
    assert expectation.validate("US") == "US"
    errors_of(expectation, "Us")


def test_a_parser_makes_of_the_text_what_it_likes() -> None:
    assert OutputSpec.from_arguments(parser=int).validate(" 12 ") == 12
    assert errors_of(OutputSpec.from_arguments(parser=int), "twelve") == (
        "the answer cannot be parsed: invalid literal for int() with base 10: 'twelve'",
    )


def test_a_parser_that_is_wrong_itself_is_not_the_models_fault() -> None:
    with pytest.raises(UserCodeFailed, match="the parser failed: InvalidOperation") as caught:
        OutputSpec.from_arguments(parser=decimal.Decimal).validate("twelve")
    assert isinstance(caught.value.failure, decimal.InvalidOperation)


def test_a_parser_of_msgspec_refuses_in_its_own_words() -> None:
    parser = msgspec.json.Decoder(list[int]).decode
    assert errors_of(OutputSpec.from_arguments(parser=parser), '["a"]') == (
        "the answer cannot be parsed: Expected `int`, got `str` - at `$[0]`",
    )


def test_validators_see_what_was_parsed_and_refuse_it() -> None:
    def is_small(point: Point) -> None:
        if point.x > 9:
            raise ValueError("$.x is more than 9")

    expectation = OutputSpec.from_arguments(
        response_model=Point, validators=[is_small, lambda p: p.y == 0]
    )
    assert expectation.validate('{"x": 1}') == Point(1)
    assert errors_of(expectation, '{"x": 10}') == ("$.x is more than 9",)
    assert errors_of(expectation, '{"x": 1, "y": 2}') == ("<lambda> refuses the answer",)


def test_validators_alone_see_the_text_and_make_nothing_of_it() -> None:
    seen: list[str] = []
    assert OutputSpec.from_arguments(validators=[seen.append]).validate("a text") is None
    assert seen == ["a text"]


def test_a_grammar_leaves_the_text_a_text_or_to_a_parser() -> None:
    assert OutputSpec.from_arguments(grammar="start: /a+/").validate("aa") == "aa"
    both = OutputSpec.from_arguments(grammar="start: /[0-9]+/", parser=int)
    assert (both.constraint, both.validate("12")) == (GrammarConstraint("start: /[0-9]+/"), 12)


def test_what_the_engine_is_asked_to_keep_to() -> None:
    assert OutputSpec.from_arguments(choice=iter(["a", "b"])).constraint == ChoiceConstraint(
        ("a", "b")
    )  # type: ignore[arg-type]
    schema = {"type": "integer"}
    assert OutputSpec.from_arguments(response_model=schema).constraint == JsonSchemaConstraint(
        schema
    )
    assert OutputSpec.from_arguments(parser=json.loads).constraint is None


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"response_model": int, "choice": ["a"]}, "choice"),
        ({"response_model": int, "parser": int}, "parser"),
        ({"choice": ["a"], "grammar": "start: A"}, "grammar"),
        ({"choice": ["a"], "parser": str}, "parser"),
        ({"response_model": int, "chunk_parser": str}, "chunk_parser"),
        ({"choice": []}, "choice"),
        ({"choice": "yes"}, "choice"),
        ({"choice": 5}, "choice"),
        ({"choice": ["a", "a"]}, "choice"),
        ({"choice": ["a", " b"]}, "choice"),
        ({"choice": ["a", ""]}, "choice[1]"),
        ({"choice": ["a", 5]}, "choice[1]"),
        ({"choice": ["a", "\ud800"]}, "choice[1]"),
        ({"grammar": " "}, "grammar"),
        ({"grammar": 5}, "grammar"),
        ({"parser": "int"}, "parser"),
        ({"chunk_parser": "int"}, "chunk_parser"),
        ({"validators": [str, None, 5]}, "validators[2]"),
        ({"response_model": 5}, "response_model"),
    ],
)
def test_arguments_at_fault_are_named(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        OutputSpec.from_arguments(**arguments)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("text", "may_be_cut"), [("no", True), ("not sure", True), ("not", False), ("yes", False)]
)
def test_a_choice_that_no_other_begins_with_may_end_at_the_bound(
    text: str, *, may_be_cut: bool
) -> None:
    expectation = OutputSpec.from_arguments(choice=["yes", "yes please", "no", "not sure"])
    assert expectation.may_be_truncated(text) is (may_be_cut and text != "no")


def test_what_is_read_by_a_parser_may_be_cut_and_json_may_not() -> None:
    assert OutputSpec.from_arguments(parser=str).may_be_truncated("half a sen")
    assert not OutputSpec.from_arguments(response_model=int).may_be_truncated("12")
    assert not OutputSpec.from_arguments(grammar="start: /1+/").may_be_truncated("11")


def test_looking_for_json_that_passes_ends() -> None:
    """Validating each of a hundred texts may take seconds."""
    seconds = iter(range(0, 1000, 4))
    tried: list[str] = []

    def decode(text: str) -> Any:
        tried.append(text)
        raise ValidationFailed("not this one")

    first = vars(expectation)["_first_valid"]
    with pytest.raises(ValidationFailed, match="not this one"):
        first(decode, '{"a": 1} ' * 50, monotonic=lambda: next(seconds))
    assert len(tried) == 2
