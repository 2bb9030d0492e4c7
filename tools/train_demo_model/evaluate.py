"""Measure a model folder through the real engine: held-out wordings, honesty, memory, speed."""

from __future__ import annotations

import argparse
import difflib
import random
import re
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError

from corpus import HELD_OUT, HONEST, Corpus, Topic, load_corpus, normalize, read_lines
from engine import Engine, running_engine
from exchanges import Exchanges
from json_cases import run_json_cases
from paraphrase import Paraphraser
from tool_cases import EXAMPLE_TOOLS, run_tool_cases

SHIPPED_MODEL = Path(__file__).parents[2] / "src/foundry_api/engine/demo_model"
TEMPERATURES = (0.0, 0.7)
MIN_SIMILARITY = 0.9
TURN = " // "
HONEST_START = HONEST[:40]
WITH_TOOLS = ("out of scope", "paraphrases", "follow-ups", "taught questions", "capitals")
MAX_ANSWER = 600
TERMS = 2
SHOWN = ("Explain quantum computing", "Write a story about AI")
SAMPLED_SUMS = 150
SEED = 7


@dataclass(frozen=True)
class Case:
    """A question and its expected answer.

    Attributes:
        question: The message of the user; several turns are separated by TURN.
        expected: A complete answer, which must be 90 % similar, or a word that must occur.
        is_full_answer: Whether `expected` is a complete answer.
        exact: Whether every character must match, as in a sum.
    """

    question: str
    expected: str
    is_full_answer: bool
    exact: bool = False

    def is_right(self, answer: str) -> bool:
        if self.exact:
            return answer.strip() == self.expected
        if self.expected == HONEST:
            return answer.startswith(HONEST_START)
        if not self.is_full_answer:
            words = re.findall(r"\w+", answer)
            return not answer.startswith(HONEST_START) and set(
                re.findall(r"\w+", self.expected)
            ) <= set(words)
        return difflib.SequenceMatcher(None, self.expected, answer).ratio() >= MIN_SIMILARITY


def main() -> None:
    """Run every set of questions and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", default=SHIPPED_MODEL)
    parser.add_argument("--failures", action="store_true", help="print every wrong answer")
    arguments = parser.parse_args()
    corpus = load_corpus()
    sets = {
        "out of scope": out_of_scope_cases(),
        "paraphrases": paraphrase_cases(corpus),
        "follow-ups": follow_up_cases(),
        "taught questions": taught_cases(corpus),
        "capitals": capital_cases(corpus),
        "small sums": sum_cases(corpus),
    }
    reject_leaks(corpus, sets["out of scope"] + sets["paraphrases"])
    with running_engine(arguments.model.resolve()) as engine:
        print(f"loaded in {engine.load_s * 1000:.0f} ms")
        for temperature in TEMPERATURES:
            for name, cases in sets.items():
                measure(engine, name, cases, EvaluationOptions(temperature, arguments.failures))
            for name in WITH_TOOLS:
                options = EvaluationOptions(temperature, arguments.failures, EXAMPLE_TOOLS)
                measure(engine, name, without_calculations(sets[name]), options)
            run_tool_cases(engine, temperature, show_failures=arguments.failures)
            run_json_cases(engine, temperature, show_failures=arguments.failures)
        print_speed(engine)
        for question in SHOWN:
            print(f"\n{question}\n{ask(engine, question, EvaluationOptions())}")


def out_of_scope_cases() -> list[Case]:
    """Load held-out questions outside the corpus."""
    lines = read_lines(HELD_OUT / "out_of_scope.txt")
    return [Case(line, HONEST, is_full_answer=True) for line in lines]


def paraphrase_cases(corpus: Corpus) -> list[Case]:
    """Load held-out wordings of questions of the corpus."""
    answers = {topic.key: topic.answer for topic in corpus.topics}
    cases = []
    for line in read_lines(HELD_OUT / "paraphrases.txt"):
        question, arrow, key = line.partition(" => ")
        if arrow:
            cases.append(Case(question, answers[key], is_full_answer=True))
        else:
            question, _, word = line.rpartition(" = ")
            cases.append(Case(question, word, is_full_answer=False))
    return cases


def follow_up_cases() -> list[Case]:
    """Load conversations whose last turn can only be answered from earlier turns."""
    split = [line.rpartition(" = ") for line in read_lines(HELD_OUT / "follow_ups.txt")]
    return [Case(conversation, word, is_full_answer=False) for conversation, _, word in split]


def taught_cases(corpus: Corpus) -> list[Case]:
    """Make one question of the corpus for each topic."""
    return [
        Case(_plain_question(corpus, topic), topic.answer, is_full_answer=True)
        for topic in corpus.topics
    ]


def _plain_question(corpus: Corpus, topic: Topic) -> str:
    if topic.kind == "concept":
        return f"Explain {topic.names[0]}"
    if topic.kind == "plain":
        return topic.questions[0].capitalize() + "?"
    if topic.names:
        return f"Write a {topic.kind} about {topic.names[0]}".replace("Write a joke", "Tell a joke")
    return corpus.templates[f"{topic.kind}-any"][0].capitalize()


def capital_cases(corpus: Corpus) -> list[Case]:
    return [
        Case(f"What is the capital of {country}?", city, is_full_answer=False)
        for country, city in corpus.capitals.items()
    ]


def sum_cases(corpus: Corpus) -> list[Case]:
    """Sample sums of the training data in many wordings."""
    rng = random.Random(SEED)
    exchanges = Exchanges(corpus, rng, Paraphraser(corpus, rng))
    drawn = [exchanges.sum() for _ in range(SAMPLED_SUMS)]
    return [
        Case(exchange.question, exchange.answer, is_full_answer=True, exact=True)
        for exchange in drawn
    ]


def without_calculations(cases: list[Case]) -> list[Case]:
    """Return the cases whose answer does not change when a calculator is offered."""
    return [case for case in cases if len(re.findall(r"\d+", case.question)) < TERMS]


def reject_leaks(corpus: Corpus, held_out: list[Case], draws: int = 100_000) -> None:
    """Fail if a held-out question can be drawn as a training question.

    conversations.py skips them as well; this checks what the corpus itself would generate.
    """
    rng = random.Random(SEED)
    exchanges = Exchanges(corpus, rng, Paraphraser(corpus, rng))
    drawn = {normalize(exchanges.draw().question) for _ in range(draws)}
    leaks = [case.question for case in held_out if normalize(case.question) in drawn]
    if leaks:
        raise SystemExit(f"held-out questions in the training data: {leaks}")


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of a measurement.

    Attributes:
        temperature: The sampling temperature.
        show_failures: Whether to print every wrong answer.
        tools: Tools that are offered although no question needs them.
    """

    temperature: float = 0.0
    show_failures: bool = False
    tools: list[dict] | None = None


def measure(engine: Engine, name: str, cases: list[Case], options: EvaluationOptions) -> None:
    """Ask every question of a set and print how many answers are right."""
    right = 0
    for case in cases:
        answer = ask(engine, case.question, options)
        if case.is_right(answer):
            right += 1
        elif options.show_failures:
            print(f"  WRONG  {case.question!r} -> {answer[:90]!r}")
    share = 100 * right / len(cases)
    offered = ", tools offered" if options.tools else ""
    print(f"T={options.temperature}  {name}{offered}: {right} of {len(cases)} right, {share:.1f} %")


def ask(engine: Engine, question: str, options: EvaluationOptions) -> str:
    """Return the answer to the last turn of a question; a tool call is a wrong answer."""
    messages: list[dict[str, str]] = []
    parameters = {"temperature": options.temperature}
    if options.tools:
        parameters |= {"tools": options.tools, "max_tokens": MAX_ANSWER}
    for message in question.split(TURN):
        messages.append({"role": "user", "content": message})
        try:
            choice = engine.answer(messages, **parameters)["choices"][0]
        except HTTPError as error:
            return f"HTTP {error.code}"
        if choice["finish_reason"] == "tool_calls":
            return f"called {choice['message']['tool_calls']}"
        if choice["finish_reason"] != "stop":
            raise SystemExit(f"the answer to {question!r} did not end: {choice}")
        messages.append({"role": "assistant", "content": choice["message"]["content"]})
    return messages[-1]["content"]


def print_speed(engine: Engine, rounds: int = 10) -> None:
    """Print the speed of a long answer."""
    messages = [{"role": "user", "content": "Write a story about AI"}]
    started, tokens = time.monotonic(), 0
    for _ in range(rounds):
        tokens += engine.answer(messages)["usage"]["completion_tokens"]
    elapsed = time.monotonic() - started
    print(f"{tokens // rounds} tokens per answer, {tokens / elapsed:.0f} tokens/s")


if __name__ == "__main__":
    main()
