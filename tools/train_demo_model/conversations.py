"""Combine exchanges into conversations with system messages and follow-ups."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from corpus import HONEST, Corpus, load_held_out_questions, normalize
from exchanges import Exchange, Exchanges, get_first_sentence
from json_exchanges import JsonExchanges
from paraphrase import Paraphraser
from protocol import FRAME, format_calls, make_system_message
from tool_exchanges import ToolExchange, ToolExchanges

if TYPE_CHECKING:
    import random

    from demo_tools import ToolSet

# It has "segments" instead of "content" if only parts of an answer are learned.
Message = dict[str, Any]

NOTHING_MORE = "That is all I was taught about it. Ask me about something else."
MORE_OF_WHAT = "About what? Ask me, for example, about local AI, quantum computing or black holes."
NO_HISTORY = "I have not said anything yet. What would you like to know?"
NAME_UNKNOWN = "You have not told me your name yet."
ANOTHER_JOKE = "joke: computers"
MAX_REPEAT = 400
FOLLOW_UPS = 0.6
FOLLOW_UPS_FROM_NOTHING = 0.08
TOOL_QUESTIONS = 0.62
TOOL_TURNS = ((1, 2, 3, 4), (0.45, 0.3, 0.15, 0.1))
DRILL_TURNS = (1, 12)
JSON_FOLLOW_UP_SHARE = 0.08
JSON_SYSTEM = 0.35
REFUSED = (
    "This answer was refused:\n- $: it is not what was asked for\n"
    "Give the whole corrected answer, nothing else."
)
JSON_REFUSED = 0.04
REQUIRED_SHARE = 0.05
FORGOTTEN_SHARE = 0.04
ABOUT_TIME = re.compile(r"\b(time|clock|date|day|today|hour|late)\b", re.IGNORECASE)


class Conversations:
    """Draws random conversations.

    Attributes:
        dialogue_share: The share of conversations with more than one exchange.
        tool_share: The share of conversations in which tools are offered.
        drill_share: The share of conversations of sums only.
        json_share: The share of conversations whose last answer is JSON.
        simple: Draw only single, cleanly worded exchanges. Training starts with these, because the
            model then learns faster which answer belongs to a topic.
    """

    def __init__(self, corpus: Corpus, rng: random.Random) -> None:
        self._corpus = corpus
        self._rng = rng
        self._paraphraser = Paraphraser(corpus, rng)
        self.exchanges = Exchanges(corpus, rng, self._paraphraser)
        self.tool_exchanges = ToolExchanges(corpus, rng, self._paraphraser)
        self.json_exchanges = JsonExchanges(corpus, rng, self.exchanges)
        self._held_out = load_held_out_questions()
        self.dialogue_share = 0.0
        self.tool_share = 0.0
        self.drill_share = 0.0
        self.json_share = 0.0
        self._another_joke = next(t for t in corpus.topics if t.key == ANOTHER_JOKE).answer

    @property
    def simple(self) -> bool:
        return self._paraphraser.clean

    @simple.setter
    def simple(self, value: bool) -> None:
        self._paraphraser.clean = value

    def draw(self) -> list[Message]:
        """Draw a conversation of one to six exchanges without held-out questions."""
        while True:
            messages = self._draw()
            questions = (m["content"] for m in messages if m["role"] == "user")
            if self._held_out.isdisjoint(map(normalize, questions)):
                return messages

    def draw_long(self, words: int) -> list[Message]:
        """Draw a very long question outside the corpus."""
        pieces: list[str] = []
        while sum(len(piece.split()) for piece in pieces) < words:
            pieces.append(self.exchanges.untaught().question)
        return [
            {"role": "user", "content": " ".join(pieces)},
            {"role": "assistant", "content": HONEST},
        ]

    def _draw(self) -> list[Message]:
        if self.simple:
            return as_messages(self.exchanges.draw())
        choice = self._rng.random()
        if choice < self.tool_share:
            return self._draw_with_tools()
        if choice < self.tool_share + self.drill_share:
            return self._draw_drill()
        if choice < self.tool_share + self.drill_share + self.json_share:
            return self._draw_json()
        count = self._draw_length()
        tone = self._rng.choices((None, "plain", "short", "pirate"), (0.55, 0.33, 0.07, 0.05))[0]
        messages: list[Message] = []
        if tone:
            system = self._rng.choice(self._corpus.system_messages[tone])
            messages.append({"role": "system", "content": system})
        last: Exchange | None = None
        name = ""
        for _ in range(count):
            last, name = self._next(last, name)
            messages.append({"role": "user", "content": last.question})
            messages.append({"role": "assistant", "content": apply_tone(last, tone)})
        return messages

    def _draw_drill(self) -> list[Message]:
        """Draw a conversation of sums only, which has few other tokens."""
        sums = (self.exchanges.sum() for _ in range(self._rng.randint(*DRILL_TURNS)))
        return [message for exchange in sums for message in as_messages(exchange)]

    def _draw_json(self) -> list[Message]:
        """Draw a question that is answered with JSON, rarely after other exchanges."""
        messages: list[Message] = []
        if self._rng.random() < JSON_FOLLOW_UP_SHARE:
            messages += as_messages(self.exchanges.draw())
        exchange = self.json_exchanges.draw()
        messages.append({"role": "user", "content": exchange.question})
        if self._rng.random() < JSON_REFUSED:
            refused = self.json_exchanges.draw().answer
            messages.append({"role": "assistant", "segments": ((refused, False),)})
            messages.append({"role": "user", "content": REFUSED})
        messages.append({"role": "assistant", "segments": exchange.segments})
        if self._rng.random() < JSON_SYSTEM:
            system = self._rng.choice(self._corpus.system_messages["plain"])
            messages.insert(0, {"role": "system", "content": system})
        return messages

    def _draw_length(self) -> int:
        if self._rng.random() < self.dialogue_share:
            return self._rng.choices((2, 3, 4, 6), (0.55, 0.25, 0.13, 0.07))[0]
        return 1

    def _draw_with_tools(self) -> list[Message]:
        """Draw a conversation in which tools are offered, and used if they help."""
        if (special := self._rng.random()) < FORGOTTEN_SHARE:
            return without_tools(self._draw_tool_use()[1])
        if special < FORGOTTEN_SHARE + REQUIRED_SHARE:
            tool_set, used = self._draw_tool_use()
            offer = self._offer(tool_set, required=True)
            return [offer, *make_tool_messages(used)[:2]]
        tool_set = self.tool_exchanges.tool_sets.draw()
        messages = [self._offer(tool_set)]
        last: Exchange | None = None
        name = ""
        for _ in range(self._rng.choices(*TOOL_TURNS)[0]):
            asks_for_tool = self._rng.random() < TOOL_QUESTIONS
            if asks_for_tool and (used := self.tool_exchanges.draw(tool_set)):
                messages += make_tool_messages(used)
                last = Exchange(used.question, used.answer, "tool")
            else:
                last, name = self._next_without(tool_set, last, name)
                messages.append({"role": "user", "content": last.question})
                messages.append({"role": "assistant", "content": FRAME + last.answer})
        return messages

    def _draw_tool_use(self) -> tuple[ToolSet, ToolExchange]:
        """Draw a set of tools and an exchange that calls one of them."""
        while True:
            tool_set = self.tool_exchanges.tool_sets.draw()
            used = self.tool_exchanges.draw(tool_set)
            if used and used.calls:
                return tool_set, used

    def _offer(self, tool_set: ToolSet, *, required: bool = False) -> Message:
        """Make the system message that declares tools, often after one of the caller."""
        text = make_system_message(tool_set.definitions, required=required)
        if self._rng.random() < 0.45:
            text = f"{self._rng.choice(self._corpus.system_messages['plain'])}\n\n{text}"
        return {"role": "system", "content": text}

    def _next_without(
        self, tool_set: ToolSet, last: Exchange | None, name: str
    ) -> tuple[Exchange, str]:
        """Draw an exchange that needs none of the tools."""
        while True:
            exchange, new_name = self._next(last, name)
            if not needs_tool(exchange, tool_set):
                return exchange, new_name

    def _next(self, last: Exchange | None, name: str) -> tuple[Exchange, str]:
        if self._rng.random() >= (FOLLOW_UPS if last else FOLLOW_UPS_FROM_NOTHING):
            return self.exchanges.draw(), name
        if last and last.kind == "capital" and self._rng.random() < 0.6:
            return self.exchanges.capital("capital-follow"), name
        kind = self._rng.choice(("more", "repeat", "name", "name"))
        if kind == "name":
            return self._name(name)
        if kind == "repeat":
            return self._repeat(last), name
        return self._more(last), name

    def _ask(self, section: str, answer: str, **slots: str) -> Exchange:
        question = self._rng.choice(self._corpus.templates[section]).format(**slots)
        varied = question if slots else self._paraphraser.vary(question, small_talk=True)
        return Exchange(varied, answer, section)

    def _more(self, last: Exchange | None) -> Exchange:
        if last is None:
            return self._ask("more", MORE_OF_WHAT)
        if last.kind == "joke":
            return self._ask("another-joke", self._another_joke)
        if last.kind == "concept" and last.topic and last.topic.more:
            return self._ask("more", last.topic.more)
        return self._ask("more", NOTHING_MORE)

    def _repeat(self, last: Exchange | None) -> Exchange:
        if last is None:
            return self._ask("repeat", NO_HISTORY)
        if len(last.answer) > MAX_REPEAT:
            return self._more(last)
        return self._ask("repeat", last.answer)

    def _name(self, name: str) -> tuple[Exchange, str]:
        if name:
            return self._ask("name-ask", f"Your name is {name}."), name
        if self._rng.random() < 0.2:
            return self._ask("name-ask", NAME_UNKNOWN), name
        name = self.exchanges.invented_name()
        return self._ask("name-tell", f"Nice to meet you, {name}!", m=name), name


def needs_tool(exchange: Exchange, tool_set: ToolSet) -> bool:
    """Whether one of the tools might answer a question that the corpus answers without it."""
    calculates = any(tool.kind in ("expression", "operands", "binary") for tool in tool_set.tools)
    if calculates and exchange.kind in ("sum", "untaught"):
        return exchange.kind == "sum" or any(c.isdigit() for c in exchange.question)
    untaught = exchange.answer == HONEST
    return bool(tool_set.clock() and untaught and ABOUT_TIME.search(exchange.question))


def make_tool_messages(used: ToolExchange) -> list[Message]:
    """Convert an exchange to the messages that the engine gives to the model."""
    messages = [{"role": "user", "content": used.question}]
    if used.calls:
        messages.append({"role": "assistant", "content": format_calls(list(used.calls))})
        messages += [{"role": "tool", "content": result} for result in used.results]
    return [*messages, {"role": "assistant", "content": FRAME + used.answer}]


def without_tools(used: ToolExchange) -> list[Message]:
    """Convert an exchange to the messages of a request without tools, which omit the calls."""
    return [
        {"role": "user", "content": used.question},
        {"role": "assistant", "content": ""},
        *({"role": "tool", "content": result} for result in used.results),
        {"role": "assistant", "content": used.answer},
    ]


def as_messages(exchange: Exchange | ToolExchange) -> list[Message]:
    return [
        {"role": "user", "content": exchange.question},
        {"role": "assistant", "content": exchange.answer},
    ]


def apply_tone(exchange: Exchange, tone: str | None) -> str:
    """Adapt the answer to the system message; only explanations change."""
    if exchange.kind != "concept":
        return exchange.answer
    if tone == "short":
        return get_first_sentence(exchange.answer)
    if tone == "pirate":
        return f"Arr, matey! {exchange.answer}"
    return exchange.answer
