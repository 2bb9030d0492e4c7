"""Partial JSON: for any chunks, each value is the beginning of the next one."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_api.structured.partial_json import (
    COPIES_PER_CHARACTER,
    MAX_DEPTH,
    MAX_SAVED_COPIES,
    MISSING,
    TEXT_PER_COPY,
    PartialJsonParser,
)

texts = st.text(alphabet=st.characters(), max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers() | finite | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
layouts = st.sampled_from(
    [
        {},
        {"indent": 2},
        {"ensure_ascii": False},
        {"separators": (",", ":")},
        {"indent": "\t", "ensure_ascii": False},
    ]
)


def pieces(text: str, cuts: list[int]) -> list[str]:
    bounds = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[low:high] for low, high in itertools.pairwise(bounds)]


def begins(before: Any, after: Any) -> bool:
    """Check whether a value may become another one while it is written."""
    if before is MISSING:
        return True
    if isinstance(before, str) and isinstance(after, str):
        return after.startswith(before)
    if isinstance(before, list) and isinstance(after, list):
        return len(before) <= len(after) and all(map(begins, before, after))
    if isinstance(before, dict) and isinstance(after, dict):
        names = list(after)[: len(before)]
        return names == list(before) and all(begins(before[name], after[name]) for name in names)
    return type(before) is type(after) and before == after


@given(values, layouts, st.lists(st.integers(min_value=0), max_size=40))
def test_values_grow_to_the_complete_value(
    value: Any, layout: dict[str, Any], cuts: list[int]
) -> None:
    text = json.dumps(value, **layout)
    reader = PartialJsonParser()
    seen = [reader.feed(piece) for piece in pieces(text, cuts)] + [reader.finish()]
    assert all(begins(before, after) for before, after in itertools.pairwise(seen))
    assert seen[-1] == json.loads(text)
    assert json.dumps(seen[-1]) == json.dumps(json.loads(text))


@settings(max_examples=30)
@given(values, layouts)
def test_every_split_in_two(value: Any, layout: dict[str, Any]) -> None:
    text = json.dumps(value, **layout)
    for cut in range(min(len(text), 60)):
        reader = PartialJsonParser()
        first = reader.feed(text[:cut])
        reader.feed(text[cut:])
        assert reader.finish() == json.loads(text)
        assert begins(first, json.loads(text))


@given(values, layouts)
def test_returned_values_do_not_change(value: Any, layout: dict[str, Any]) -> None:
    reader = PartialJsonParser()
    given_out = [(seen, repr(seen)) for seen in map(reader.feed, json.dumps(value, **layout))]
    assert all(repr(seen) == as_it_was for seen, as_it_was in given_out)


@given(st.text(max_size=60), st.lists(st.integers(min_value=0), max_size=10))
def test_any_text_is_accepted(text: str, cuts: list[int]) -> None:
    reader = PartialJsonParser()
    for piece in pieces(text, cuts):
        reader.feed(piece)
    reader.finish()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", MISSING),
        ('{"na', {}),
        ('{"name"', {}),
        ('{"name":', {}),
        ('{"name": "A', {"name": "A"}),
        ('{"name": "A\\', {"name": "A"}),
        ('{"name": "A\\u00', {"name": "A"}),
        ('{"face": "\\ud83d', {"face": ""}),
        ('{"face": "\\ud83d\\ude', {"face": ""}),
        ('{"face": "\\ud83d\\ude00', {"face": "\N{GRINNING FACE}"}),
        ('{"born": 18', {}),
        ('{"born": 1815,', {"born": 1815}),
        ('{"alive": fals', {}),
        ('{"alive": false}', {"alive": False}),
        ('{"tags": [', {"tags": []}),
        ('{"tags": ["a", "b', {"tags": ["a", "b"]}),
        ('{"tags": [[1, 2], [3', {"tags": [[1, 2], []]}),
        ("[1, 2] and so on", [1, 2]),
    ],
)
def test_partial_values(text: str, value: Any) -> None:
    seen = PartialJsonParser().feed(text)
    assert seen is value if value is MISSING else seen == value


@pytest.mark.parametrize(
    "text",
    [
        'Here you are:\n```json\n{"a": 1}\n```',
        'Sure: {"a": 1}. Anything else?',
        'It is "so": true, 12 times {"a": 1}',
        '   {"a": 1}   ',
    ],
)
def test_text_around_the_json_is_skipped(text: str) -> None:
    reader = PartialJsonParser()
    for character in text:
        reader.feed(character)
    assert reader.finish() == {"a": 1}


@pytest.mark.parametrize(
    "text",
    [
        r'"C:\x" {"a": 1}',
        r'It is "\x" in {"a": 1}',
        r'It is "\u12" in {"a": 1}',
        'A screen of 5" has {"a": 1}',
        'Replace {name} in "{name}": {"a": 1}',
        'As said [above] and in {"a": 1}',
        'Here: {\n  "a": 1}',
        '"so" {"a": 1}',
        '12 {"a": 1}',
    ],
)
def test_a_value_after_prose_is_found_in_one_piece(text: str) -> None:
    for parts in ([text], list(text)):
        reader = PartialJsonParser()
        for part in parts:
            reader.feed(part)
        assert reader.finish() == {"a": 1}


# Text with every character that has a meaning in JSON, and some broken escapes.
noise = st.lists(
    st.sampled_from([*'"\\{}[],: \nxu1t', "true", '{"a":', '"b"', r"\u12", r"\ud83d", r"\u0041"]),
    max_size=30,
).map("".join)


@settings(max_examples=500)
@given(noise, st.lists(st.integers(min_value=0), max_size=10))
def test_chunks_make_no_difference(text: str, cuts: list[int]) -> None:
    results: list[Any] = []
    for parts in ([text], list(text), pieces(text, cuts)):
        reader = PartialJsonParser()
        seen: Any = MISSING
        for part in parts:
            seen = reader.feed(part)
        results.append((seen, reader.finish()))
    assert results[0] == results[1] == results[2]


@given(noise, st.dictionaries(texts, scalars, min_size=1, max_size=3))
def test_a_value_after_any_prose_is_found(prose: str, value: Any) -> None:
    prose = "-" + prose.replace("{", "").replace("[", "")
    reader = PartialJsonParser()
    reader.feed(prose + json.dumps(value))
    assert reader.finish() == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1, oops}', {"a": 1}),
        ('{"a": [1, 2}', {"a": [1, 2]}),
        ('{"a": [1,]}', {"a": [1]}),
        ('{"a": 01}', {}),
        ('{"a": "\\x"}', {"a": ""}),
        ('{"a": nul}', {}),
        ('{,"a": 1}', {}),
        ("[1 2]", [1]),
        ("]", MISSING),
        (f"[{'9' * 5000}]", []),
    ],
)
def test_value_does_not_change_after_a_syntax_error(text: str, value: Any) -> None:
    reader = PartialJsonParser()
    for character in text:
        reader.feed(character)
    seen = reader.feed(' {"b": 2}' if value is not MISSING else "")
    assert seen is value if value is MISSING else seen == value


def test_parsing_takes_linear_time() -> None:
    """Parsing the complete text for each chunk would take a hundred times as long."""

    def seconds(members: int) -> float:
        text = json.dumps({"rows": [{"id": index, "name": "x" * 20} for index in range(members)]})
        reader = PartialJsonParser()
        started = time.process_time()
        for at in range(0, len(text), 4):
            reader.feed(text[at : at + 4])
        return time.process_time() - started

    seconds(100)
    short = sum(seconds(200) for _ in range(10)) / 10  # the clock of Windows has steps of 16 ms
    assert seconds(2000) < 35 * short


def size(value: Any) -> int:
    """Return the cost of copying the open containers and the open string."""
    if isinstance(value, str):
        return len(value) // TEXT_PER_COPY
    if not isinstance(value, list | dict):
        return 0
    members: list[Any] = list(value.values() if isinstance(value, dict) else value)
    return 1 + len(members) + (size(members[-1]) if members else 0)


@pytest.mark.parametrize(
    ("opening", "unit"),
    [
        ('{"a": "', "x"),
        ('"', "\\n"),
        ("[", "1,"),
        ("[", '{"a": 1},'),
        ("[[", '"abc",'),
        ("", "["),
        ("", '{"a":'),
        ("", "[]"),
        ("", "{a"),
    ],
)
def test_copies_per_character_are_bounded(opening: str, unit: str) -> None:
    text, partial, copied = opening + unit * (1 << 13), PartialJsonParser(), 0
    last: Any = None
    for at in range(0, len(text), 4):
        value = partial.feed(text[at : at + 4])
        copied += 0 if value is last else size(value)
        last = value
    assert copied <= MAX_SAVED_COPIES + COPIES_PER_CHARACTER * len(text)


def test_large_value_is_complete_at_its_end() -> None:
    text = json.dumps({"items": list(range(20_000)), "text": "x" * 200_000})
    partial = PartialJsonParser()
    value: Any = MISSING
    for at in range(0, len(text), 4):
        value = partial.feed(text[at : at + 4])
    assert value == json.loads(text)
    assert partial.finish() == value


def test_finish_returns_all_of_a_large_value() -> None:
    partial = PartialJsonParser()
    for at in range(0, 1 << 16, 4):
        partial.feed(('{"a": "' + "x" * (1 << 16))[at : at + 4])
    assert partial.finish() == {"a": "x" * ((1 << 16) - 7)}


def test_depth_is_limited() -> None:
    partial = PartialJsonParser()
    partial.feed("[" * 100_000)
    value, depth = partial.finish(), 0
    while value:
        value, depth = value[0], depth + 1
    assert depth == MAX_DEPTH - 1
