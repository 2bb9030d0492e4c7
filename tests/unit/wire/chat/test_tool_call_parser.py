"""Tool calls are found in text in any split, and nothing else is taken for one."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.types.messages import ToolCall
from foundry_api.wire.chat import tool_call_matching, tool_call_parser
from foundry_api.wire.chat.tool_call_matching import MalformedCall
from foundry_api.wire.chat.tool_call_parser import MAX_PENDING, ToolCallParser

Calls = list[tuple[str, dict[str, Any]]]

NAMES = ("calculate", "clock")
CALL = '{"name": "calculate", "arguments": {"expression": "6 * 7"}}'
OTHER = '{"name": "clock", "arguments": {}}'
ONE: Calls = [("calculate", {"expression": "6 * 7"})]
TWO: Calls = [*ONE, ("clock", {})]

SHAPES: dict[str, tuple[str, Calls]] = {
    "hermes": (f"<tool_call>\n{CALL}\n</tool_call>", ONE),
    "hermes, twice": (f"<tool_call>{CALL}</tool_call>\n<tool_call>{OTHER}</tool_call>", TWO),
    "hermes, two in one": (f"<tool_call>\n{CALL}\n{OTHER}\n</tool_call>", TWO),
    "hermes, unclosed": (f"<tool_call>{CALL}", ONE),
    "hermes, half closed": (f"<tool_call>{CALL}</tool", ONE),
    "hermes, list": (f"<tool_call>[{CALL}, {OTHER}]</tool_call>", TWO),
    "as 2.2.1 asks": ('<tool_call>[{"name": "clock", "parameters": {}}]</tool_call>', TWO[1:]),
    "phi-4-mini": (f"<|tool_call|>[{CALL}]<|/tool_call|>", ONE),
    "phi-3.5": (f"functools[{CALL},{OTHER}]", TWO),
    "mistral": (f"[TOOL_CALLS] [{CALL}]", ONE),
    "mistral, no blank": (f"[TOOL_CALLS][{CALL}]", ONE),
    "llama": ('<function=calculate>{"expression": "6 * 7"}</function>', ONE),
    "llama, unclosed": ('<function=calculate>{"expression": "6 * 7"}', ONE),
    "bare": (CALL, ONE),
    "bare, two lines": (f"{CALL}\n{OTHER}", TWO),
    "bare, parameters": (CALL.replace("arguments", "parameters"), ONE),
    "bare list": (f"[{CALL}, {OTHER}]", TWO),
    "fenced": (f"```json\n{CALL}\n```", ONE),
    "fenced, unnamed": (f"```\n[{CALL}]\n```\n", ONE),
    "fenced, unclosed": (f"```json\n{CALL}\n", ONE),
    "openai": (f'{{"type": "function", "function": {CALL}}}', ONE),
    "openai, with an id": (f'{{"id": "call_7", "type": "function", "function": {CALL}}}', ONE),
    "arguments as text": (json.dumps({"name": "clock", "arguments": "{}"}), TWO[1:]),
    "nothing to say": ('<tool_call>{"name": "clock"}</tool_call>', TWO[1:]),
    "tags within": (
        '<tool_call>{"name": "calculate", "arguments": {"expression": "</tool_call>"}}</tool_call>',
        [("calculate", {"expression": "</tool_call>"})],
    ),
    "brackets within": (
        '{"name": "calculate", "arguments": {"expression": "]}\\"{["}}',
        [("calculate", {"expression": ']}"{['})],
    ),
    "a line break within": (
        '{"name": "calculate", "arguments": {"expression": "6\n7"}}',
        [("calculate", {"expression": "6\n7"})],
    ),
    "unknown, but marked": ('<tool_call>{"name": "rocket"}</tool_call>', [("rocket", {})]),
}

TEXTS = (
    "",
    "Hello, world!",
    'Write {"name": "calculate"} or <tool_calls>, not a call.',
    f"It is not at the start of a line: {CALL}",
    '{"name": "Ada", "arguments": {}}',
    '{"name": "clock"}',
    '{"name": "clock", "arguments": {}, "price": 3}',
    '{"name": "clock", "arguments": 3}',
    '[{"name": "clock", "arguments": {}}, 3]',
    '[{"name": "clock", "arguments": {}}, {"name": "rocket", "arguments": {}}]',
    '{"name": "clock", "arguments": {"a": ',
    '{"name": "clock", "arguments": {"a": oops}}',
    "```python\nprint(1)\n```",
    "```json\n{}\n```",
    "functools[0] is a list, functools.cache is not",
    "[TOOL_CALLS] is what Mistral writes",
    "<function=calculate> and <function=",
    "Use <tool_call> tags.",
    "<tool_call>",
    "<tool_ca",
    "[1, 2]\n[[3]]\n{4}",
    "f" * 50,
    "<<<tool_call <|tool_call",
    "a < b and [c] {d} `e`\n",
)

MALFORMED = (
    '<tool_call>{"name": "calculate", "arguments": {</tool_call>',
    '<tool_call>[{"name": "calculate", "parameters": {]</tool_call>',
    '<tool_call>{"name": "calculate", "argu',
    "<tool_call></tool_call>",
    '<tool_call>{"arguments": {}}</tool_call>',
    '<tool_call>{"name": "clock", "arguments": [1]}</tool_call>',
    '<tool_call>{"name": "clock", "arguments": "oops"}</tool_call>',
    "<tool_call>[]</tool_call>",
    '<|tool_call|>[{"name": calculate}]<|/tool_call|>',
    'functools[{"name": oops}]',
    '[TOOL_CALLS] [{"name": "clock", "arg',
    "<function=calculate>{oops}</function>",
    '<function=calculate>{"a": 1',
)


def found_in(*pieces: str) -> tuple[str, Calls, list[ToolCall]]:
    """Return the text, the calls, and all results in order."""
    counter = itertools.count()
    finder = ToolCallParser(NAMES, new_id=lambda: f"call_{next(counter)}")
    found = [each for piece in pieces for each in finder.feed(piece)]
    found += finder.finish()
    calls = [each for each in found if isinstance(each, ToolCall)]
    decoded = [(each.function.name, json.loads(each.function.arguments)) for each in calls]
    return "".join(each for each in found if isinstance(each, str)), decoded, calls


def split(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in itertools.pairwise(places)]


CUTS = st.lists(st.integers(0, 500), max_size=12)


@pytest.mark.parametrize("shape", SHAPES)
def test_call_is_found_in_every_notation(shape: str) -> None:
    text, expected = SHAPES[shape]
    content, calls, _ = found_in(text)
    assert (content, calls) == ("", expected)
    assert found_in(*text)[:2] == (content, calls)


@given(shape=st.sampled_from(sorted(SHAPES)), cuts=CUTS)
def test_any_split_gives_the_same_result(shape: str, cuts: list[int]) -> None:
    text, expected = SHAPES[shape]
    assert found_in(*split(f"Let me see.\n{text}", cuts))[:2] == ("Let me see.\n", expected)


@given(
    parts=st.lists(st.sampled_from((*TEXTS, *(text for text, _ in SHAPES.values()))), max_size=4),
    between=st.sampled_from(["", " ", "\n", "\n\n"]),
    cuts=CUTS,
)
def test_any_mixture_is_the_same_in_pieces(parts: list[str], between: str, cuts: list[int]) -> None:
    text = between.join(parts)

    def outcome(pieces: list[str]) -> tuple[str, Calls] | str:
        try:
            return found_in(*pieces)[:2]
        except MalformedCall as error:
            return error.text

    assert outcome(split(text, cuts)) == outcome([text])


@pytest.mark.parametrize("text", TEXTS)
def test_text_that_resembles_a_call_stays_text(text: str) -> None:
    assert found_in(text)[:2] == (text, [])
    assert found_in(*text)[:2] == (text, [])


@given(text=st.text(alphabet='<>[]{}"`tool_call/f:, \n\\', max_size=80), cuts=CUTS)
def test_no_text_is_lost(text: str, cuts: list[int]) -> None:
    content, calls, _ = found_in(*split(text.replace("<tool_call>", ""), cuts))
    assert (content, calls) == (text.replace("<tool_call>", ""), [])


@pytest.mark.parametrize("text", MALFORMED)
@pytest.mark.parametrize("pieces", ["whole", "characters"])
def test_unreadable_marked_call_is_malformed(text: str, pieces: str) -> None:
    with pytest.raises(MalformedCall) as caught:
        found_in(*([text] if pieces == "whole" else text))
    assert text.startswith(caught.value.text)
    assert caught.value.reason


def test_ordinary_text_is_not_held_back() -> None:
    finder = ToolCallParser(NAMES)
    content = [
        list(finder.feed(piece)) for piece in ("a <", "b> <to", "ols> f", "un", '\n{"na', "me")
    ]
    assert content == [["a "], ["<b> "], ["<tools> "], [], ["fun\n"], []]
    assert list(finder.feed('": "Ada"')) == ['{"name": "Ada"']


def test_text_before_a_malformed_call_is_returned() -> None:
    found = ToolCallParser(NAMES).feed("Let me see.<tool_call>{]</tool_call>")
    assert next(found) == "Let me see."
    with pytest.raises(MalformedCall):
        next(found)


def test_call_keeps_its_id_or_gets_one() -> None:
    text = f'{{"id": "call_7", "function": {CALL}}}'
    assert [call.id for call in found_in(text)[2]] == ["call_7"]
    assert [call.id for call in found_in(f"[{CALL}, {OTHER}]")[2]] == ["call_0", "call_1"]
    first, second = (next(iter(ToolCallParser(NAMES).feed(CALL))) for _ in range(2))
    assert isinstance(first, ToolCall)
    assert isinstance(second, ToolCall)
    assert first.id != second.id


def test_held_back_text_is_bounded() -> None:
    finder = ToolCallParser(NAMES)
    begun = '{"name": "clock", "arguments": {"city": "'
    assert list(finder.feed(begun)) == []
    assert "".join(map(str, finder.feed("x" * MAX_PENDING))).startswith(begun)


HOSTILE = {
    "braces": "{",
    "brackets": "[",
    "ticks": "`",
    "tags": "<tool_call>",
    "functions": "<function=",
    "named JSON": '{"name":\n',
    "named JSON in lists": '[\n{"name":\n',
    "unfinished calls": '\n{"name": "clock", "arguments": {',
    "unfinished calls in fences": '```json\n{"name": "clock", ',
    "other JSON": '{"name": "clock", "else": {}}\n',
    "complete calls": f"{CALL}\n",
    "blanks": " ",
}


class Work:
    """Count the characters that are read to separate calls from text."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.characters = 0
        end_of_value: Any = vars(tool_call_matching)["find_value_end"]
        blank_line: Any = vars(tool_call_parser)["_is_blank_line"]

        def counted_end(text: str, start: int, *more: str | None) -> int | None:
            end = end_of_value(text, start, *more)
            self.characters += (len(text) if end is None else end) - start
            return end

        def counted_line(text: str, was_blank: bool) -> bool:  # noqa: FBT001 - as it is called
            self.characters += len(text)
            return blank_line(text, was_blank)

        monkeypatch.setattr(tool_call_matching, "find_value_end", counted_end)
        monkeypatch.setattr(tool_call_parser, "_is_blank_line", counted_line)


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE.keys())
def test_reading_is_linear(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each character may be read about 50 times; once per bracket would be thousands."""
    for length, piece in ((1 << 13, 16), (1 << 15, 16), (1 << 15, 1 << 15)):
        work = Work(monkeypatch)
        text = (unit * length)[:length]
        found_in(*(text[at : at + piece] for at in range(0, length, piece)))
        monkeypatch.undo()
        assert work.characters <= 64 * length


def test_invalid_json_does_not_hide_a_call() -> None:
    assert found_in('{"name": {\n' * 20 + f"\n{CALL}")[1] == ONE
    marked = f"<tool_call>{CALL}</tool_call>"
    assert found_in('{"name": {\n' * 200 + marked)[1] == ONE


def test_no_part_of_other_json_is_a_call() -> None:
    text = f'{{"name": "clock", "else":\n{CALL}\n}}'
    assert found_in(text)[:2] == (text, [])


def test_long_call_in_small_pieces_takes_little_time() -> None:
    """Parsing it again with every piece would take minutes."""
    expression = "1 + " * 20_000
    call = f'<tool_call>{{"name": "calculate", "arguments": {{"expression": "{expression}"}}}}'
    started = time.process_time()
    content, calls, _ = found_in(*f"{call}</tool_call> Done.")
    assert time.process_time() - started < 5
    assert (content, calls) == ("Done.", [("calculate", {"expression": expression})])
