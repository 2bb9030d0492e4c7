"""The scripted model of the tests, run without an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest

from support.scripted_model.graph import (
    PAST_KEY,
    PAST_VALUE,
    PRESENT_KEY,
    PRESENT_VALUE,
    make_scripted_model,
)
from support.scripted_model.scripts import ALL_SCRIPTS, script
from support.scripted_model.tokenizer import FRAME, FRAMING, MARKERS, encode_script, keyword_tokens

if TYPE_CHECKING:
    from collections.abc import Iterable

START, END = MARKERS.values()
TOOL_RESULT = keyword_tokens(ALL_SCRIPTS)["<tool_response>"]
PROMPT = (
    *(START, *b"system\nemit ", *FRAMING, *b"first.", END, *b"\n"),
    *(START, *b"user\ncall-calculator", END, *b"\n"),
    *(START, *b"assistant\n"),
)
"""A prompt with tools: the keyword is spelt in bytes."""
TOOL_TURN = (END, START, *b"tool\n", TOOL_RESULT, *b"42", END, *b"\nassistant\n")

EXPECTED = [
    (PROMPT, encode_script(script("call-calculator"))),
    ((*PROMPT, *TOOL_TURN), [*FRAME, *script("<tool_response>").text.encode()]),
]


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(make_scripted_model(ALL_SCRIPTS).SerializeToString())


def generate(
    session: onnxruntime.InferenceSession, parts: Iterable[tuple[int, ...]], count: int
) -> list[int]:
    """Read a prompt in parts, and return the first `count` tokens of the answer."""
    past = {name: np.zeros((1, 1, 0, 1), np.float32) for name in (PAST_KEY, PAST_VALUE)}
    answer: list[int] = []
    pending = list(parts)
    while len(answer) < count:
        ids = pending.pop(0) if pending else (answer[-1],)
        logits, key, value = session.run(
            ["logits", PRESENT_KEY, PRESENT_VALUE], {"input_ids": np.array([ids]), **past}
        )
        past = {PAST_KEY: key, PAST_VALUE: value}
        if not pending:
            answer.append(int(logits[0, -1].argmax()))
    return answer


@pytest.mark.parametrize(("prompt", "answer"), EXPECTED)
def test_the_answer_does_not_depend_on_the_parts_of_the_prompt(
    session: onnxruntime.InferenceSession, prompt: tuple[int, ...], answer: list[int]
) -> None:
    for end in range(2, len(prompt)):
        parts = (prompt[:end], prompt[end:])
        assert generate(session, parts, len(answer)) == answer, f"split at {end}"


@pytest.mark.parametrize("size", [5, 8, 16])
@pytest.mark.parametrize(("prompt", "answer"), EXPECTED)
def test_a_prompt_may_have_many_parts(
    session: onnxruntime.InferenceSession, prompt: tuple[int, ...], answer: list[int], size: int
) -> None:
    parts = [prompt[start : start + size] for start in range(0, len(prompt), size)]
    assert generate(session, parts, len(answer)) == answer
