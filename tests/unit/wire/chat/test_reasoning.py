"""Reasoning is separated from the answer in any split of the text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.wire.chat.reasoning import (
    ReasoningSplitter,
    opens_block_in_prompt,
    split_reasoning,
)

CASES = [
    ("<think>Six times seven.</think>42", "Six times seven.", "42"),
    ("<think>\nSix times\nseven.\n</think>\n\n42", "Six times\nseven.", "42"),
    ("  <think>so</think> it is", "so", "it is"),
    ("<think></think>\n42", "", "42"),
    ("<think>one</think>\n<think>two</think>both", "one\n\ntwo", "both"),
    ("no thought at all", "", "no thought at all"),
    ("  white space stays", "", "  white space stays"),
    ("the <think> tag </think> of HTML", "", "the <think> tag </think> of HTML"),
    ("<thinking>is another tag", "", "<thinking>is another tag"),
    ("<thi", "", "<thi"),
    ("   ", "", "   "),
    ("", "", ""),
    ("<think>cut while it thou", "cut while it thou", ""),
    ("<think>a < b and </thin air>", "a < b and </thin air>", ""),
    ("<think>done</think>  ", "done", ""),
]


def told_apart(pieces: list[str]) -> tuple[str, str]:
    splitter, reasoning, content = ReasoningSplitter(), "", ""
    for piece in pieces:
        if splitter.is_decided:
            content += piece
            continue
        split = splitter.feed(piece)
        reasoning, content = reasoning + split.reasoning, content + split.content
    if not splitter.is_decided:
        split = splitter.flush()
        reasoning, content = reasoning + split.reasoning, content + split.content
    return reasoning, content


@pytest.mark.parametrize(("text", "reasoning", "content"), CASES)
def test_text_is_split(text: str, reasoning: str, content: str) -> None:
    assert told_apart([text]) == (reasoning, content)
    assert told_apart(list(text)) == (reasoning, content)


@given(st.lists(st.sampled_from(["<think>", "</think>", "<", "thi", " ", "\n", "a"])), st.data())
def test_any_split_gives_the_same_result(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    bounds = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in pairwise(bounds)]
    assert told_apart(pieces) == told_apart([text])


@pytest.mark.parametrize(
    ("opening", "unit"),
    [
        ("", " "),
        ("<think>", "\n"),
        ("<think>so", " "),
        ("<think>", "<think>"),
        ("", "<think>x </think>"),
        ("<think>so", "</thin "),
    ],
)
def test_held_back_text_is_not_read_again(opening: str, unit: str) -> None:
    """No text that is read again is longer than a marker."""
    splitter, text = ReasoningSplitter(), opening + unit * 4096
    for at in range(0, len(text), 4):
        splitter.feed(text[at : at + 4])
        held = [each for each in vars(splitter).values() if isinstance(each, str)]
        assert sum(map(len, held)) < 2 * len("</think>")


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        *CASES[:5],
        ("Six times seven.\n</think>\n\n42", "Six times seven.", "42"),
        ("Six times seven.</think>42", "Six times seven.", "42"),
        ("\n</think>\n\n42", "", "42"),
        ("so\n</think>\n\nThe tag `</think>` ends it", "so", "The tag `</think>` ends it"),
        ("cut while it thought\n</think>", "cut while it thought", ""),
        ("Write </think> to end it", "", "Write </think> to end it"),
        ("Write `</think>` to end it", "", "Write `</think>` to end it"),
        ('Write "</think>" to end it', "", 'Write "</think>" to end it'),
        ("the <think> tag </think> of HTML", "", "the <think> tag </think> of HTML"),
        ("  no marker", "", "  no marker"),
        ("", "", ""),
    ],
)
def test_complete_text_with_a_block_opened_in_the_prompt(
    text: str, reasoning: str, content: str
) -> None:
    assert split_reasoning("", text) == (reasoning, content)


def test_separated_reasoning_stays_separate() -> None:
    assert split_reasoning("Hm.", "a\n</think>\nb") == ("Hm.", "a\n</think>\nb")


def test_answer_taken_for_reasoning_is_the_answer() -> None:
    assert split_reasoning("All of it.\n", "All of it.") == ("", "All of it.")


CHANNELS = [
    (
        (
            "<|channel|>analysis<|message|>Six times seven.<|end|><|start|>assistant"
            "<|channel|>final<|message|>42<|return|>"
        ),
        "Six times seven.",
        "42",
    ),
    ("<|channel|>final<|message|>4 < 2 <|", "", "4 < 2 <|"),
    (
        (
            "<|start|>assistant<|channel|>analysis<|message|>one<|end|>\n"
            "<|channel|>analysis<|message|>two<|end|>"
            "<|channel|>commentary<|message|>Let me see.<|end|>"
        ),
        "one\n\ntwo",
        "Let me see.",
    ),
    (
        (
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary "
            'to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>'
        ),
        "Hm.",
        (
            "<|start|>assistant<|channel|>commentary "
            'to=functions.f <|constrain|>json<|message|>{"a": 1}'
            "<|call|>"
        ),
    ),
    ("<|channel|>analysis<|message|>cut while it thou", "cut while it thou", ""),
    ("<|channel|>" + "x" * 500, "", "<|channel|>" + "x" * 500),
    ("<|channel|>fin", "", "<|channel|>fin"),
    ("<|chan", "", "<|chan"),
    ("<|x|> is a marker", "", "<|x|> is a marker"),
]


@pytest.mark.parametrize(("text", "reasoning", "content"), CHANNELS)
def test_channels_are_split(text: str, reasoning: str, content: str) -> None:
    assert told_apart([text]) == (reasoning, content)
    assert told_apart(list(text)) == (reasoning, content)
    assert split_reasoning("", text) == (reasoning, content)


@pytest.mark.parametrize("unit", ["<", "<|", "<|channel|>", "<|message|>", "<|end|>x"])
def test_channels_hold_back_only_markers_and_headers(unit: str) -> None:
    splitter, text = ReasoningSplitter(), "<|channel|>final<|message|>" + unit * 1000
    given = sum(len(piece) for at in range(len(text)) for piece in splitter.feed(text[at]))
    rest = splitter.flush()
    assert len(rest.reasoning) + len(rest.content) < 500
    assert given + 500 > len(unit) * 1000 or "|>" in unit


@pytest.mark.parametrize(
    ("name", "opens"),
    [
        ("DeepSeek-R1-Distill-Qwen-1.5B-generic-cpu:4", True),
        ("deepseek-r1-7b", True),
        ("QwQ-32B", True),
        ("qwen3-4b-thinking-2507", True),
        ("qwen3-0.6b", False),
        ("Phi-4-mini-reasoning-generic-cpu", False),
        ("deepseek-v3", False),
        ("demo", False),
    ],
)
def test_models_that_begin_in_a_block(name: str, opens: bool) -> None:  # noqa: FBT001
    assert opens_block_in_prompt(name) is opens
