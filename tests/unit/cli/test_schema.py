"""`--schema`: a file, a schema, or fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from foundry_api.cli.schema import parse_schema
from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path


def test_fields_become_a_schema() -> None:
    schema = parse_schema("name, age int, tags str[], ok bool\nnote: one sentence")
    assert schema["properties"] == {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "ok": {"type": "boolean"},
        "note": {"type": "string", "description": "one sentence"},
    }
    assert schema["required"] == list(schema["properties"])
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("name", ["person.json", "a schema"])
def test_a_file_has_the_schema(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"type": "object"}', encoding="utf-8")
    assert parse_schema(str(tmp_path / name)) == {"type": "object"}


def test_a_schema_can_be_given_itself() -> None:
    assert parse_schema(' {"type": "array"}') == {"type": "array"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" , ", "is empty"),
        ("age integre", "integre is no type"),
        ("a b c", "'a b c' is no field"),
        ("2nd", "'2nd' is no field"),
        ("a, a int", "has a twice"),
        ("missing.json", "missing.json cannot be read"),
        ("{", "--schema has no JSON schema"),
    ],
)
def test_what_is_no_schema_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        parse_schema(text)


@pytest.mark.parametrize("content", ["[]", "{", "5"])
def test_a_file_without_a_schema_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "person.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InvalidRequest, match=r"person.json has no JSON schema"):
        parse_schema(str(path))
