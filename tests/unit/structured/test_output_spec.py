"""Arguments that define the output, and valid and invalid answers."""

from __future__ import annotations

import decimal
import json
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from foundry_api.structured import output_spec
from foundry_api.structured.errors import UserCodeFailed, ValidationFailed
from foundry_api.structured.output_spec import OutputSpec
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.messages import ChoiceConstraint, GrammarConstraint, JsonSchemaConstraint


@dataclass
class Point:
    x: int
    y: int = 0


def get_errors(spec: OutputSpec, text: str) -> tuple[str, ...]:
    with pytest.raises(ValidationFailed) as caught:
        spec.validate(text)
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
def test_json_is_found_in_an_answer(text: str) -> None:
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
def test_incomplete_json_is_invalid(text: str) -> None:
    get_errors(OutputSpec.from_arguments(response_model=Point), text)


def test_errors_describe_the_json_within_the_text() -> None:
    spec = OutputSpec.from_arguments(response_model=Point)
    assert get_errors(spec, 'Sure: {"x": "one"}') == ("$.x: Expected int, got str",)
    assert get_errors(spec, "") == ("the answer is empty",)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("yes", "yes"),
        (" Yes.\n", "yes"),
        ('"no"', "no"),
        ("**No**", "no"),
        ("`not sure`", "not sure"),
        ("NOT SURE!", "not sure"),
    ],
)
def test_choice_is_recognized(text: str, choice: str) -> None:
    assert OutputSpec.from_arguments(choice=["yes", "no", "not sure"]).validate(text) == choice


@pytest.mark.parametrize("text", ["", "maybe", "yes, but no", "yes no"])
def test_error_of_an_invalid_choice_lists_the_choices(text: str) -> None:
    (error,) = get_errors(OutputSpec.from_arguments(choice=["yes", "no"]), text)
    assert error.startswith("the answer has to be one of 'yes', 'no', but it is")


def test_choices_may_differ_only_in_case() -> None:
    spec = OutputSpec.from_arguments(choice=["us", "US"])
    assert spec.validate("US") == "US"
    get_errors(spec, "Us")


def test_parser() -> None:
    assert OutputSpec.from_arguments(parser=int).validate(" 12 ") == 12
    assert get_errors(OutputSpec.from_arguments(parser=int), "twelve") == (
        "the answer cannot be parsed: invalid literal for int() with base 10: 'twelve'",
    )


def test_other_exceptions_of_a_parser_are_user_code_failures() -> None:
    with pytest.raises(UserCodeFailed, match="the parser failed: InvalidOperation") as caught:
        OutputSpec.from_arguments(parser=decimal.Decimal).validate("twelve")
    assert isinstance(caught.value.failure, decimal.InvalidOperation)


def test_msgspec_errors_of_a_parser_reject_the_answer() -> None:
    parser = msgspec.json.Decoder(list[int]).decode
    assert get_errors(OutputSpec.from_arguments(parser=parser), '["a"]') == (
        "the answer cannot be parsed: Expected `int`, got `str` - at `$[0]`",
    )


def test_validators_get_the_parsed_value() -> None:
    def is_small(point: Point) -> None:
        if point.x > 9:
            raise ValueError("$.x is more than 9")

    spec = OutputSpec.from_arguments(
        response_model=Point, validators=[is_small, lambda p: p.y == 0]
    )
    assert spec.validate('{"x": 1}') == Point(1)
    assert get_errors(spec, '{"x": 10}') == ("$.x is more than 9",)
    assert get_errors(spec, '{"x": 1, "y": 2}') == ("<lambda> rejects the answer",)


def test_validators_without_a_parser_get_the_text() -> None:
    seen: list[str] = []
    assert OutputSpec.from_arguments(validators=[seen.append]).validate("a text") is None
    assert seen == ["a text"]


def test_grammar_with_and_without_a_parser() -> None:
    assert OutputSpec.from_arguments(grammar="start: /a+/").validate("aa") == "aa"
    both = OutputSpec.from_arguments(grammar="start: /[0-9]+/", parser=int)
    assert (both.constraint, both.validate("12")) == (GrammarConstraint("start: /[0-9]+/"), 12)


def test_constraints_of_the_engine() -> None:
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
def test_error_names_the_invalid_argument(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        OutputSpec.from_arguments(**arguments)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("text", "may_be_cut"), [("no", True), ("not sure", True), ("not", False), ("yes", False)]
)
def test_truncated_choice_that_is_no_prefix_is_complete(text: str, *, may_be_cut: bool) -> None:
    spec = OutputSpec.from_arguments(choice=["yes", "yes please", "no", "not sure"])
    assert spec.may_be_truncated(text) is (may_be_cut and text != "no")


def test_json_and_grammars_may_not_be_truncated() -> None:
    assert OutputSpec.from_arguments(parser=str).may_be_truncated("half a sen")
    assert not OutputSpec.from_arguments(response_model=int).may_be_truncated("12")
    assert not OutputSpec.from_arguments(grammar="start: /1+/").may_be_truncated("11")


def test_search_for_valid_json_is_limited_in_time() -> None:
    """Each of a hundred texts may take seconds to validate."""
    seconds = iter(range(0, 1000, 4))
    tried: list[str] = []

    def decode(text: str) -> Any:
        tried.append(text)
        raise ValidationFailed("not this one")

    first = vars(output_spec)["_first_valid"]
    with pytest.raises(ValidationFailed, match="not this one"):
        first(decode, '{"a": 1} ' * 50, monotonic=lambda: next(seconds))
    assert len(tried) == 2
