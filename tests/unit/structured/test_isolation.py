"""Slow validation runs in a thread or a process, and is limited in time."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pydantic
import pytest

from foundry_api import tool
from foundry_api.structured import response_model as structured_response_model
from foundry_api.structured.errors import ValidationFailed, ValidationTimeout
from foundry_api.structured.isolation import validate_in_process
from foundry_api.structured.output_spec import OutputSpec
from foundry_api.structured.pattern_costs import PatternCosts
from foundry_api.structured.response_model import make_response_type
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
def limits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time limits of the processes that would have been started. All of them time out."""
    limits: list[float] = []

    def never_done(schema: dict[str, Any], text: str, limit_s: float) -> list[str]:
        del schema, text
        limits.append(limit_s)
        raise ValidationTimeout("it takes too long")

    for module in (structured_response_model, signature):
        monkeypatch.setattr(module, "validate_in_process", never_done)
    return limits


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
        ({"items": {"anyOf": [{"pattern": "^a*a*a*a*$"}, {}]}}, json.dumps(["a" * 29 + "!"] * 100)),
        (
            {"patternProperties": {"^a*a*a*$": {}}},
            json.dumps({f"{'a' * 90}{n}": 1 for n in range(100)}),
        ),
        (NESTED, "[" * 24 + "1" + "]" * 24),
        (Coded, json.dumps({"code": NEVER_DONE})),
        (list[Coded], json.dumps([{"code": NEVER_DONE}])),
        (Matched, json.dumps({"code": NEVER_DONE})),
    ],
)
async def test_slow_validation_runs_in_a_process(
    model: Any, text: str, limits: list[float]
) -> None:
    with pytest.raises(ValidationTimeout):
        await OutputSpec.from_arguments(response_model=model).validate_async(text)
    assert len(limits) == 1
    assert 0 < limits[0] <= 10


def test_process_is_killed_after_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else would end it, however long the limit is."""
    started: list[subprocess.Popen[bytes]] = []

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    with pytest.raises(ValidationTimeout, match=r"could not be validated within 0\.5 s: a pattern"):
        validate_in_process({"pattern": CATASTROPHE}, json.dumps(NEVER_DONE), 0.5)
    (process,) = started
    assert process.returncode not in (None, 0)


async def test_process_is_killed_when_the_caller_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(structured_response_model, "MAX_VALIDATION_S", 3600)
    loop = asyncio.get_running_loop()
    started: asyncio.Queue[subprocess.Popen[bytes]] = asyncio.Queue()

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            loop.call_soon_threadsafe(started.put_nowait, self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    spec = OutputSpec.from_arguments(response_model={"pattern": CATASTROPHE})
    checking = asyncio.create_task(spec.validate_async(json.dumps(NEVER_DONE)))
    process = await started.get()
    checking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await checking
    assert await asyncio.to_thread(process.wait, 60)


def described(code: Annotated[str, msgspec.Meta(pattern=CATASTROPHE)]) -> str:
    return code


def compiled(code: Annotated[str, pydantic.Field(pattern=re.compile(CATASTROPHE))]) -> str:
    return code


def by_names(code: dict[Annotated[str, msgspec.Meta(pattern=CATASTROPHE)], int]) -> int:
    return len(code)


def in_a_model(code: Matched) -> str:
    return code.code


def in_a_union(code: Matched | int) -> str:
    return str(code)


def beside_another(
    code: Coded, count: Annotated[int, pydantic.Field(ge=1)] = 1, other: Matched | int = 1
) -> str:
    return f"{code} {count} {other}"


@pytest.mark.parametrize(
    ("function", "value"),
    [
        (described, NEVER_DONE),
        (compiled, NEVER_DONE),
        (by_names, {NEVER_DONE: 1}),
        (in_a_model, {"code": NEVER_DONE}),
        (in_a_union, {"code": NEVER_DONE}),
        (beside_another, {"code": NEVER_DONE}),
    ],
)
def test_slow_arguments_are_converted_in_a_process(
    function: Callable[..., object], value: Any, limits: list[float]
) -> None:
    arguments = tool(function).arguments
    assert arguments is not None
    assert arguments.may_take_long({"code": value})
    with pytest.raises(ValidationTimeout):
        arguments.convert({"code": value})
    assert len(limits) == 1


def test_fast_arguments_start_no_process(limits: list[float]) -> None:
    def linear(code: Annotated[str, pydantic.Field(pattern=CATASTROPHE)]) -> str:
        return code

    for function, code in ((described, "aaa"), (linear, "a" * 40)):
        arguments = tool(function).arguments
        assert arguments is not None
        assert arguments.convert({"code": code}) == {"code": code}
    assert not limits


async def test_slow_validation_leaves_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    errors = SchemaValidator.find_errors

    def recorded(self: SchemaValidator, value: Any, **more: float) -> list[str]:
        threads.append(threading.get_ident())
        return errors(self, value, **more)

    monkeypatch.setattr(SchemaValidator, "find_errors", recorded)
    here = threading.get_ident()
    for model, text in (
        ({"type": "array", "items": {"type": "integer"}}, json.dumps([1] * 5000)),
        ({"pattern": "^a+$"}, '"aaa"'),
        (NESTED, "[7]"),
    ):
        await OutputSpec.from_arguments(response_model=model).validate_async(text)
    assert here not in threads
    assert len(threads) == 3


async def test_validators_run_on_the_event_loop() -> None:
    def validator(value: Any) -> None:
        asyncio.get_running_loop()
        if value == "aaaa":
            raise ValueError("not this one")

    spec = OutputSpec.from_arguments(response_model={"pattern": "^a+$"}, validators=[validator])
    assert await spec.validate_async('"aaa"') == "aaa"
    with pytest.raises(ValidationFailed, match="not this one"):
        await spec.validate_async('"aaaa"')
    with pytest.raises(ValidationFailed, match="does not match"):
        await spec.validate_async('"bbb"')


def test_process_returns_the_same_errors() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["b"]}
    value = {"a": "x"}
    here = SchemaValidator(schema).find_errors(value)
    assert here
    assert validate_in_process(schema, json.dumps(value), 60) == here
    assert validate_in_process(schema, '{"b": 1}', 60) == []


def test_validation_with_many_steps_continues_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structured_response_model, "MAX_STEPS", 10)
    monkeypatch.setattr(structured_response_model, "MAX_VALIDATION_S", 60)  # a busy machine
    model = make_response_type({"type": "array", "items": {"type": "integer"}})
    assert model.decode(json.dumps([1] * 100)) == [1] * 100
    with pytest.raises(ValidationFailed, match=r"\$\[3\]: 'x' is not of type 'integer'"):
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
def test_usual_patterns_start_no_process(pattern: str) -> None:
    assert not PatternCosts({"pattern": pattern}).may_take_long("x" * 200)


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
def test_unique_items_compare_as_json(items: list[Any], *, is_unique: bool) -> None:
    assert (SchemaValidator({"uniqueItems": True}).find_errors(items) == []) is is_unique


def test_unique_items_take_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even for numbers whose hashes collide."""
    from foundry_api.structured import validation  # noqa: PLC0415 - for its private name

    calls = 0
    comparable: Callable[[Any], Any] = vars(validation)["_make_comparable"]

    def counted(value: Any) -> Any:
        nonlocal calls
        calls += 1
        return comparable(value)

    monkeypatch.setattr(validation, "_make_comparable", counted)
    items = [{"a": index} for index in range(1000)]
    assert SchemaValidator({"uniqueItems": True}).find_errors(items) == []
    assert calls == 2000
    monkeypatch.undo()
    colliding = [number * sys_hash_modulus() for number in range(1, 100)]
    assert len({hash(comparable(number)) for number in colliding}) == len(colliding)


def sys_hash_modulus() -> int:
    import sys  # noqa: PLC0415 - for this

    return sys.hash_info.modulus


def test_invalid_pattern_counts_as_slow() -> None:
    with pytest.raises(re.error):
        re.compile("(")
    assert PatternCosts({"pattern": "("}).may_take_long("x" * 100)
