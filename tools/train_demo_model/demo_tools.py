"""Generate sets of tools as callers declare them: calculators, clocks, and tools without use."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from corpus import Corpus

USUAL_SHARE = 0.65
OPERATIONS = {"+": "addition", "-": "subtraction", "*": "multiplication", "/": "division"}
VERBS = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide"}
OPERATION_WORDS = (
    {"+": "add", "-": "subtract", "*": "multiply", "/": "divide"},
    {"+": "+", "-": "-", "*": "*", "/": "/"},
)


@dataclass(frozen=True)
class Tool:
    """A declared function and its use.

    Attributes:
        kind: "expression", "operands" (two numbers and an operation), "binary" (two numbers),
            "clock" (no parameter), "zone", "place" or "other".
        definition: The name, description and parameters, as in a request.
        parameters: The names of the parameters that the model fills in.
        sign: The operation of a binary tool.
        words: The value of the operation parameter for each sign.
        needs_place: Whether the time zone or place is required.
    """

    kind: str
    definition: dict
    parameters: tuple[str, ...] = ()
    sign: str = ""
    words: dict[str, str] | None = None
    needs_place: bool = False

    @property
    def name(self) -> str:
        return self.definition["name"]


@dataclass(frozen=True)
class ToolSet:
    """The tools of one conversation, in the order in which they are declared."""

    tools: tuple[Tool, ...]

    @property
    def definitions(self) -> list[dict]:
        """The declarations of the request."""
        return [tool.definition for tool in self.tools]

    def calculator(self, sign: str) -> Tool | None:
        """Return the tool for an operation; the sign "e" stands for a whole expression."""
        for tool in self.tools:
            if tool.kind == "expression" or (tool.kind == "operands" and sign != "e"):
                return tool
            if tool.kind == "binary" and tool.sign == sign:
                return tool
        return None

    def clock(self) -> Tool | None:
        return next((t for t in self.tools if t.kind in ("clock", "zone", "place")), None)


class ToolSetGenerator:
    """Draws random sets of tools."""

    def __init__(self, corpus: Corpus, rng: random.Random) -> None:
        self._words = corpus.tools
        self._rng = rng

    def draw(self) -> ToolSet:
        """Draw one to five tools, usually including a calculator and a clock."""
        while True:
            tools: list[Tool] = []
            if self._chance(0.75):
                tools += self._calculators()
            if self._chance(0.7):
                tools.append(self._clock())
            other_count = self._rng.choices((0, 1, 2, 4), (0.6, 0.24, 0.11, 0.05))[0]
            tools += [
                self._make_other(line)
                for line in self._rng.sample(self._words["others"], other_count)
            ]
            names = {tool.name for tool in tools}
            if tools and len(names) == len(tools):
                self._rng.shuffle(tools)
                return ToolSet(tuple(tools))

    def _chance(self, probability: float) -> bool:
        return self._rng.random() < probability

    def _pick(self, section: str) -> str:
        """Draw a name or description; of names, mostly the first of its section."""
        words = self._words[section]
        if section.endswith("-names") and self._chance(USUAL_SHARE):
            return words[0]
        return self._rng.choice(words)

    def _calculators(self) -> list[Tool]:
        kind = self._rng.choices(("expression", "operands", "binary"), (0.8, 0.05, 0.15))[0]
        if kind == "expression":
            name = self._pick("expression-names")
            schema = {name: self._describe("string", "expression-descriptions")}
            definition = self._declare("calculator", schema, [name])
            return [Tool("expression", definition, (name,))]
        if kind == "operands":
            return [self._with_operation()]
        signs = self._rng.sample(list(OPERATIONS), self._rng.randint(2, 4))
        names = tuple(self._pick("operand-names").split())
        return [self._binary(sign, names) for sign in signs]

    def _with_operation(self) -> Tool:
        a, b = self._pick("operand-names").split()
        operation = self._pick("operation-names")
        words = self._rng.choice(OPERATION_WORDS)
        choices = {"type": "string", "enum": list(words.values())}
        schema = {a: self._number(), b: self._number()}
        first = self._chance(0.5)
        schema = {operation: choices, **schema} if first else {**schema, operation: choices}
        definition = self._declare("calculator", schema, list(schema))
        return Tool("operands", definition, (a, b, operation), words=words)

    def _binary(self, sign: str, names: tuple[str, ...]) -> Tool:
        schema = {name: self._number() for name in names}
        verb = VERBS[sign]
        text = self._pick("operation-descriptions").replace("{Verb}", verb.capitalize())
        definition = {
            "name": self._pick(f"{OPERATIONS[sign]}-names"),
            "description": text,
            "parameters": self._parameters(schema, list(names)),
        }
        return Tool("binary", definition, names, sign=sign)

    def _clock(self) -> Tool:
        kind = self._rng.choices(("clock", "zone", "place"), (0.2, 0.65, 0.15))[0]
        if kind == "clock":
            return Tool("clock", self._declare("clock", {}, []))
        name = self._pick(f"{kind}-names")
        needed = self._chance(0.35)
        described = self._describe("string", f"{kind}-descriptions")
        if not needed and self._chance(0.4):
            described = self._optional(described)
        section = self._rng.choice(("clock", f"{kind}-clock"))
        required = [name] if needed else []
        definition = self._declare("clock", {name: described}, required, f"{section}-descriptions")
        return Tool(kind, definition, (name,), needs_place=needed)

    def _optional(self, described: dict) -> dict:
        extra = {key: value for key, value in described.items() if key != "type"}
        either = {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}
        types = self._rng.choice(
            (
                {"type": "string", "default": None},
                {"type": "string", "default": "UTC"},
                {"type": ["string", "null"]},
                {"anyOf": [{"type": "string"}, {"type": "null"}]},
                either,
                either,
            )
        )
        return {**extra, **types} if self._chance(0.5) else {**types, **extra}

    def _make_other(self, line: str) -> Tool:
        name, inside, text = re.fullmatch(r"(\w+)\((.*)\): (.+)", line).groups()
        pairs = [pair.split(": ") for pair in inside.split(", ") if pair]
        schema = {parameter: {"type": kind} for parameter, kind in pairs}
        parameters = self._parameters(schema, list(schema))
        definition = {"name": name, "description": text, "parameters": parameters}
        return Tool("other", definition)

    def _declare(
        self, names: str, schema: dict, required: list[str], descriptions: str = ""
    ) -> dict:
        return {
            "name": self._pick(f"{names}-names"),
            "description": self._pick(descriptions or f"{names}-descriptions"),
            "parameters": self._parameters(schema, required),
        }

    def _parameters(self, schema: dict, required: list[str]) -> dict:
        parameters = {"type": "object", "properties": schema}
        if required or self._chance(0.4):
            parameters["required"] = required
        if self._chance(0.5):
            parameters["additionalProperties"] = False
        return parameters

    def _number(self) -> dict:
        kind = self._rng.choice(("number", "number", "integer"))
        return self._describe(kind, "operand-descriptions")

    def _describe(self, kind: str, section: str) -> dict:
        if self._chance(0.5):
            return {"type": kind}
        text = self._pick(section)
        if self._chance(0.5):
            return {"description": text, "type": kind}
        return {"type": kind, "description": text}
