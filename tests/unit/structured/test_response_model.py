"""Every kind of `response_model`: schema, decoded values, and errors with a path."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import msgspec
import pydantic
import pytest

from foundry_api.structured.errors import ValidationFailed
from foundry_api.structured.response_model import make_response_type
from foundry_api.types.errors import GrammarError, InvalidRequest

T = TypeVar("T")


@dataclass
class DataPerson:
    name: str
    age: int
    born: dt.date | None = None


class StructPerson(msgspec.Struct):
    name: str
    age: Annotated[int, msgspec.Meta(ge=0)]
    born: dt.date | None = None


class DictPerson(TypedDict):
    name: str
    age: int


class ModelPerson(pydantic.BaseModel):
    name: str
    age: int = pydantic.Field(ge=0)
    friends: list[ModelPerson] = []


class TuplePerson(NamedTuple):
    name: str
    age: int


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


@dataclass
class Holder:
    person: ModelPerson


PLAIN = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
}
ADA = '{"name": "Ada", "age": 36}'


@pytest.mark.parametrize(
    ("model", "value"),
    [
        (DataPerson, DataPerson("Ada", 36)),
        (StructPerson, StructPerson("Ada", 36)),
        (DictPerson, {"name": "Ada", "age": 36}),
        (ModelPerson, ModelPerson(name="Ada", age=36)),
        (pydantic.TypeAdapter(ModelPerson), ModelPerson(name="Ada", age=36)),
        (PLAIN, {"name": "Ada", "age": 36}),
        (dict[str, Any], {"name": "Ada", "age": 36}),
        (DataPerson | None, DataPerson("Ada", 36)),
    ],
)
def test_answer_is_converted_to_the_type(model: Any, value: object) -> None:
    parsed = make_response_type(model).decode(ADA)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("model", "text", "value"),
    [
        (list[DataPerson], f"[{ADA}]", [DataPerson("Ada", 36)]),
        (list[ModelPerson], f"[{ADA}]", [ModelPerson(name="Ada", age=36)]),
        (Page[ModelPerson], f'{{"items": [{ADA}]}}', Page(items=[ModelPerson(name="Ada", age=36)])),
        (Holder, f'{{"person": {ADA}}}', Holder(ModelPerson(name="Ada", age=36))),
        (TuplePerson, '["Ada", 36]', TuplePerson("Ada", 36)),
        (int, "12", 12),
        (bool, "true", True),
        (Literal["yes", "no"], '"yes"', "yes"),
        (dt.date, '"1815-12-10"', dt.date(1815, 12, 10)),
        ({"enum": [1, None]}, "null", None),
    ],
)
def test_composed_types(model: Any, text: str, value: object) -> None:
    assert make_response_type(model).decode(text) == value


@pytest.mark.parametrize(
    ("model", "text", "error"),
    [
        (DataPerson, '{"name": "Ada", "age": "old"}', "$.age: Expected int, got str"),
        (StructPerson, '{"name": "Ada", "age": -1}', "$.age: Expected int >= 0"),
        (list[DataPerson], '[{"name": 1}]', "$[0].name: Expected str, got int"),
        (DictPerson, '{"name": "Ada"}', "$: Object missing required field age"),
        (ModelPerson, '{"name": "Ada", "age": -1}', "$.age: Input should be greater than"),
        (
            list[ModelPerson],
            f'[{{"name": "A", "age": 1, "friends": [{ADA}, 1]}}]',
            "$[0].friends[1]",
        ),
        (PLAIN, '{"name": "Ada", "age": "old"}', "$.age: 'old' is not of type 'integer'"),
        (PLAIN, '{"name": "Ada", "age": 1e999}', "out of range"),
        (PLAIN, '{"name": "Ada", "age": NaN}', "NaN is not JSON"),
        (PLAIN, '{"name": "Ada"', "the answer is not JSON"),
        (PLAIN, "9" * 5000, "the answer cannot be read"),
        (PLAIN, "[" * 100_000, "the answer"),
        (DataPerson, '{"name": "Ada"', "the answer cannot be read"),
        (float, "1e999", "out of range"),
    ],
)
def test_errors_have_a_path(model: Any, text: str, error: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        make_response_type(model).decode(text)
    assert error in "; ".join(caught.value.errors)


def test_all_errors_are_reported() -> None:
    for model in (ModelPerson, PLAIN):
        with pytest.raises(ValidationFailed) as caught:
            make_response_type(model).decode('{"name": 1, "age": "old"}')
        assert len(caught.value.errors) == 2


@pytest.mark.parametrize("model", [3, "Person", len, object(), {"type": "strin"}, {"pattern": "("}])
def test_other_objects_are_rejected(model: Any) -> None:
    with pytest.raises(InvalidRequest, match="response_model") as caught:
        make_response_type(model)
    assert caught.value.field == "response_model"


def test_pydantic_type_without_a_schema_is_rejected() -> None:
    class Odd(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
        value: object = pydantic.Field(json_schema_extra={})
        thing: ValidationFailed

    with pytest.raises(InvalidRequest, match="has no JSON schema"):
        make_response_type(Odd)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("http://example.com/person.json", "points outside the schema"),
        ("person.json", "points outside the schema"),
        ("#/$defs/nobody", "does not point to a schema"),
        ("#nobody", "does not point to a schema"),
        ("#/$defs/loop", "refers only to itself"),
        ("#/$defs/list/0/1", "does not point to a schema"),
    ],
)
def test_error_names_an_invalid_reference(reference: str, message: str) -> None:
    """No library fetches anything for it."""
    definitions = {"loop": {"$ref": "#/$defs/loop"}, "list": {"enum": [1]}}
    schema = {"properties": {"a": {"$ref": reference}}, "$defs": definitions}
    with pytest.raises(GrammarError, match=message) as caught:
        make_response_type(schema)
    assert "$.properties.a.$ref" in caught.value.message
    assert caught.value.field == "response_model"


def test_infinite_recursion_is_an_error_when_decoding() -> None:
    endless = {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}}
    with pytest.raises(GrammarError, match="without end"):
        make_response_type(endless).decode("1")


def test_unused_libraries_are_not_imported() -> None:
    program = (
        "import sys, dataclasses\n"
        "from foundry_api.structured.response_model import make_response_type\n"
        "P = dataclasses.make_dataclass('P', [('name', str)])\n"
        'make_response_type(list[P]).decode(\'[{"name": "Ada"}]\')\n'
        "assert not {'pydantic', 'jsonschema', 'referencing'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_equal_schemas_are_checked_once() -> None:
    """Each line of a batch decodes its own copy, and checking a schema takes milliseconds."""
    again = make_response_type({**PLAIN})
    assert make_response_type({**PLAIN}) is again
    assert make_response_type({**PLAIN, "title": "another"}) is not again


def test_changed_schema_is_checked_again() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"name": {"type": "string"}}}
    before = make_response_type(schema)
    schema["properties"]["name"]["type"] = "integer"
    assert make_response_type(schema).decode('{"name": 5}') == {"name": 5}
    with pytest.raises(ValidationFailed):
        before.decode('{"name": 5}')


@pytest.mark.parametrize("value", [float("nan"), float("inf"), T, int, {1, 2}, {3: "x"}, b"x"])
def test_error_names_the_path_of_a_value_that_is_not_json(value: object) -> None:
    with pytest.raises(InvalidRequest, match=r"\$\.properties\.x\.enum\[1\]"):
        make_response_type({"properties": {"x": {"enum": [1, value]}}})


def test_a_union_may_refer_to_the_object_that_contains_it() -> None:
    tree = {
        "properties": {
            "kind": {"const": "node"},
            "child": {"anyOf": [{"$ref": "#"}, {"properties": {"kind": {"const": "leaf"}}}]},
        }
    }
    schema = make_response_type(tree).schema
    assert schema["required"] == ["kind"]
    assert schema["properties"]["child"]["anyOf"][1]["required"] == ["kind"]
