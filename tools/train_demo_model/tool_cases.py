"""Measure tool use through the real engine: correct calls, and correct answers from results."""

from __future__ import annotations

import json
import re
import urllib.error
from dataclasses import dataclass
from typing import TYPE_CHECKING

from corpus import HELD_OUT, load_corpus, read_lines

if TYPE_CHECKING:
    from engine import Engine

TIME = "14:05"
TIME_RESULTS = (TIME, "2026-11-25T14:05:33+09:00", '{"time": "14:05"}')
SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}


def make_function(name: str, description: str, required: str = "", **parameters: str) -> dict:
    """Make a tool declaration; `parameters` maps names to types."""
    schema = {
        "type": "object",
        "properties": {parameter: {"type": kind} for parameter, kind in parameters.items()},
        "required": required.split(),
    }
    definition = {"name": name, "description": description, "parameters": schema}
    return {"type": "function", "function": definition}


# The simplest declarations.
EXAMPLE_TOOLS = [
    make_function(
        "calculate", "Evaluate an arithmetic expression.", "expression", expression="string"
    ),
    make_function("current_time", "Tell the time in a time zone.", timezone="string"),
]
# Descriptions and other tools that are not in the training data.
MIXED_TOOLS = [
    make_function(
        "get_forecast", "Weather for the next days.", "town", town="string", days="integer"
    ),
    make_function("now", "What the clock shows.", tz="string"),
    make_function("find_document", "Look for a document by its words.", "words", words="string"),
    make_function("calculator", "Gives the exact result of a sum.", "formula", formula="string"),
]
TOOLS_FOR_TWO_NUMBERS = [
    make_function("get_time", "The time in a city.", city="string"),
    *(
        make_function(name, f"{name.capitalize()} two numbers.", "a b", a="number", b="number")
        for name in SIGNS
    ),
]
TOOL_SETS = {
    "example": EXAMPLE_TOOLS,
    "among others": MIXED_TOOLS,
    "two numbers": TOOLS_FOR_TWO_NUMBERS,
}


@dataclass(frozen=True)
class ToolCase:
    """A held-out question and the expected call.

    Attributes:
        question: The message of the user.
        expression: The expression to calculate, or "".
        city: The city whose time is requested, or "".
    """

    question: str
    expression: str
    city: str

    @property
    def result(self) -> str:
        """The result that the tool returns."""
        if self.expression:
            value = eval(self.expression, {"__builtins__": {}})  # noqa: S307 - from a file of this project
            return str(int(value)) if value == int(value) else str(value)
        return TIME_RESULTS[len(self.question) % len(TIME_RESULTS)]

    def is_called(self, name: str, arguments: dict) -> bool:
        """Whether a call is correct."""
        if not self.expression:
            zones = load_corpus().time_zones
            places = {self.city, zones.get(self.city)} if self.city else {""}
            return "calc" not in name and next(iter(arguments.values()), "") in places
        if name in SIGNS:
            return f"{arguments['a']} {SIGNS[name]} {arguments['b']}" == self.expression
        return list(arguments.values()) == [self.expression]

    def is_answered(self, answer: str) -> bool:
        """Whether the answer contains the result."""
        if self.expression:
            return answer == f"{self.expression} is {self.result}."
        return re.search(rf"\b{TIME}\b", answer) is not None and self.city in answer


def load_tool_cases() -> dict[str, list[ToolCase]]:
    """Load the held-out questions for the calculator and for the clock."""
    cases: dict[str, list[ToolCase]] = {"calculator": [], "clock": []}
    for line in read_lines(HELD_OUT / "tools.txt"):
        question, _, expected = line.partition(" => ")
        if expected.startswith("clock"):
            city = expected.removeprefix("clock").strip()
            cases["clock"].append(ToolCase(question, "", city))
        else:
            cases["calculator"].append(ToolCase(question, expected, ""))
    return cases


def run_tool_cases(engine: Engine, temperature: float, *, show_failures: bool) -> None:
    """Ask every question with every set of tools and print the figures."""
    for set_name, tools in TOOL_SETS.items():
        for name, cases in load_tool_cases().items():
            usable = [case for case in cases if fits(case, set_name)]
            outcomes = [evaluate_case(engine, case, tools, temperature) for case in usable]
            called = sum(is_called for is_called, _, _ in outcomes)
            answered = sum(is_answered for _, is_answered, _ in outcomes)
            print(
                f"T={temperature}  tools ({set_name}), {name}: "
                f"{called} of {len(usable)} calls right, {100 * called / len(usable):.1f} %; "
                f"{answered} final answers right, {100 * answered / len(usable):.1f} %"
            )
            for case, (is_called, is_answered, response) in zip(usable, outcomes, strict=True):
                if show_failures and not (is_called and is_answered):
                    print(f"  WRONG  {case.question!r} -> {response}")


def fits(case: ToolCase, set_name: str) -> bool:
    """Whether a set of tools can calculate it: tools for two numbers take no long expression."""
    return set_name != "two numbers" or len(case.expression.split()) in (0, 3)


def evaluate_case(
    engine: Engine, case: ToolCase, tools: list[dict], temperature: float
) -> tuple[bool, bool, str]:
    """Return whether the call is right, whether the final answer is, and the response."""
    messages: list[dict] = [{"role": "user", "content": case.question}]
    try:
        message = _complete(engine, messages, tools, temperature)
        calls = message.get("tool_calls") or []
        if len(calls) != 1:
            return False, False, str(message)[:150]
        name, text = calls[0]["function"]["name"], calls[0]["function"]["arguments"]
        called = case.is_called(name, json.loads(text))
        result = {"role": "tool", "tool_call_id": calls[0]["id"], "content": case.result}
        answer = _complete(engine, [*messages, message, result], tools, temperature)["content"]
    except urllib.error.HTTPError as error:
        return False, False, error.read().decode("utf-8")[:300]
    return called, called and case.is_answered(answer), f"{name}{text} -> {answer!r}"


def _complete(engine: Engine, messages: list[dict], tools: list[dict], temperature: float) -> dict:
    reply = engine.answer(messages, tools=tools, temperature=temperature, max_tokens=300)
    return reply["choices"][0]["message"]
