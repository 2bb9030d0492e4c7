"""Generate JSON answers under the constraints of the engine, with questions of many kinds.

The engine gets the schema of a request as a grammar, and the model does not see it: the names of
the members are forced. So only the values between them are learned.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from corpus import HELD_OUT, HONEST, read_sections
from exchanges import get_first_sentence, strip_article

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from corpus import Corpus
    from exchanges import Exchanges

KINDS = ("text", "whole", "decimal", "truth", "choice", "list", "object")
SHARES = (31, 18, 11, 10, 9, 18, 3)
FIELDS = ((1, 2, 3, 4, 5, 6, 8), (8, 22, 26, 20, 13, 9, 2))
ITEMS = ((0, 1, 2, 3, 4), (2, 62, 24, 9, 3))
SPACED_SHARE = 0.92
REPETITION_SHARE = 0.1
REPETITIONS = ((2, 3, 4, 6), (88, 5, 4, 3))
NULL_SHARE = 0.03
SPLIT_SHARE = 0.3
APART_SHARE = 0.35
ROUND_SHARE = 0.35
COPIED_SHARE = 0.5
PERSON_SHARE = 0.17
MISTYPED_SHARE = 0.12
INVENTED_NAMES = 0.3
INFORMED_SHARE = 0.62
TAUGHT_SHARE = 0.16
MAX_TEXT = 160

# Text, and whether it is learned.
Segment = tuple[str, bool]
Value = str | int | float | bool | None | list | dict
# The name of a member, its name in a question, and its value.
Field = tuple[str, str, Value]


@dataclass(frozen=True)
class JsonExchange:
    """A question and its answer in segments, each of which is tokenized separately."""

    question: str
    segments: tuple[Segment, ...]

    @property
    def answer(self) -> str:
        return "".join(text for text, _ in self.segments)


class JsonExchanges:
    """Draws questions that are answered with JSON objects."""

    def __init__(self, corpus: Corpus, rng: random.Random, exchanges: Exchanges) -> None:
        self._rng = rng
        self._exchanges = exchanges
        self._words = corpus.fields
        self._nouns = " ".join(corpus.fields["nouns"]).split()
        self._adjectives = corpus.words["adjectives"]
        self._subjects = " | ".join(corpus.fields["subjects"]).split(" | ")
        self._values = {"@names": corpus.first_names, "@cities": list(corpus.capitals.values())}
        self._held_out = load_held_out_names()
        self._copied = 0.0

    def draw(self) -> JsonExchange:
        """Draw a question with a JSON answer."""
        choice = self._rng.random()
        if choice < TAUGHT_SHARE:
            question, fields = self._taught()
        elif choice < TAUGHT_SHARE + PERSON_SHARE:
            question, fields = self._person()
        else:
            is_informed = self._rng.random() < INFORMED_SHARE
            # Values in the question can be anything, so that the model copies them.
            self._copied = COPIED_SHARE if is_informed else 0.0
            fields = self._fields(self._rng.choices(*FIELDS)[0])
            self._copied = 0.0
            question = self._question(fields, informed=is_informed)
        case = self._rng.choices((to_snake_case, to_camel_case, to_title_case), (0.78, 0.17, 0.05))[
            0
        ]
        writer = Writer(self._rng, case, spaced=self._rng.random() < SPACED_SHARE)
        writer.write({name: value for name, _, value in fields})
        return JsonExchange(question, tuple(writer.segments))

    def _fields(self, count: int, *, nested: bool = False) -> list[Field]:
        fields: dict[str, Field] = {}
        while len(fields) < count:
            kind = self._rng.choices(KINDS, SHARES)[0]
            if kind == "object" and nested:
                continue
            name, value = self._field(kind)
            if to_snake_case(name) not in self._held_out:
                fields.setdefault(name, (name, name, value))
        return list(fields.values())

    def _field(self, kind: str) -> tuple[str, Value]:
        names, _, values = self._rng.choice(self._words[kind]).partition(" = ")
        name = self._rng.choice(names.split(" | "))
        if self._rng.random() < MISTYPED_SHARE and kind != "object":
            kind_words = self._rng.choice(self._words[self._rng.choice(KINDS[:-1])])
            name = self._rng.choice(kind_words.partition(" = ")[0].split(" | "))
        if self._rng.random() < INVENTED_NAMES:
            name = self._invented(plural=kind == "list")
        if self._rng.random() < NULL_SHARE:
            return name, None
        return name, self._value(kind, values)

    def _invented(self, *, plural: bool) -> str:
        noun = self._rng.choice(self._nouns) + ("s" if plural else "")
        choice = self._rng.random()
        if choice < 0.3:
            return noun
        if choice < 0.6:
            return f"{self._rng.choice(self._nouns)} {noun}"
        if choice < 0.8:
            return f"{self._rng.choice(self._adjectives)} {noun}"
        return strip_article(self._exchanges.invented_word())

    def _value(self, kind: str, values: str) -> Value:
        if kind == "truth":
            return self._rng.random() < 0.5
        if kind == "object":
            inner = self._fields(self._rng.choices((1, 2, 3, 4), (10, 45, 35, 10))[0], nested=True)
            return {name: value for name, _, value in inner}
        if kind in ("whole", "decimal"):
            return self._number(kind, *map(int, values.split()))
        if kind == "list":
            return self._list(values)
        return self._text(values)

    def _number(self, kind: str, low: int, high: int) -> int | float:
        # The model does not see types, so any number may have to be an integer.
        if kind == "whole" or self._rng.random() < ROUND_SHARE:
            return self._rng.randint(low, high)
        return round(self._rng.uniform(low, high), self._rng.choice((1, 1, 2, 2, 2)))

    def _list(self, values: str) -> list[Value]:
        """Draw different items, or rarely one repeated item."""
        # After each item the end is more likely than another item. Otherwise temperature 0 would
        # repeat the most likely item forever.
        count = self._rng.choices(*ITEMS)[0]
        if self._rng.random() < REPETITION_SHARE:
            return [self._text(values)] * (self._rng.choices(*REPETITIONS)[0])
        return list(dict.fromkeys(self._text(values) for _ in range(count)))

    def _text(self, values: str) -> str:
        if self._rng.random() < self._copied:
            return strip_article(self._exchanges.unknown_phrase())
        choices = self._values.get(values) or values.split(" | ")
        if values == "@names" and self._rng.random() < 0.5:
            return self._exchanges.invented_name()
        return self._rng.choice(choices)

    def _question(self, fields: list[Field], *, informed: bool) -> str:
        """Draw a question that contains the values of the answer, or none of them."""
        subject = self._rng.choice(self._subjects)
        words = {"x": subject, "n": strip_article(subject), "fields": self._names(fields)}
        if informed:
            template = self._rng.choice(self._words["extracts"])
            return self._cased(template.format(**words, facts=self._facts(fields)))
        if self._rng.random() < 0.7:
            section = self._rng.choice(("asks", "asks", "asks-with-names"))
            template = self._rng.choice(self._words[section]).format(**words)
            return self._cased(template) + self._rng.choice(("", "", ".", "!", "?"))
        return self._exchanges.draw().question

    def _cased(self, text: str) -> str:
        return text[:1].upper() + text[1:] if self._rng.random() < 0.7 else text

    def _names(self, fields: list[Field]) -> str:
        names = [self._rng.choice((label, to_snake_case(name))) for name, label, _ in fields]
        if len(names) > 1 and self._rng.random() < 0.6:
            return f"{', '.join(names[:-1])} and {names[-1]}"
        return ", ".join(names)

    def _facts(self, fields: list[Field]) -> str:
        """Describe the members in sentences, sometimes incomplete or in another order."""
        flat = list(fields)
        for name, _, value in fields:
            if isinstance(value, dict):
                flat += [(key, f"{name} {key}", item) for key, item in value.items()]
        flat = [field for field in flat if not isinstance(field[2], dict | None)]
        if self._rng.random() < 0.3:
            self._rng.shuffle(flat)
        if len(flat) > 1 and self._rng.random() < 0.25:
            flat.pop(self._rng.randrange(len(flat)))
        template = self._rng.choice(self._words["facts"])
        sentences = []
        for _, label, value in flat:
            if self._rng.random() < 0.4:
                template = self._rng.choice(self._words["facts"])
            sentences.append(template.format(field=label, value=self._spell_value(value)))
        return " ".join(sentences).rstrip(",;")

    def _spell_value(self, value: Value) -> str:
        if isinstance(value, bool):
            return self._rng.choice(("yes", "true")) if value else self._rng.choice(("no", "false"))
        if isinstance(value, list):
            return self._rng.choice((", ", " and ")).join(map(str, value)) or "none"
        return str(value)

    def _person(self) -> tuple[str, list[Field]]:
        """Draw a name, an age and a city in a sentence, which users often try first."""
        known = {
            "name": self._text("@names"),
            "age": self._rng.randint(2, 98),
            "city": self._text("@cities"),
        }
        if self._rng.random() < 0.25:
            known["name"] += f" {self._rng.choice(('Smith', 'Lopez', 'Weber', 'Khan', 'Brown'))}"
        template = self._rng.choice(self._words["people"])
        names = [name for name in known if f"{{{name}}}" in template]
        fields: list[Field] = [(name, name, known[name]) for name in names]
        if len(fields) > 1 and self._rng.random() < 0.2:
            fields.pop(self._rng.randrange(len(fields)))
        if self._rng.random() < 0.2:
            self._rng.shuffle(fields)
        if self._rng.random() < 0.4:
            fields += [f for f in self._fields(self._rng.randint(1, 3)) if f[0] not in known]
        text = template.format(**known)
        if self._rng.random() < 0.5:
            request = self._rng.choice(self._words["extracts"])
            subject = self._rng.choice(self._subjects[:10])
            text = request.format(x=subject, fields=self._names(fields), facts=text)
        return self._cased(text), fields

    def _taught(self) -> tuple[str, list[Field]]:
        """Draw a question of the corpus, with its answer as a member."""
        choice = self._rng.random()
        if choice < 0.3:
            exchange = self._exchanges.sum()
            result = re.findall(r"\d+", exchange.answer)[-1]
            name = self._rng.choice(("result", "answer", "value", "sum", "solution", "number"))
            fields: list[Field] = [(name, name, int(result))]
        elif choice < 0.55:
            exchange = self._exchanges.capital()
            country, _, city = (
                exchange.answer.removeprefix("The capital of ").rstrip(".").rpartition(" is ")
            )
            name = self._rng.choice(("capital", "city", "answer", "name"))
            fields = [(name, name, city)]
            if self._rng.random() < 0.5:
                fields.insert(self._rng.randint(0, 1), ("country", "country", country))
        else:
            exchange = self._exchanges.draw()
            text = exchange.answer
            if text == HONEST or len(text) > MAX_TEXT:
                text = get_first_sentence(text)
            names = ("answer", "text", "summary", "response", "reply", "explanation", "message")
            name = self._rng.choice(names)
            fields = [(name, name, text if len(text) <= MAX_TEXT else "I do not know.")]
        more = self._rng.choices((0, 1, 2), (0.5, 0.35, 0.15))[0]
        taken = {name for name, _, _ in fields}
        fields += [field for field in self._fields(more) if field[0] not in taken]
        return exchange.question, fields


class Writer:
    """Writes JSON in segments that are split where the engine's grammar forces the next text.

    `case` spells the names. With `spaced` a space follows commas and colons.
    """

    def __init__(
        self, rng: random.Random, case: Callable[[str], str], *, spaced: bool = True
    ) -> None:
        self._rng = rng
        self._case = case
        self._space = " " if spaced else ""
        self.segments: list[Segment] = []

    def write(self, value: Value, end: str = "") -> None:
        """Write a value and the text after it."""
        if isinstance(value, dict):
            self._object(value, end)
            return
        separators = (f",{self._space}", f":{self._space}")
        text = json.dumps(value, ensure_ascii=False, separators=separators) + end
        forced = 0
        if not self._space:  # an opening quote is then one token with the text before it
            forced = len(text) - len(text.lstrip('["'))
        self._add(text[:forced], learned=False)
        if self._space and text[0] != "[" and self._rng.random() < APART_SHARE:
            # The grammar also accepts the space as a separate token.
            self._add(self._space, learned=False)
            if text[0] == '"':  # so that other tokens starting with a quote, such as '"],"', occur
                self.segments += [('"', True), (text[1:], True)]
            else:
                self._add(text)
            return
        self._add(self._space + text[forced:])

    def _object(self, members: dict[str, Value], end: str) -> None:
        self._add(f'{self._space if self.segments else ""}{{"', learned=False)
        for number, (name, value) in enumerate(members.items(), 1):
            self._name(self._case(name))
            self._add('":', learned=False)
            if number == len(members):
                self.write(value, "}" + end)
            elif self._space:
                self.write(value, ",")
                self._add(' "', learned=False)
            else:
                self.write(value, ',"')

    def _name(self, name: str) -> None:
        # The grammar accepts any tokenization of a name, so names are not always split as usual.
        cut = self._rng.randint(1, len(name)) if self._rng.random() < SPLIT_SHARE else len(name)
        self._add(name[:cut], learned=False)
        if name[cut:]:
            self.segments.append((name[cut:], False))

    def _add(self, text: str, *, learned: bool = True) -> None:
        """Extend the last segment, or start another."""
        if self.segments and self.segments[-1][1] == learned:
            text = self.segments.pop()[0] + text
        if text:
            self.segments.append((text, learned))


def to_snake_case(name: str) -> str:
    return name.replace(" ", "_")


def to_camel_case(name: str) -> str:
    first, *rest = name.split(" ")
    return first + "".join(word.capitalize() for word in rest)


def to_title_case(name: str) -> str:
    return name.capitalize()


def load_held_out_names() -> set[str]:
    """Load the names that must not occur in training."""
    sections = read_sections(HELD_OUT / "fields.txt")
    lines = [line.partition(":")[0] for kind in KINDS for line in sections[kind]]
    return set(" ".join(lines).split())
