"""The `instructor` package.

`Mode.JSON_SCHEMA` lets the gateway enforce the schema.
"""

from __future__ import annotations

from typing import Any

import instructor
import pydantic
from instructor.core import InstructorRetryException
from openai import OpenAI
from served import ADA, KEY, SUM, URL, WRONG_KEY

CLIENT = "instructor"
ENVIRONMENT = "instructor"
LIMITS = "the demo model calls only tools that it knows, in `TOOLS` too"


class Person(pydantic.BaseModel):
    born: int
    languages: list[str]
    name: str


class calculate(pydantic.BaseModel):  # noqa: N801 - the name of the tool that the model knows
    """Evaluate an arithmetic expression."""

    expression: str


def extract(
    mode: instructor.Mode, model: str, text: str, key: str = KEY, kind: type = Person
) -> Any:
    client = instructor.from_openai(
        OpenAI(base_url=f"{URL}/v1", api_key=key, max_retries=0), mode=mode
    )
    return client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": text}],
        response_model=kind,
        max_retries=1,
        temperature=0,
    )


def check_json_schema() -> None:
    """`JSON_SCHEMA`"""
    person = extract(instructor.Mode.JSON_SCHEMA, "scripted", "say-json")
    assert person.model_dump() == ADA
    person = extract(instructor.Mode.JSON_SCHEMA, "demo", "Describe a person.")
    assert isinstance(person, Person)


def check_json() -> None:
    """`JSON`"""
    assert extract(instructor.Mode.JSON, "scripted", "say-json").model_dump() == ADA


def check_tools() -> None:
    """`TOOLS`"""
    call = extract(instructor.Mode.TOOLS, "demo", SUM, kind=calculate)
    assert call.expression == "1234 * 5678"


def check_partial() -> None:
    """`create_partial`"""
    client = instructor.from_openai(
        OpenAI(base_url=f"{URL}/v1", api_key=KEY), mode=instructor.Mode.JSON_SCHEMA
    )
    parts = list(
        client.chat.completions.create_partial(
            model="scripted",
            messages=[{"role": "user", "content": "say-json"}],
            response_model=Person,
        )
    )
    assert parts[-1].model_dump() == ADA


def check_errors() -> None:
    """error classes"""
    try:
        extract(instructor.Mode.JSON_SCHEMA, "demo", "hello", WRONG_KEY)
    except InstructorRetryException as error:
        assert "401" in str(error)
    else:
        raise AssertionError("a wrong key was accepted")
