"""Checks of responses against OpenAI's shapes and rules, which `openai-shapes.json` describes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jsonschema.protocols import Validator

SHAPES = Path(__file__).parent / "openai-shapes.json"


SEEN: set[str] = set()
"""The shapes that values had, also inside of others, since it was last cleared."""


@cache
def read_shapes() -> dict[str, Any]:
    """Return the file of the shapes and the rules."""
    shapes: dict[str, Any] = json.loads(SHAPES.read_text(encoding="utf-8"))
    return shapes


def _follow(
    validator: Validator, reference: str, value: object, schema: Mapping[str, Any]
) -> Iterator[jsonschema.ValidationError]:
    """Follow a reference as usual, and note the shape if the value has it."""
    problems = [
        *jsonschema.Draft202012Validator.VALIDATORS["$ref"](validator, reference, value, schema)
    ]
    if not problems:
        SEEN.add(reference.rpartition("/")[2])
    yield from problems


_NotingValidator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"$ref": _follow})


@cache
def _get_validator(name: str) -> Validator:
    shapes = read_shapes()
    schema = {"$schema": shapes["$schema"], "$defs": shapes["$defs"], "$ref": f"#/$defs/{name}"}
    return _NotingValidator(schema)


def check_shape(name: str, value: Any) -> None:
    """Fail unless a value has one of OpenAI's shapes."""
    problems = [error.message for error in _get_validator(name).iter_errors(value)]
    assert not problems, f"{name}: {problems}"


def parse_events(text: str) -> list[Any]:
    """Return the data of the events of a stream; `[DONE]` stays a string."""
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


def check_choice_stream(
    events: list[Any], shape: str, *, choices: int = 1, includes_usage: bool = False
) -> None:
    """Fail unless the events of a chat or a text completion obey OpenAI's rules."""
    *chunks, end = events
    assert end == "[DONE]"
    for chunk in chunks:
        check_shape(shape, chunk)
    assert len({(one["id"], one["object"], one["created"], one["model"]) for one in chunks}) == 1
    if includes_usage:
        *chunks, last = chunks
        assert last["choices"] == []
        check_shape("usage", last["usage"])
        assert all(chunk["usage"] is None for chunk in chunks)
    else:
        assert all("usage" not in chunk for chunk in chunks)
    assert {one["index"] for chunk in chunks for one in chunk["choices"]} == {*range(choices)}
    for index in range(choices):
        pieces = [one for chunk in chunks for one in chunk["choices"] if one["index"] == index]
        # No text comes after the end of a choice, as the end is its last piece.
        reasons = [one["finish_reason"] for one in pieces]
        assert reasons[-1] is not None
        assert reasons[:-1] == [None] * (len(pieces) - 1)
        if shape == "chat.completion.chunk":
            _check_deltas([one["delta"] for one in pieces], reasons[-1])


def _check_deltas(deltas: list[dict[str, Any]], reason: str) -> None:
    assert deltas[0]["role"] == "assistant"
    assert not any("role" in delta for delta in deltas[1:])
    seen: set[int] = set()
    for call in [call for delta in deltas for call in delta.get("tool_calls", ())]:
        if call["index"] in seen:  # a later piece of it
            assert call.keys() == {"index", "function"}
            assert call["function"].keys() == {"arguments"}
        else:
            check_shape("tool_call", call)
        seen.add(call["index"])
    assert seen == {*range(len(seen))}
    assert (reason == "tool_calls") == bool(seen)


def check_response_stream(text: str) -> list[Any]:
    """Return the events of a response; fail unless they obey OpenAI's rules."""
    events = parse_events(text)
    names = [line[7:] for line in text.splitlines() if line.startswith("event: ")]
    assert names == [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        check_shape(f"event.{event['type']}", event)
    _check_places(events)
    return events


def _check_places(events: list[Any]) -> None:
    """Fail unless items follow each other, and their events add up to the final output."""
    done: list[Any] = []
    open_id: str | None = None
    texts: dict[str, str] = {}
    for event in events:
        kind = event["type"].removeprefix("response.")
        if "output_index" not in event:
            continue
        assert event["output_index"] == len(done)
        if kind == "output_item.added":
            assert open_id is None
            open_id, texts = event["item"]["id"], {}
        elif kind == "output_item.done":
            assert event["item"]["id"] == open_id
            item = event["item"]
            parts = [part.get("text", part.get("refusal")) for part in item.get("content", ())]
            assert "".join(texts.values()) == item.get("arguments", "".join(parts))
            open_id = None
            done.append(item)
        else:
            assert (event["item_id"], event.get("content_index", 0)) == (open_id, 0)
            if kind.endswith(".delta"):
                texts[kind] = texts.get(kind, "") + event["delta"]
    if events[-1]["type"] in {"response.completed", "response.incomplete"}:
        assert open_id is None
        assert done == events[-1]["response"]["output"]
