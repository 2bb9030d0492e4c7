"""What may take long is validated away from the event loop, and ends."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pydantic
import pytest

from foundry_api import tool
from foundry_api.structured import apart, schema
from foundry_api.structured.apart import CostlyPatterns, errors_apart
from foundry_api.structured.expectation import Expectation
from foundry_api.structured.refusal import Refused, TookTooLong
from foundry_api.structured.schema import response_model
from foundry_api.structured.validation import SchemaValidator
from foundry_api.tools import signature

if TYPE_CHECKING:
    from collections.abc import Callable

CATASTROPHE = "^(a+)+$"
NEVER_DONE = "a" * 40 + "!"
NESTED: dict[str, Any] = {
    "$ref": "#/$defs/tree",
    "$defs": {
        "tree": {
            "anyOf": [
                {"type": "array", "items": {"$ref": "#/$defs/tree"}, "minItems": 1},
                {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 9},
                {"type": "integer", "minimum": 5},
            ]
        }
    },
}


@dataclass
class Coded:
    code: Annotated[str, msgspec.Meta(pattern=CATASTROPHE)]


class Matched(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(regex_engine="python-re")
    code: str = pydantic.Field(pattern=CATASTROPHE)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "MAX_VALIDATION_S", 0.2)
    for module in (apart, schema, signature):
        monkeypatch.setattr(module, "MAX_PATTERN_S", 0.2)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("model", "text"),
    [
        ({"pattern": CATASTROPHE}, json.dumps(NEVER_DONE)),
        ({"properties": {"x": {"pattern": CATASTROPHE}}}, json.dumps({"x": NEVER_DONE})),
        ({"patternProperties": {CATASTROPHE: True}}, json.dumps({NEVER_DONE: 1})),
        ({"propertyNames": {"pattern": CATASTROPHE}}, json.dumps({NEVER_DONE: 1})),
        ({"pattern": "^(a|a)*$"}, json.dumps(NEVER_DONE)),
        ({"pattern": "^(a|aa)+$"}, json.dumps(NEVER_DONE * 2)),
        ({"pattern": "(a?){40}a{40}"}, json.dumps("a" * 40)),
        ({"pattern": "a?" * 40 + "a" * 40}, json.dumps("a" * 40)),
        ({"pattern": "^(?=(a+)+$)"}, json.dumps(NEVER_DONE)),
        ({"pattern": "a*a*a*a*a*a*a*b"}, json.dumps("a" * 500)),
        (NESTED, "[" * 24 + "1" + "]" * 24),
        (Coded, json.dumps({"code": NEVER_DONE})),
        (list[Coded], json.dumps([{"code": NEVER_DONE}])),
        (Matched, json.dumps({"code": NEVER_DONE})),
    ],
)
async def test_what_would_take_for_ever_is_refused(model: Any, text: str) -> None:
    with pytest.raises(TookTooLong):
        await Expectation.of(response_model=model).check_apart(text)


@pytest.mark.usefixtures("hurried")
def test_arguments_that_would_take_for_ever_are_refused() -> None:
    def look(code: Annotated[str, msgspec.Meta(pattern=CATASTROPHE)]) -> str:
        return code

    arguments = tool(look).arguments
    assert arguments is not None
    assert arguments.may_take_long({"code": NEVER_DONE})
    with pytest.raises(ValueError, match="could not be validated within"):
        arguments.converted({"code": NEVER_DONE})
    assert arguments.converted({"code": "aaa"}) == {"code": "aaa"}


async def test_validation_leaves_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    errors = SchemaValidator.errors

    def recorded(self: SchemaValidator, value: Any, **more: float) -> list[str]:
        threads.append(threading.get_ident())
        return errors(self, value, **more)

    monkeypatch.setattr(SchemaValidator, "errors", recorded)
    here = threading.get_ident()
    for model, text in (
        ({"type": "array", "items": {"type": "integer"}}, json.dumps([1] * 5000)),
        ({"pattern": "^a+$"}, '"aaa"'),
        (NESTED, "[7]"),
    ):
        await Expectation.of(response_model=model).check_apart(text)
    assert here not in threads
    assert len(threads) == 3


async def test_the_callers_own_code_stays_on_the_event_loop() -> None:
    def validator(value: Any) -> None:
        asyncio.get_running_loop()
        if value == "aaaa":
            raise ValueError("not this one")

    expectation = Expectation.of(response_model={"pattern": "^a+$"}, validators=[validator])
    assert await expectation.check_apart('"aaa"') == "aaa"
    with pytest.raises(Refused, match="not this one"):
        await expectation.check_apart('"aaaa"')
    with pytest.raises(Refused, match="does not match"):
        await expectation.check_apart('"bbb"')


def test_a_process_of_its_own_tells_the_same_errors() -> None:
    wanted = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["b"]}
    value = {"a": "x"}
    here = SchemaValidator(wanted).errors(value)
    assert here
    assert errors_apart(wanted, json.dumps(value), 60) == here
    assert errors_apart(wanted, '{"b": 1}', 60) == []


def test_many_steps_go_on_in_a_process_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "MAX_STEPS", 10)
    model = response_model({"type": "array", "items": {"type": "integer"}})
    assert model.decode(json.dumps([1] * 100)) == [1] * 100
    with pytest.raises(Refused, match=r"\$\[3\]: 'x' is not of type 'integer'"):
        model.decode(json.dumps([1, 2, 3, "x"] * 100))


@pytest.mark.parametrize(
    "pattern",
    [
        r"^\d{4}-\d{2}-\d{2}$",
        r"^[A-Z]{3}$",
        r"^[a-z]+$",
        r"^[a-z]+-[a-z]+$",
        r"^(red|green|blue)$",
        r"^#?[0-9a-f]{6}$",
        r"\S",
        r"^[\w.]+@[\w.]+$",
    ],
)
def test_usual_patterns_are_matched_without_a_process(pattern: str) -> None:
    assert not CostlyPatterns({"pattern": pattern}).may_take_long("x" * 200)


UNIQUE: list[tuple[list[Any], bool]] = [
    ([1, True], True),
    ([0, False], True),
    ([1, 1.0], False),
    ([2**53 + 1, float(2**53)], True),
    ([{"a": 1, "b": 2}, {"b": 2, "a": 1.0}], False),
    ([[1, [2]], [1, [2.0]]], False),
    ([[1, 2], [2, 1]], True),
    (["1", 1], True),
    ([None, None], False),
    ([0.0, -0.0], False),
    ([[], {}], True),
]


@pytest.mark.parametrize(("items", "is_unique"), UNIQUE)
def test_unique_items_are_those_that_json_tells_apart(items: list[Any], *, is_unique: bool) -> None:
    assert (SchemaValidator({"uniqueItems": True}).errors(items) == []) is is_unique


def test_unique_items_are_not_compared_with_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes numbers whose hashes collide gains nothing."""
    from foundry_api.structured import validation  # noqa: PLC0415 - for its private name

    calls = 0
    comparable: Callable[[Any], Any] = vars(validation)["_comparable"]

    def counted(value: Any) -> Any:
        nonlocal calls
        calls += 1
        return comparable(value)

    monkeypatch.setattr(validation, "_comparable", counted)
    items = [{"a": index} for index in range(1000)]
    assert SchemaValidator({"uniqueItems": True}).errors(items) == []
    assert calls == 2000
    monkeypatch.undo()
    colliding = [number * sys_hash_modulus() for number in range(1, 100)]
    assert len({hash(comparable(each)) for each in colliding}) == len(colliding)


def sys_hash_modulus() -> int:
    import sys  # noqa: PLC0415 - for this

    return sys.hash_info.modulus


def test_what_is_no_pattern_is_no_reason_to_fail() -> None:
    with pytest.raises(re.error):
        re.compile("(")
    assert CostlyPatterns({"pattern": "("}).may_take_long("x" * 100)
