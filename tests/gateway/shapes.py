"""Checks of responses against OpenAI's shapes, which `openai-shapes.json` describes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

SHAPES = Path(__file__).parent / "openai-shapes.json"


@cache
def _get_validator(name: str) -> Validator:
    shapes = json.loads(SHAPES.read_text(encoding="utf-8"))
    schema = {"$schema": shapes["$schema"], "$defs": shapes["$defs"], "$ref": f"#/$defs/{name}"}
    return jsonschema.Draft202012Validator(schema)


def check_shape(name: str, value: Any) -> None:
    """Fail unless a value has one of OpenAI's shapes."""
    problems = [error.message for error in _get_validator(name).iter_errors(value)]
    assert not problems, f"{name}: {problems}"


def parse_events(text: str) -> list[Any]:
    """Return the data of the events of a stream; `[DONE]` stays a string."""
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [item if item == "[DONE]" else json.loads(item) for item in data]
