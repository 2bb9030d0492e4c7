"""Measure whether the model's JSON is valid for types that are not in the training data.

The tests of the package use the same types.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry_api.structured.engine_schema import make_schema_grammar
from foundry_api.structured.errors import ValidationFailed
from foundry_api.structured.response_model import make_response_type

if TYPE_CHECKING:
    from engine import Engine

HELD_OUT = Path(__file__).parent / "held_out"
PLAIN = {"text": str, "whole": int, "decimal": float, "truth": bool, "list": list[str]}
KINDS = (*PLAIN, "choice")
FIELDS = (2, 6)
INNER_FIELDS = (2, 3)
NESTED_SHARE = 0.35
NAMED_SHARE = 0.3
COUNT = 100
SEED = 41
MAX_ANSWER = 300


@dataclass(frozen=True)
class JsonCase:
    """A question, the type of its answer, and the expected values if they are known."""

    question: str
    model: type[Any]
    expected: dict[str, Any] | None = None


def make_unseen_models(count: int = COUNT, seed: int = SEED) -> list[JsonCase]:
    """Make dataclasses of two to six fields whose names are not in the training data."""
    words = _read_sections(HELD_OUT / "fields.txt")
    rng = random.Random(seed)
    return [_make_case(words, rng, number) for number in range(count)]


def make_known_models() -> list[JsonCase]:
    """Make dataclasses whose values are in the question, or known to the model."""
    lines = (HELD_OUT / "people.txt").read_text(encoding="utf-8").splitlines()
    cases = []
    for line in lines:
        question, arrow, text = line.partition(" => ")
        if arrow:
            expected = json.loads(text)
            fields = [(name, type(value)) for name, value in expected.items()]
            cases.append(JsonCase(question, dataclasses.make_dataclass("Known", fields), expected))
    return cases


def run_json_cases(engine: Engine, temperature: float, *, show_failures: bool) -> None:
    """Request every type as `response_model=` does, and print how many answers are valid."""
    sets = {"unseen types": make_unseen_models(), "known values": make_known_models()}
    for name, cases in sets.items():
        outcomes = [_evaluate_case(engine, case, temperature) for case in cases]
        valid = sum(value is not None for value, _ in outcomes)
        print(f"T={temperature}  JSON, {name}: {valid} of {len(cases)} valid")
        right = [
            value is not None and dataclasses.asdict(value) == case.expected
            for case, (value, _) in zip(cases, outcomes, strict=True)
        ]
        if cases[0].expected is not None:
            print(f"T={temperature}  JSON, {name}: {sum(right)} of {len(cases)} right")
        for case, (value, text), is_right in zip(cases, outcomes, right, strict=True):
            if show_failures and (value is None or not is_right):
                print(f"  WRONG  {case.question!r} -> {text[-150:]}")


def _evaluate_case(engine: Engine, case: JsonCase, temperature: float) -> tuple[Any, str]:
    """Return the decoded answer, or None if it is invalid or truncated, and its text."""
    spec = make_response_type(case.model)
    grammar = {"type": "lark_grammar", "lark_grammar": make_schema_grammar(spec.schema)}
    choice = engine.answer(
        [{"role": "user", "content": case.question}],
        temperature=temperature,
        max_tokens=MAX_ANSWER,
        response_format=grammar,
    )["choices"][0]
    text = choice["message"]["content"]
    if choice["finish_reason"] != "stop":
        return None, text
    try:
        return spec.decode(text), text
    except ValidationFailed:
        return None, text


def _make_case(words: dict[str, list[str]], rng: random.Random, number: int) -> JsonCase:
    fields = _make_fields(words, rng, rng.randint(*FIELDS))
    if rng.random() < NESTED_SHARE:
        inner = dataclasses.make_dataclass(
            f"Inner{number}", _make_fields(words, rng, rng.randint(*INNER_FIELDS))
        )
        (names,) = words["object"]
        fields[rng.randrange(len(fields))] = (rng.choice(names.split()), inner)
    question = rng.choice(words["prompts"])
    if rng.random() < NAMED_SHARE:
        question = f"Report {', '.join(name for name, _ in fields)}."
    return JsonCase(question, dataclasses.make_dataclass(f"Unseen{number}", fields))


def _make_fields(
    words: dict[str, list[str]], rng: random.Random, count: int
) -> list[tuple[str, Any]]:
    fields: dict[str, Any] = {}
    while len(fields) < count:
        kind = rng.choice(KINDS)
        if kind == "choice":
            name, _, choices = rng.choice(words[kind]).partition(": ")
            members = {choice.upper(): choice for choice in choices.split()}
            fields.setdefault(name, enum.Enum(name.capitalize(), members))
        else:
            fields.setdefault(rng.choice(" ".join(words[kind]).split()), PLAIN[kind])
    return list(fields.items())


def _read_sections(path: Path) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            sections[line.strip("[]")] = lines = []
        elif line and not line.startswith("#"):
            lines.append(line)
    return sections
