"""Metadata of `Annotated` is enforced anywhere in a type, or rejected by name."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import pathlib
import subprocess
import sys
import uuid
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, Optional, TypedDict

import annotated_types as at
import msgspec
import pydantic
import pytest
from pydantic import Field, HttpUrl
from typing_extensions import Doc

from foundry_api import InvalidRequest, ToolDefinitionError, tool
from foundry_api.structured.engine_schema import make_engine_schema
from foundry_api.structured.errors import ValidationFailed
from foundry_api.structured.response_model import make_response_type

Score = Annotated[int, Field(ge=1, le=3)]
NamedScore = NewType("NamedScore", Score)  # type: ignore[valid-newtype]


class OfPydantic(pydantic.BaseModel):
    n: Annotated[int, msgspec.Meta(ge=1)]


@dataclass
class InMetaData:
    n: Annotated[int, msgspec.Meta(ge=1)]


class WithinPydantic(pydantic.BaseModel):
    inner: list[InMetaData]


class Plain(pydantic.BaseModel):
    n: int


@dataclass
class OfBoth:
    inner: Plain
    n: Annotated[int, msgspec.Meta(ge=1)]


@dataclass
class Lazy:
    n: Iterable[Score]


@dataclass
class InData:
    n: Score


@dataclass
class ByDefault:
    n: int = Field(3, ge=1, le=3)


class InDict(TypedDict):
    n: NotRequired[Score]


class InTuple(NamedTuple):
    n: Score


@dataclass
class Nested:
    inner: list[InData]


class InStruct(msgspec.Struct):
    n: Score


class InMeta(msgspec.Struct):
    n: Annotated[int, msgspec.Meta(ge=1, le=3)]


@dataclass
class Mixed:
    a: Annotated[int, msgspec.Meta(ge=1)]
    b: Annotated[int, Field(ge=1)]


TYPES: dict[str, tuple[Any, str, str]] = {
    "dataclass": (InData, '{"n": 2}', '{"n": 99}'),
    "default": (ByDefault, '{"n": 2}', '{"n": 99}'),
    "TypedDict": (InDict, '{"n": 2}', '{"n": 99}'),
    "NamedTuple": (InTuple, "[2]", "[99]"),
    "list": (list[Score], "[2]", "[2, 99]"),
    "dict": (dict[str, Score], '{"a": 2}', '{"a": 99}'),
    "optional": (Optional[Score], "2", "99"),  # noqa: UP045 - as types read it
    "tuple": (tuple[str, Score], '["a", 2]', '["a", 99]'),
    "nested": (Nested, '{"inner": [{"n": 2}]}', '{"inner": [{"n": 2}, {"n": 99}]}'),
    "list of TypedDict": (list[InDict], '[{"n": 2}]', '[{"n": 99}]'),
    "new type": (list[NamedScore], "[2]", "[99]"),
    "Ge and Le": (Annotated[int, at.Ge(1), at.Le(3)], "2", "99"),
    "Interval": (Annotated[int, at.Interval(ge=1, lt=4)], "2", "99"),
    "MultipleOf": (Annotated[int, at.MultipleOf(5)], "10", "9"),
    "Len": (Annotated[list[int], at.Len(1, 2)], "[1]", "[1, 2, 3]"),
    "MinLen": (list[Annotated[str, at.MinLen(2)]], '["ab"]', '["a"]'),
    "Predicate": (Annotated[int, at.Predicate(lambda number: number < 5)], "2", "99"),
    "Meta": (InMeta, '{"n": 2}', '{"n": 99}'),
    "pattern": (dict[str, Annotated[str, Field(pattern="^a+$")]], '{"x": "a"}', '{"x": "b"}'),
    "conint": (pydantic.conint(ge=1, le=3), "2", "99"),
    "confloat": (list[pydantic.confloat(ge=1)], "[1]", "[0]"),  # type: ignore[misc]
    "condecimal": (pydantic.condecimal(ge=1), "2", "0"),
    "iterable": (Iterable[Score], "[1]", "[99]"),
    "iterable of plain": (Iterable[int], "[1]", '["x"]'),
    "generator": (Generator[Score, None, None], "[1]", "[99]"),
}


@pytest.mark.parametrize(("kind", "right", "wrong"), TYPES.values(), ids=TYPES.keys())
def test_bounds_of_answers(kind: Any, right: str, wrong: str) -> None:
    model = make_response_type(kind)
    model.decode(right)
    with pytest.raises(ValidationFailed):
        model.decode(wrong)


@pytest.mark.parametrize(("kind", "right", "wrong"), TYPES.values(), ids=TYPES.keys())
def test_bounds_of_arguments(kind: Any, right: str, wrong: str) -> None:
    def take(value: Any) -> None: ...

    take.__annotations__["value"] = kind
    arguments = tool(take).arguments
    assert arguments is not None
    arguments.convert({"value": json.loads(right)})
    with pytest.raises(msgspec.ValidationError, match=r"`\$\.value"):
        arguments.convert({"value": json.loads(wrong)})


def test_engine_schema_has_the_bounds() -> None:
    schema = json.dumps(make_engine_schema(make_response_type(Nested).schema))
    assert '"minimum": 1' in schema
    assert '"maximum": 3' in schema


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (Annotated[int, object], "class 'object'"),
        (list[Annotated[int, 42]], "42"),
        (dict[str, Annotated[int, {"ge": 1}]], "'ge': 1"),
        (InStruct, "InStruct is a msgspec Struct"),
        (Mixed, "both msgspec.Meta and"),
        (OfPydantic, r"OfPydantic is a model of pydantic, on which msgspec\.Meta\(ge=1\)"),
        (list[OfPydantic], "OfPydantic is a model of pydantic"),
        (WithinPydantic, "WithinPydantic is a model of pydantic"),
        (Annotated[str, msgspec.Meta(ge=1)], "msgspec cannot enforce"),
        (Annotated[decimal.Decimal, msgspec.Meta(ge=1)], "msgspec cannot enforce"),
        (Annotated[int | None, msgspec.Meta(ge=1)], "msgspec cannot enforce"),
        (Annotated[pathlib.Path, msgspec.Meta(min_length=3)], "msgspec cannot enforce"),
        (Annotated[dt.datetime, at.Timezone("UTC")], "Timezone"),
        (Lazy, "a member is an Iterable"),
    ],
)
def test_error_names_unknown_metadata(kind: Any, named: str) -> None:
    with pytest.raises(InvalidRequest, match=named) as caught:
        make_response_type(kind)
    assert caught.value.field == "response_model"

    def take(value: Any) -> None: ...

    take.__annotations__["value"] = kind
    with pytest.raises(ToolDefinitionError, match=named) as refused:
        tool(take)
    assert refused.value.field == "value"


def test_msgspec_bounds_with_a_pydantic_model() -> None:
    with pytest.raises(InvalidRequest, match=r"msgspec cannot enforce msgspec\.Meta\(ge=1\) here"):
        make_response_type(OfBoth)

    def take(value: OfBoth) -> None: ...

    arguments = tool(take).arguments
    assert arguments is not None
    assert arguments.convert({"value": {"inner": {"n": 1}, "n": 1}})
    with pytest.raises(msgspec.ValidationError, match=">= 1"):
        arguments.convert({"value": {"inner": {"n": 1}, "n": 0}})


def test_descriptions_are_not_bounds() -> None:
    kind = Annotated[int, "how many", Doc("of them"), msgspec.Meta(description="all in all")]
    assert make_response_type(kind).decode("99") == 99


def test_default_of_a_field_in_annotated() -> None:
    def take(
        count: Annotated[int, Field(default=3, ge=1)],
        names: Annotated[list[str], Field(default_factory=list)],
        other: Annotated[int, Field(default=3)] = 4,
    ) -> None: ...

    arguments = tool(take).arguments
    assert arguments is not None
    assert not arguments.schema.get("required")
    assert arguments.schema["properties"]["other"]["default"] == 4
    assert arguments.convert({}) == {"count": 3, "names": []}
    assert arguments.convert({"count": 5, "names": ["a"]}) == {"count": 5, "names": ["a"]}


def test_field_as_default() -> None:
    def play(
        rounds: int = Field(3, ge=1, le=5, description="How often."),
        names: list[str] = Field(default_factory=list),  # noqa: B008 - as pydantic's users write
        *,
        score: int = Field(ge=0),
    ) -> Any:
        return rounds, names, score

    described = tool(play)
    parameters = described.definition.parameters
    assert parameters["required"] == ["score"]
    assert parameters["properties"]["rounds"] == {
        "type": "integer", "default": 3, "minimum": 1, "maximum": 5, "description": "How often."
    }  # fmt: skip
    arguments = described.arguments
    assert arguments is not None
    assert play(**arguments.convert({"score": 1})) == (3, [], 1)
    assert play(**arguments.convert({"score": 1, "rounds": 5})) == (5, [], 1)
    with pytest.raises(msgspec.ValidationError):
        arguments.convert({"score": 1, "rounds": 9})


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    is_alive: int = 9


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"
    name: str = "Rex"


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


class Home(pydantic.BaseModel):
    pets: list[Pet]
    guest: Cat | Dog | None = None


@pytest.mark.parametrize(
    "kind", [Pet, list[Pet], Home, Home.model_json_schema(), Cat | Dog, dict[str, Cat | Dog]]
)
def test_branches_of_unions_require_their_tags(kind: Any) -> None:
    schema = make_engine_schema(make_response_type(kind).schema)
    branches = [
        definition
        for definition in schema["$defs"].values()
        if "kind" in definition.get("properties", {})
    ]
    assert len(branches) >= 2
    assert all("kind" in branch["required"] for branch in branches)


def test_the_callers_schema_keeps_its_optional_tags() -> None:
    schema = Home.model_json_schema()
    before = json.dumps(schema)
    make_response_type(schema)
    assert json.dumps(schema) == before


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


PLAIN = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.parametrize(
    "form",
    [
        {"name": "s", "strict": True, "schema": PLAIN},
        {"name": "s", "schema": PLAIN},
        {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": PLAIN}},
        {"type": "json_schema", "json_schema": PLAIN},
        {"type": "json_schema", "name": "s", "schema": PLAIN, "strict": False},
        json.dumps(PLAIN),
        json.dumps({"name": "s", "strict": True, "schema": PLAIN}),
        json.dumps(PLAIN).encode(),
    ],
)
def test_forms_of_a_schema(form: Any) -> None:
    model = make_response_type(form)
    assert model.schema == PLAIN
    with pytest.raises(ValidationFailed):
        model.decode('"anything"')


@pytest.mark.parametrize(
    "example",
    [
        {"name": "string", "age": "integer"},
        {"name": "s", "strict": True},
        {"name": "s", "schema": json.dumps(PLAIN)},
        {"name": "get", "description": "A tool.", "parameters": PLAIN},
        {"type": "json_schema", "json_schema": {"name": "s"}},
        json.dumps({"name": "Alice"}),
    ],
)
def test_example_is_rejected(example: Any) -> None:
    """As a schema, it would allow any answer."""
    with pytest.raises(InvalidRequest, match=r"it has .*but no keyword") as caught:
        make_response_type(example)
    assert caught.value.field == "response_model"


@pytest.mark.parametrize(
    "schema", [{}, {"title": "T", "description": "D"}, {"$comment": "c"}, {"x-order": 1}]
)
def test_schema_may_allow_anything(schema: Any) -> None:
    assert make_response_type(schema).decode("3") == 3


@pytest.mark.parametrize("text", ["Person", "", "[1]", '"a"', "3", b"\xff", '{"type": '])
def test_other_text_is_rejected(text: Any) -> None:
    with pytest.raises(InvalidRequest, match="response_model is") as caught:
        make_response_type(text)
    assert caught.value.field == "response_model"


@pytest.mark.parametrize(
    "schema", [{"enum": [Mood.GOOD, Mood.BAD]}, {"enum": list(Mood)}, {"enum": Mood}]
)
def test_enum_in_a_schema(schema: Any) -> None:
    model = make_response_type(schema)
    assert model.schema == {"enum": ["good", "bad"]}
    assert model.decode('"good"') == "good"
    with pytest.raises(ValidationFailed):
        model.decode('"GOOD"')


@pytest.mark.parametrize(
    ("kind", "argument", "value"),
    [
        (pathlib.Path, "dir/a", pathlib.Path("dir/a")),
        (pathlib.PurePosixPath, "dir/a", pathlib.PurePosixPath("dir/a")),
        (HttpUrl, "http://example.org/", HttpUrl("http://example.org/")),
        (decimal.Decimal, "1.50", decimal.Decimal("1.50")),
        (uuid.UUID, str(uuid.UUID(int=3)), uuid.UUID(int=3)),
        (Cat | Dog, {"kind": "dog", "name": "Bo"}, Dog(name="Bo")),
        (list[Cat | Dog], [{"kind": "cat"}], [Cat()]),
        (Pet, {"kind": "cat"}, Cat()),
    ],
)
def test_parameters_of_types_unknown_to_msgspec(kind: Any, argument: Any, value: Any) -> None:
    def take(value: Any) -> None: ...

    take.__annotations__["value"] = kind
    arguments = tool(take).arguments
    assert arguments is not None
    assert arguments.convert({"value": argument}) == {"value": value}
    assert make_response_type(kind).decode(json.dumps(argument)) == value


def test_error_of_a_type_without_json_names_no_library() -> None:
    def take(value: type[int]) -> None: ...

    with pytest.raises(ToolDefinitionError) as caught:
        tool(take)
    assert "schema_hook" not in str(caught.value)
    assert "msgspec" not in str(caught.value)


class Bill(pydantic.BaseModel):
    total: Annotated[decimal.Decimal, Field(max_digits=5, decimal_places=2)]
    rest: decimal.Decimal


def test_decimal_is_a_number() -> None:
    schema = make_response_type(Bill).schema["properties"]
    assert schema["rest"]["type"] == "number"
    assert schema["total"]["type"] == "number"
    assert schema["total"]["multipleOf"] == 0.01
    assert schema["total"]["exclusiveMaximum"] == 1000
    assert make_engine_schema(make_response_type(decimal.Decimal).schema)["pattern"]


def test_paths_and_metadata_without_pydantic() -> None:
    """In an interpreter without pydantic."""
    program = """
import sys
sys.modules["pydantic"] = None
import pathlib
from typing import Annotated
import annotated_types
from foundry_api import InvalidRequest, ToolDefinitionError, tool
from foundry_api.structured.response_model import make_response_type

assert make_response_type(list[pathlib.Path]).decode('["a"]') == [pathlib.Path("a")]
try:
    make_response_type(Annotated[int, annotated_types.Ge(1)])
except InvalidRequest as error:
    assert "needs pydantic" in str(error), error
def take(value: Annotated[int, annotated_types.Ge(1)]) -> None: ...
try:
    tool(take)
except ToolDefinitionError as error:
    assert "needs pydantic" in str(error), error
else:
    raise SystemExit(1)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
