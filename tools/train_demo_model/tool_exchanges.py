"""Generate questions for tools, with the calls, their results and the answer."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from demo_tools import OPERATIONS, Tool, ToolSet, ToolSetGenerator
from exchanges import MAX_TERM

if TYPE_CHECKING:
    import random

    from corpus import Corpus
    from paraphrase import Paraphraser

SECTIONS = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide"}
FAILED = "The tool reported an error, so I cannot answer that."
NO_PLACES = "My clock tells the local time only."
WHICH_PLACE = "For which city?"
FAILURE_SHARE = 0.04
ZERO_SHARE = 0.03
BY_ZERO_SHARE = 0.2
MAX_EXPRESSION = 24
DATED = ("%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f")
UNDATED = ("%H:%M", "%H:%M", "%H:%M:%S", "%I:%M %p", "It is %H:%M.", "%A %H:%M", "%d %B %Y, %H:%M")
OFFSETS = ("", "", "+00:00", "+09:00", "-05:00", "Z")
Call = tuple[str, dict]


@dataclass(frozen=True)
class Problem:
    """A calculation.

    Attributes:
        question: The question.
        sign: The operation, or "e" for a longer expression.
        terms: The two numbers as text, none for a longer expression.
        expression: The expression as text.
    """

    question: str
    sign: str
    terms: tuple[str, ...]
    expression: str


@dataclass(frozen=True)
class ToolExchange:
    """A question, the calls that it needs, their results, and the answer."""

    question: str
    calls: tuple[Call, ...]
    results: tuple[str, ...]
    answer: str


class ToolExchanges:
    """Draws exchanges that use the tools of a set."""

    def __init__(self, corpus: Corpus, rng: random.Random, paraphraser: Paraphraser) -> None:
        self._corpus = corpus
        self._rng = rng
        self._paraphraser = paraphraser
        self.tool_sets = ToolSetGenerator(corpus, rng)
        self._cities = list(corpus.time_zones.items())

    def draw(self, tool_set: ToolSet) -> ToolExchange | None:
        """Draw an exchange for one tool or two; None if the drawn question fits none of them."""
        kind = self._rng.choices(("sum", "clock", "both"), (0.55, 0.4, 0.05))[0]
        if kind == "both":
            return self._both(tool_set)
        return self.draw_calculation(tool_set) if kind == "sum" else self.draw_time(tool_set)

    def draw_calculation(self, tool_set: ToolSet) -> ToolExchange | None:
        """Draw a calculation, if there is a tool for it."""
        problem = self.draw_problem()
        tool = tool_set.calculator(problem.sign)
        if tool is None:
            return None
        question = self._paraphraser.vary(problem.question)
        call = (tool.name, make_arguments(tool, problem))
        value = self._value(problem.expression)
        if value is None or self._rng.random() < FAILURE_SHARE:
            return self._failed(question, call)
        result = self._result_text(problem.expression, value)
        return ToolExchange(question, (call,), (result,), f"{problem.expression} is {value}.")

    def draw_time(self, tool_set: ToolSet) -> ToolExchange | None:
        """Draw a question about the time, if there is a clock."""
        clock = tool_set.clock()
        if clock is None:
            return None
        kind = self._rng.choices(("time", "place", "date"), (0.42, 0.48, 0.1))[0]
        city, zone = self._rng.choice(self._cities) if kind == "place" else ("", "")
        question = self._time_question(kind, city)
        if kind == "place" and clock.kind == "clock":
            return ToolExchange(question, (), (), NO_PLACES)
        if kind != "place" and clock.needs_place:
            if clock.kind == "place":
                return ToolExchange(question, (), (), WHICH_PLACE)
            zone = "UTC"
        place = zone if clock.kind == "zone" else city
        call = (clock.name, {clock.parameters[0]: place} if place else {})
        if self._rng.random() < FAILURE_SHARE:
            return self._failed(question, call)
        result, answer = self._format_reading(kind, city, place)
        return ToolExchange(question, (call,), (result,), answer)

    def draw_problem(self) -> Problem:
        """Draw a calculation, mostly of two numbers."""
        kind = self._rng.choices(("two", "expression", "percent"), (0.82, 0.13, 0.05))[0]
        wordings = self._corpus.large_sums
        if kind == "expression":
            expression = self._expression()
            question = self._rng.choice(wordings["expression"]).format(e=expression)
            return Problem(question, "e", (), expression)
        a, b = self._number(), self._number()
        if kind == "percent":
            question = self._rng.choice(wordings["percent"]).format(a=a, b=b)
            return Problem(question, "e", (), f"{b} * {a} / 100")
        sign = self._rng.choice(list(OPERATIONS))
        if sign == "/" and self._rng.random() < BY_ZERO_SHARE:
            b = "0"
        section = SECTIONS[sign]
        template = self._rng.choice(self._corpus.templates[section] + wordings[section])
        spelled = [self._spell(n) if not set("+-*/=") & set(template) else n for n in (a, b)]
        question = template.format(a=spelled[0], b=spelled[1])
        return Problem(question, sign, (a, b), f"{a} {sign} {b}")

    def _both(self, tool_set: ToolSet) -> ToolExchange | None:
        first, second = self.draw_calculation(tool_set), self.draw_time(tool_set)
        if first is None or second is None or not second.calls:
            return None
        if FAILED in (first.answer, second.answer):
            return None
        question = f"{first.question.rstrip('?!. ')} and {second.question}"
        calls, results = first.calls + second.calls, first.results + second.results
        return ToolExchange(question, calls, results, f"{first.answer} {second.answer}")

    def _failed(self, question: str, call: Call) -> ToolExchange:
        failure = self._rng.choice(self._corpus.tools["failures"])
        return ToolExchange(question, (call,), (failure,), FAILED)

    def _spell(self, number: str) -> str:
        small = number.isdecimal() and int(number) <= MAX_TERM
        if small and self._rng.random() < 0.3:
            return self._corpus.words["numbers"][int(number)]
        return number

    def _number(self) -> str:
        if self._rng.random() < ZERO_SHARE:
            return "0"
        digits = self._rng.choices((1, 2, 3, 4, 5, 6, 8), (15, 22, 20, 20, 12, 8, 3))[0]
        number = self._rng.randint(10 ** (digits - 1), 10**digits - 1)
        if self._rng.random() < 0.06:
            return f"{number}.{self._rng.randint(1, 99)}".rstrip("0")
        return str(number)

    def _expression(self) -> str:
        while True:
            a, b, c = (self._number() for _ in range(3))
            first, second = self._rng.choices(list(OPERATIONS), k=2)
            shape = self._rng.choice(("{} {} {} {} {}", "({} {} {}) {} {}", "{} {} ({} {} {})"))
            expression = shape.format(a, first, b, second, c)
            if len(expression) < MAX_EXPRESSION:
                return expression

    def _value(self, expression: str) -> str | None:
        """Return what a calculator would."""
        try:
            value = eval(expression, {"__builtins__": {}})  # noqa: S307 - generated here
        except ZeroDivisionError:
            return None
        if isinstance(value, float):
            if value.is_integer() and self._rng.random() < 0.6:
                return str(int(value))
            if self._rng.random() < 0.7:
                return f"{round(value, self._rng.randint(1, 4))}"
        return str(value)

    def _result_text(self, expression: str, value: str) -> str:
        if self._rng.random() < 0.6:
            return value
        shapes = (
            f'{{"result": {value}}}',
            f'{{"result":{value}}}',
            f'{{"value": {value}}}',
            f"{expression} = {value}",
            f"Result: {value}",
            f"The result is {value}.",
            f"The result is {value}",
            f'"{value}"',
        )
        return self._rng.choice(shapes)

    def _time_question(self, kind: str, city: str) -> str:
        question = self._rng.choice(self._corpus.clock_questions[kind]).format(p=city)
        return self._paraphraser.vary(question)

    def _format_reading(self, kind: str, city: str, place: str) -> tuple[str, str]:
        moment = dt.datetime(
            self._rng.randint(2020, 2039),
            self._rng.randint(1, 12),
            self._rng.randint(1, 28),
            self._rng.randint(0, 23),
            self._rng.randint(0, 59),
            self._rng.randint(0, 59),
            self._rng.randint(0, 999999),
            tzinfo=dt.UTC,
        )
        shape = self._rng.choice(DATED if kind == "date" else DATED + UNDATED)
        text = moment.strftime(shape)
        if "T%H" in shape:
            text += self._rng.choice(OFFSETS)
        elif shape[0] == "%" and self._rng.random() < 0.12:
            text += (
                self._rng.choice((f" {place}", f" ({place})", " UTC", " local time"))
                .replace("()", "")
                .rstrip()
            )
        if self._rng.random() < 0.2:
            text = self._as_object(text, place)
        if kind == "date":
            return text, f"Today is {moment:%Y-%m-%d}."
        clock = moment.strftime("%I:%M %p" if "%p" in shape else "%H:%M")
        return text, f"It is {clock} in {city}." if city else f"It is {clock}."

    def _as_object(self, text: str, place: str) -> str:
        value = {self._rng.choice(("time", "time", "current_time", "datetime", "now")): text}
        if place and self._rng.random() < 0.5:
            value["timezone"] = place
        separators = self._rng.choice(((",", ":"), (", ", ": ")))
        return json.dumps(value, separators=separators)


def make_arguments(tool: Tool, problem: Problem) -> dict:
    """Make the arguments of a calculator for a problem."""
    if tool.kind == "expression":
        return {tool.parameters[0]: problem.expression}
    numbers = [json.loads(term) for term in problem.terms]
    if tool.kind == "binary":
        return dict(zip(tool.parameters, numbers, strict=True))
    a, b, operation = tool.parameters
    values = {a: numbers[0], b: numbers[1], operation: (tool.words or {})[problem.sign]}
    order = tool.definition["parameters"]["properties"]
    return {name: values[name] for name in order}
